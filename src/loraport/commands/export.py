"""`loraport export`: an adapter in the form that a server or the hub takes.

--gguf writes it for llama.cpp, --vllm checks it and prints the line that serves it, --hub lays out
what would be sent and sends it with --push.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ..errors import LoraportError

if TYPE_CHECKING:
    from ..models.spec import Model

HELP = "an adapter for llama.cpp (GGUF), vLLM or the hub"
EXAMPLES = (
    "loraport export carried --gguf carried.gguf",
    "loraport export upgraded/tickets upgraded/mails --vllm --max-lora-rank 32",
    "loraport export carried --vllm --stand-in 64 --out served",
    "loraport export carried --hub me/tickets-qwen3",
    "loraport export carried --hub me/tickets-qwen3 --push",
)


def add_arguments(parser: ArgumentParser) -> None:
    """The adapters, the form, and what belongs to it."""
    add = parser.add_argument
    add(
        "adapters", metavar="DIR", nargs="+", help="PEFT directories or hub ids; several for --vllm"
    )
    one = parser.add_mutually_exclusive_group(required=True)
    one.add_argument("--gguf", metavar="OUT", type=Path, help="write it as GGUF, for llama.cpp")
    one.add_argument("--vllm", action="store_true",
        help="say what vLLM would refuse or read wrongly, and print its command line")  # fmt: skip
    one.add_argument("--hub", metavar="OWNER/NAME", help="say what would be sent to the hub")
    add("--base", default="", help="the base model: a folder or a hub id (default: as recorded)")
    add("--max-lora-rank", type=int, default=0, metavar="N",
        help="of --vllm: the server's (default: the smallest that serves)")  # fmt: skip
    add("--out", metavar="FOLDER", type=Path,
        help="of --vllm: write the adapter as plain LoRA of one rank and scale")  # fmt: skip
    add("--stand-in", type=int, default=0, metavar="RANK",
        help="of --vllm, with --out: write whole embeddings and heads as LoRA of this rank, and "
        "say how much of their change that keeps")  # fmt: skip
    add("--push", action="store_true", help="of --hub: send it")
    add("--private", action="store_true", help="of --hub --push: make a new repository private")


def run(arguments: Namespace) -> int:
    """Export, and say what was done."""
    from ..models.spec import adapter_directory

    folders = [Path(adapter_directory(each)) for each in arguments.adapters]
    if arguments.vllm:
        return _vllm(folders, arguments)
    if len(folders) > 1:
        raise LoraportError(
            "several adapters are exported together for vLLM alone",
            got=f"{len(folders)} adapters",
            expected="one",
            todo="run it for each",
        )
    return _hub(folders[0], arguments) if arguments.hub else _gguf(folders[0], arguments)


def _gguf(folder: Path, arguments: Namespace) -> int:
    from ..adapters.base_names import hub_id
    from ..export.gguf_file import export_gguf

    model, source = _base(folder, arguments)
    done = export_gguf(folder, model, arguments.gguf, hub_id(source))
    print(f"{arguments.gguf}: {done.modules} modules for {done.architecture}, alpha {done.alpha:g}")
    if done.rescaled:
        print(f"{done.rescaled} modules have another scale: it is multiplied into their B")
    print("Read back, and every value is as it was written. Serve it with:")
    print(f"  llama-server -m BASE.gguf --lora {arguments.gguf}")
    return 0


def _base(folder: Path, arguments: Namespace) -> tuple["Model", str]:
    """The base model of an adapter, by its config alone, and where it is."""
    from ..adapters.files import read_config
    from ..models.spec import open_model, resolve

    config = read_config(folder)
    source = arguments.base or str(config.get("base_model_name_or_path") or "")
    if not source:
        raise LoraportError(
            f"adapter {folder} does not record its base model",
            expected="base_model_name_or_path in adapter_config.json",
            todo="name it: --base MODEL",
        )
    revision = "" if arguments.base else str(config.get("revision") or "")
    try:
        directory, _ = resolve(source, revision, patterns=["config.json"])
    except LoraportError as error:
        raise LoraportError(
            f"the base model {source!r} can't be looked at",
            got=f"{error.what}: {error.got}" if error.got else error.what,
            expected="a directory, or a hub id, whose config.json can be read",
            todo="name it: --base MODEL",
        ) from error
    return open_model(directory), source


def _vllm(folders: list[Path], arguments: Namespace) -> int:
    from ..export import vllm
    from ._names import distinct_names

    names = distinct_names(folders)
    if arguments.stand_in and not arguments.out:
        raise LoraportError(
            "--stand-in writes another adapter, and --out does not say where",
            todo="add --out FOLDER",
        )
    if arguments.out:
        folders = _rewritten(folders, names, arguments)
    most = arguments.max_lora_rank
    served = [
        vllm.check_served(folder.resolve(), name, most)
        for folder, name in zip(folders, names, strict=True)
    ]
    print(vllm.serve_line(served, most))
    for note in vllm.notes(folders):
        print(f"note: {note}")
    return 0


def _rewritten(folders: list[Path], names: list[str], arguments: Namespace) -> list[Path]:
    """Copies of adapters in plain LoRA, below --out where there are several."""
    from ..artifacts import atomic
    from ..export import stand_in, vllm
    from ._one_run import check_outs

    several = len(folders) > 1
    outs = [arguments.out / name if several else arguments.out for name in names]
    check_outs(outs)
    for folder, out in zip(folders, outs, strict=True):
        model, source = _base(folder, arguments)
        with TemporaryDirectory(prefix="loraport-") as copy, atomic(out) as temporary:
            temporary.mkdir()
            made, given = [], folder
            if arguments.stand_in:
                model = stand_in.with_weights(model, source)
                tokens = stand_in.split_tokens(folder, Path(copy))
                given = Path(copy) if tokens.rows else folder
                made = stand_in.stand_ins(given, model, arguments.stand_in)
                made += stand_in.of_tokens(tokens, model, arguments.stand_in)
            extra = {each.path: each.weights for each in made}
            vllm.write_plain(given, model, temporary, extra)
        for each in made:
            print(each.told())
    return outs


def _hub(folder: Path, arguments: Namespace) -> int:
    from ..export import hub

    with TemporaryDirectory(prefix="loraport-") as staged:
        plan = hub.stage(folder, arguments.hub, Path(staged), arguments.base)
        verb = "Sent" if arguments.push else "Would send"
        address = hub.push(Path(staged), plan, private=arguments.private) if arguments.push else ""
        print(f"{verb} to {plan.repository}, an adapter of {plan.base}:")
        for name, size in plan.sizes.items():
            print(f"  {name:<28} {size:>12,} bytes")
        for name, why in plan.left.items():
            print(f"  {name:<28} stays here: {why}")
    print(address if address else "Nothing was sent: --push sends it.")
    return 0
