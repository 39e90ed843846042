"""`loraport upgrade`: adapters from an old model to a new one, taught without labels, and verified.

Each adapter is carried by the workflow, taught from the best start by a teacher, and compared with
the old one on prompts that it never saw. Both models are loaded once for all adapters. A run that
was killed goes on after the last adapter that it finished. Exit status 0: all DEPLOY; 3: others.
"""

import os
import shlex
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from pathlib import Path

from . import check

HELP = "carry, teach and verify adapters, without labels: DEPLOY, RETRAIN or UNDECIDED"
EXAMPLES = (
    "loraport upgrade OLD NEW adapter upgraded --prompts prompts.jsonl",
    "loraport upgrade OLD NEW tickets mails upgraded --prompts a.txt --prompts b.txt --minutes 10",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Models, adapters, prompts, and how it is done."""
    add = parser.add_argument
    add("old", metavar="OLD", help="the adapters' base model: a directory or a hub id")
    add("new", metavar="NEW", help="the model to bring them to: a directory or a hub id")
    add("adapters", metavar="ADAPTER", nargs="+", type=Path, help="PEFT directories")
    add("out", metavar="OUT", type=Path, help="folder; of several adapters a subfolder each")
    add("--prompts", metavar="FILE", type=Path, required=True, action="append",
        help="prompts of the task, better some hundreds: JSONL with `prompt` or `messages`, and "
        "maybe `completion`; or text, one a line. One file for all adapters, or one for each in "
        "their order")  # fmt: skip
    add("--test", metavar="FILE", type=Path, action="append", default=[],
        help="a test with gold answers, likewise; without, the verdict rests on agreement with "
        "the old adapter on prompts that are set apart")  # fmt: skip
    add("--teacher", default="auto", help="auto (default), old, delta, context or on_policy")
    add("--soft", action="store_true", help="teacher old: its probabilities, not its text alone")
    add("--alpha", type=float, default=1.0, help="teacher delta: strength of the old change")
    add("--shots", type=int, default=8, help="teacher context: demonstrations (default: 8)")
    add("--start", action="append", default=[], metavar="METHOD",
        help="transfer method of a start that is tried; may be repeated; `nothing`: none is "
        "carried (default: aligned)")  # fmt: skip
    add("--rates", default="3e-4,1e-3,3e-3", help="learning rates that are tried")
    add("--epochs", type=int, default=16, help="of the best rate, at most (default: 16)")
    add("--use", type=int, default=400, metavar="N", help="prompts taught (default: 400)")
    add("--at-least", type=int, default=100, metavar="N",
        help="prompts taught; where fewer are given, the adapted old model writes more "
        "(default: 100; 0: none are written)")  # fmt: skip
    add("--minutes", type=float, default=0.0, help="for each adapter; 0: no limit (default)")
    add("--seed", type=int, default=0)
    add("--skip-bad", action=BooleanOptionalAction, default=None,
        help="one that fails gets a row and stops no other (default for several)")  # fmt: skip
    add("--strict", dest="skip_bad", action="store_false", help="the same as --no-skip-bad")
    check.add_judging(parser)
    add("--calibration", default="",
        help="file of texts for the carrying, one a line (default: Wikitext-2)")  # fmt: skip
    add("--known-as", action="append", default=[],
        help="a name under which the adapters may record OLD; may be repeated")  # fmt: skip
    add("--cores", type=int, default=os.cpu_count(), help="for the workflow (default: all)")
    add("--work", type=Path, default=Path(), help="folder of artifacts/ (default: this one)")


def run(arguments: Namespace) -> int:
    """Upgrade all adapters, print their table, and write it."""
    from ..report.terminal import table
    from ..upgrade import fleet
    from . import _fleet_run

    rows = _fleet_run.upgrade_all(arguments)
    print(table(fleet.TOLD, map(fleet.cells, rows)))
    for each in rows:
        print(f"\n{each.name}: {each.verdict}. {each.why}")
    print("\nWhat changed, item by item, as a page:")
    print(f"  {shlex.join(['loraport', 'report', str(arguments.out)])}")
    return 0 if fleet.all_deployed(rows) else check.OTHER_VERDICT
