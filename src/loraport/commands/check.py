"""`loraport check`: may a new adapter on a new model take the place of the old one?

Both answer the same test. With gold answers their scores are compared, item by item; without, it
is counted how often the new one gives the old one's answers. Exit status 0: DEPLOY; 3: RETRAIN or
UNDECIDED.
"""

import sys
from argparse import ArgumentParser, Namespace, _ArgumentGroup
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..evaluation.verdict import Settings, Verdict
    from ..upgrade.base import Limits

HELP = "may a new adapter take the place of the old one: DEPLOY, RETRAIN or UNDECIDED"
EXAMPLES = ("loraport check OLD old_adapter NEW new_adapter --test test.jsonl",)
OTHER_VERDICT = 3  # exit status where a verdict is not DEPLOY


def add_arguments(parser: ArgumentParser) -> None:
    """Both models with their adapters, and the test."""
    add = parser.add_argument
    add("old", metavar="OLD", help="the old model: a directory or a hub id")
    add("old_adapter", metavar="OLD_ADAPTER", type=Path, help="its adapter: a PEFT directory")
    add("new", metavar="NEW", help="the new model")
    add("new_adapter", metavar="NEW_ADAPTER", type=Path, help="the adapter to be judged")
    one = parser.add_mutually_exclusive_group(required=True)
    one.add_argument("--test", metavar="FILE", type=Path,
        help="prompts that nothing was trained on, with gold answers or without: JSONL with "
        "`prompt` or `messages`, and `completion`; or text, one prompt a line")  # fmt: skip
    one.add_argument("--task", metavar="NAME", action="append",
        help="a task of lm-evaluation-harness, by name or YAML file; may be repeated")  # fmt: skip
    add_template(parser)
    add("--data", default="", metavar="FOLDER", help="of --task: local copies of its data sets")
    add_judging(parser)
    add("--out", metavar="FILE", type=Path, default=Path("verdict.json"),
        help="where the verdict is written (default: verdict.json)")  # fmt: skip


def add_template(options: "ArgumentParser | _ArgumentGroup") -> None:
    """How records that are no prompts become such."""
    options.add_argument("--template", default="", metavar="NAME",
        help="records with `instruction` or `question`, and questions of tasks, are put so: "
        "question, llm_adapters, alpaca, or a format string such as 'Q: {question}\\nA:' "
        "(default: question for tasks; files must hold prompts)")  # fmt: skip


def template_of(arguments: Namespace) -> str:
    """The template that was named; of a format string `\\n` is a new line."""
    return str(arguments.template).replace("\\n", "\n")


def add_judging(parser: ArgumentParser, not_these: str = "") -> None:
    """What `check` and `upgrade` have in common.

    Parameters
    ----------
    not_these : what the texts that the verdict reads are not to be taken for
    """
    add = parser.add_argument_group("verdict").add_argument
    add("--match", default="exact", metavar="HOW",
        help="how answers are compared: exact (default), number, choice, json, contains or "
        "rouge")  # fmt: skip
    add("--margin", type=float, default=2.0, metavar="POINTS",
        help="points of 100 that the new adapter may be worse (default: 2)")  # fmt: skip
    add("--temperature", type=float, default=0.7, metavar="T",
        help="without gold answers: at which the old adapter's agreement with itself is counted "
        "(default: 0.7)")  # fmt: skip
    add("--limit", type=int, default=0, metavar="N", help="the first N items of the test only")
    add("--texts", type=Path, metavar="FILE",
        help="generic texts, one a line: the verdict tells how many nats a token the adapters cost "
        f"on them, which decides nothing (default: none){not_these}")  # fmt: skip
    add = parser.add_argument_group("running the models").add_argument
    add("--batch-size", type=int, default=64, metavar="N", help="prompts at a time (default: 64)")
    add("--max-tokens", type=int, default=512, metavar="N",
        help="tokens of a prompt (default: 512)")  # fmt: skip
    add("--new-tokens", type=int, default=128, metavar="N",
        help="tokens of an answer (default: 128)")  # fmt: skip
    add("--device", default="auto", metavar="NAME", help="auto (default), cpu or cuda")
    add("--dtype", default="auto", metavar="NAME", help="auto (default), float32 or bfloat16")
    add("--generator", default="auto", metavar="NAME",
        help="what writes answers: auto (default: vllm where it is installed, there is a GPU, and "
        "20,000 or more are to be written), transformers or vllm")  # fmt: skip


def judge(arguments: Namespace) -> "Verdict":
    """Judge, and write verdict.json."""
    from ..evaluation.verdict import Settings, write_verdict
    from ..upgrade import generators

    generators.check(arguments.generator)
    settings = Settings(arguments.margin, match=arguments.match, temperature=arguments.temperature)
    by = _by_tasks if arguments.task else _by_file
    verdict, wrote = by(arguments, settings)
    about: dict[str, Any] = {
        "old": arguments.old,
        "old_adapter": str(arguments.old_adapter),
        "new": arguments.new,
        "new_adapter": str(arguments.new_adapter),
        "test": ", ".join(arguments.task or [str(arguments.test)]),
        "match": arguments.match,
    }
    about |= wrote
    if wrote:
        print(generators.line(wrote), file=sys.stderr)
    write_verdict(arguments.out, verdict, about=about)
    return verdict


def run(arguments: Namespace) -> int:
    """Judge, write verdict.json, and say what it holds."""
    from ..evaluation.verdict import DEPLOY

    verdict = judge(arguments)
    print(f"{verdict.verdict}  {verdict.why}")
    if costs := verdict.evidence.get("generic_text"):
        print(
            f"On generic text the new adapter costs {costs['new_nats_a_token']:+.3f} nats a token, "
            f"the old one {costs['old_nats_a_token']:+.3f}."
        )
    print(f"All numbers: {arguments.out}")
    return 0 if verdict.verdict == DEPLOY else OTHER_VERDICT


def _by_file(arguments: Namespace, settings: "Settings") -> tuple["Verdict", dict[str, Any]]:
    """Verdict on a file of prompts, and what wrote the answers."""
    from ..upgrade import generators
    from ..upgrade.base import Base
    from ..upgrade.generators import Wanted
    from ..upgrade.prompts import read_prompts
    from ..upgrade.verify import answers_to, check_yardstick, old_answers, verify

    test = read_prompts(arguments.test, template_of(arguments))
    test = test[: arguments.limit or len(test)]
    texts = generic_texts(arguments.texts)
    many, name = answers_to(test), arguments.generator
    old = Base.load(
        model_folder(arguments.old),
        limits(arguments),
        Wanted(name, many["old"], (arguments.old_adapter,)),
        **place(arguments),
    )
    with closing(old):
        answered = old_answers(
            old, arguments.old_adapter, test, texts, temperature=settings.temperature
        )
        check_yardstick(answered, test, settings)
    wrote = {"old": old.wrote}
    del old
    new = Base.load(
        model_folder(arguments.new),
        limits(arguments),
        Wanted(name, many["new"], (arguments.new_adapter,)),
        **place(arguments),
    )
    with closing(new):
        verdict, _ = verify(new, arguments.new_adapter, answered, test, texts, settings)
    return verdict, generators.told({**wrote, "new": new.wrote})


def _by_tasks(arguments: Namespace, settings: "Settings") -> tuple["Verdict", dict[str, Any]]:
    """Verdict on tasks of lm-evaluation-harness, which asks transformers; nothing is counted."""
    from tempfile import TemporaryDirectory

    from ..errors import LoraportError
    from ..upgrade.generators import ALONE, AUTO
    from ..upgrade.scored import Scoring, verdict_by_scores
    from ._one_run import workflow_root

    if arguments.generator not in (AUTO, ALONE):
        raise LoraportError(
            "tasks are scored by lm-evaluation-harness, which writes answers by transformers",
            got=f"--generator {arguments.generator} with --task",
            expected=f"{AUTO} or {ALONE}",
            todo="leave --generator out, or give the test as a file (--test)",
        )
    scored = {"limit": arguments.limit, "data_dir": arguments.data, **place(arguments)}
    folders = [model_folder(source) for source in (arguments.old, arguments.new)]
    adapters = [arguments.old_adapter, arguments.new_adapter]
    with TemporaryDirectory(prefix="loraport-") as kept:
        task = {"eval": arguments.task, "template": template_of(arguments) or "question"}
        tasks_dir = str(workflow_root() / "resources" / "tasks")
        verdict = verdict_by_scores(
            folders, adapters, Scoring(task, tasks_dir, scored, kept), settings
        )
        return verdict, {}


def limits(arguments: Namespace) -> "Limits":
    """How much is read and written at a time, as asked for."""
    from ..upgrade.base import Limits

    return Limits(arguments.batch_size, arguments.max_tokens, arguments.new_tokens)


def place(arguments: Namespace) -> dict[str, str]:
    """Where a model is put, as asked for."""
    return {"device": arguments.device, "dtype": arguments.dtype}


def model_folder(source: str) -> Path:
    """The folder of a model, fetched where it is one of the hub."""
    from ..models.spec import resolve

    return resolve(source)[0]


def generic_texts(path: Path | None, most: int = 64) -> list[str]:
    """Generic texts of a file, the first ones; none without a file."""
    from ..calibration.texts import read_texts

    return read_texts(path, most) if path else []
