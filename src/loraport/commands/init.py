"""`loraport init`: a configuration for one's own models, adapters and data.

What is not given is asked, where the command runs on a terminal. The file says what the workflow
needs and no more. All that can be checked is checked before it is written.
"""

import os
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import LoraportError

HELP = "write a configuration for your own models, adapters and data"
EXAMPLES = (
    "loraport init --old Qwen/Qwen1.5-1.8B --new Qwen/Qwen2.5-3B --adapter tickets "
    "--train a.jsonl --test b.jsonl --score exact",
)
QUESTIONS = {
    "old": "The model that the adapters belong to (a folder, or owner/name)",
    "new": "The model to carry them to",
    "adapter": "Adapters, PEFT folders or owner/name (several: spaces between them)",
    "train": "Records to fine-tune on, .jsonl (empty: none)",
    "test": "Records to score on, .jsonl (empty: none)",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Models, adapters and data, each by its own name."""
    add = parser.add_argument
    add("--old", metavar="MODEL", help="the adapters' base model: a folder or a hub id")
    add("--new", metavar="MODEL", help="the model to carry them to")
    add("--adapter", metavar="ADAPTER", nargs="+", help="PEFT folders or hub ids")
    add("--train", metavar="FILE", help="records to fine-tune on: .jsonl, or a data set of the hub")
    add("--test", metavar="FILE", help="records to score on, .jsonl")
    scores = "exact (default), number, choice, json, contains, rouge, or a harness YAML"
    add("--score", default="exact", metavar="SCORE", help=scores)
    texts = "calibration texts, one a line, that both models read (default: Wikitext-2)"
    add("--texts", metavar="FILE", help=texts)
    add("--method", default="lorasuite", help="transfer method (default: lorasuite)")
    names = "a name under which the adapters may record OLD; may be repeated"
    add("--known-as", metavar="NAME", action="append", default=[], help=names)
    written = "the file to write (default: loraport.yaml); adapters go to a .tsv beside it"
    add("--config", metavar="FILE", type=Path, default=Path("loraport.yaml"), help=written)


def run(arguments: Namespace) -> int:
    """Write both files, and say what to do next."""
    from ._one_run import Request, workflow_root

    _ask(arguments)
    path, table = arguments.config, arguments.config.with_suffix(".tsv")
    _check_free(path, table)
    request = Request(
        old=arguments.old,
        new=arguments.new,
        adapters=tuple(map(Path, arguments.adapter)),
        outs=(),
        method=arguments.method,
    )
    root = workflow_root()
    _check(arguments, request, root)
    path.parent.mkdir(parents=True, exist_ok=True)
    table.write_text(_table(arguments, request, path.parent))
    path.write_text(_text(_content(arguments, request, root, path.parent), table, root))
    print(f"Written: {path} and {table}\n\n{_next_steps(arguments, request, root)}")
    return 0


def _ask(arguments: Namespace) -> None:
    """Ask for what is needed and was not given; without a terminal, refuse what is missing."""
    needed = [name for name in ("old", "new", "adapter") if not getattr(arguments, name)]
    asks = sys.stdin.isatty() and sys.stdout.isatty()
    for name in [*needed, *(["train", "test"] if needed else [])] if asks else []:
        if not getattr(arguments, name):
            said = input(f"{QUESTIONS[name]}: ").strip()
            setattr(arguments, name, said.split() if name == "adapter" else said)
    if missing := [name for name in needed if not getattr(arguments, name)]:
        raise LoraportError(
            "the configuration needs both models and an adapter",
            got=f"no {', no '.join(f'--{name}' for name in missing)}",
            expected="what they are: folders, or owner/name on the hub",
            todo=f"name them, as in: {EXAMPLES[0]}; on a terminal, `loraport init` asks",
        )


def _check_free(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise LoraportError(
                f"{path} is there already",
                got="a file of that name",
                expected="none, so that nothing of yours is lost",
                todo="name another one with --config, or remove it",
            )


def _task(arguments: Namespace, request: Any) -> str:
    """Name of the adapters' task; empty where there are no data."""
    if not (arguments.train or arguments.test):
        return ""
    return request.apps[0] if len(request.apps) == 1 else "task"


def _content(arguments: Namespace, request: Any, root: Path, place: Path) -> dict[str, Any]:
    """Content of a configuration in `place`; what is not in it is as the schema's defaults say."""
    import yaml

    shipped = yaml.safe_load((root / "config" / "config.yaml").read_text())
    texts = _seen(arguments.texts, place) or shipped["calibration"]["texts"]
    content: dict[str, Any] = {
        "models": {
            request.models[side]: {"source": _seen(getattr(request, side), place)}
            for side in ("old", "new")
        },
        "pairs": {request.pair: dict(request.models)},
        "run": [request.pair],
        "adapters": arguments.config.with_suffix(".tsv").name,
        "calibration": {"texts": texts},
        "transfer": {"method": arguments.method},
    }
    if arguments.known_as:
        content["models"][request.models["old"]]["known_as"] = arguments.known_as
    if task := _task(arguments, request):
        keys = ["train", "test", *(["score"] if arguments.test else [])]
        given = {key: _seen(getattr(arguments, key), place) for key in keys}
        content["tasks"] = {task: {key: value for key, value in given.items() if value}}
    return content


def _table(arguments: Namespace, request: Any, place: Path) -> str:
    """The adapters table in `place`."""
    rows = [("app", "model", "source", "task")]
    for app, source in zip(request.apps, arguments.adapter, strict=True):
        task = _task(arguments, request)
        rows.append((app, request.models["old"], _seen(source, place), task))
    return "".join("\t".join(row) + "\n" for row in rows)


def _seen(source: str | None, place: Path) -> str:
    """What is on this disk as seen from a folder, whole where it is outside."""
    if not source or not Path(source).exists():
        return source or ""
    relative = os.path.relpath(source, place)
    return str(Path(source).absolute()) if relative.startswith("..") else relative


def _check(arguments: Namespace, request: Any, root: Path) -> None:
    """Refuse what the workflow would refuse while it is planned: all of it at once."""
    from ..planning import checks

    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "adapters.tsv"
        table.write_text(_table(arguments, request, Path()))
        content = {**_content(arguments, request, root, Path()), "adapters": str(table)}
        config = checks.load(content, root / "workflow" / "schemas")
    if problems := list(_problems(config, root)):
        lines = "\n".join(f"- {each}" for each in problems)
        raise LoraportError(f"nothing was written, for {len(problems)} reason(s):\n{lines}")


def _problems(config: Any, root: Path) -> Iterator[LoraportError]:
    """What is wrong with models, adapters and data that are at hand."""
    from ..models.spec import is_local
    from ..planning import preflight, tasks

    for name in config.content["models"]:
        try:
            preflight.check_model(config.model(name)["source"])
        except LoraportError as error:
            yield error
    for (_, model), row in config.adapters.items():
        try:
            if is_local(row["source"]):
                known_as = config.known_as(model)
                preflight.check_adapter(row["source"], config.model(model)["source"], known_as)
        except LoraportError as error:
            yield error
    for name, task in config.content["tasks"].items():
        whole = tasks.completed(name, task)
        yield from tasks.problems(config, whole, root / "resources" / "tasks")


def _text(content: dict[str, Any], table: Path, root: Path) -> str:
    """The configuration as YAML, with a word on each part."""
    import yaml

    about = {
        "models": "name -> a folder, or owner/name of the hub",
        "pairs": "name -> adapters of the old model are carried to the new one",
        "run": "pairs that the workflow builds when no target is named",
        "adapters": f"{table.name} lists them: app, model, source, task",
        "calibration": "texts that both models read",
        "transfer": "how an adapter passes through the maps",
        "tasks": "name -> records to train and to score on, and when an answer is right",
    }
    parts = [
        f"# {about[key]}\n{yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True)}"
        for key, value in content.items()
    ]
    first = "# Written by `loraport init`. Paths are relative to this file. Other keys, with what\n"
    return f"{first}# they do, are in {root / 'config' / 'config.yaml'}\n\n" + "\n".join(parts)


def _next_steps(arguments: Namespace, request: Any, root: Path) -> str:
    """Commands that work when pasted."""
    import shlex

    from ..planning import layout

    given = [] if root == Path.cwd() else ["--snakefile", str(root / "Snakefile")]
    command = ["snakemake", "--cores", str(os.cpu_count() or 1), *given]
    command += ["--configfile", str(arguments.config)]
    line = f"  {shlex.join(command)}"
    lines = ["Carry every adapter:", line]
    if arguments.test:
        target = f"{layout.path(layout.TABLE, pair=request.pair, app=request.apps[0])}.csv"
        lines += ["Carry, fine-tune and score one:", f"{line} -- {target}"]
    lines += ["See what would run: the same with -n."]
    return "\n".join(lines)
