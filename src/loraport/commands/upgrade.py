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

FEW = 5  # adapters whose reasons are all told


def add_arguments(parser: ArgumentParser) -> None:
    """Models, adapters, prompts, and how it is done."""
    add = parser.add_argument
    add("old", metavar="OLD", help="the adapters' base model: a directory or a hub id")
    add("new", metavar="NEW", help="the model to bring them to: a directory or a hub id")
    add("adapters", metavar="ADAPTER", nargs="+", type=Path, help="PEFT directories")
    add("out", metavar="OUT", type=Path, help="folder; of several adapters a subfolder each")
    prompts = parser.add_argument_group("prompts")
    data = prompts.add_argument
    data("--prompts", metavar="FILE", type=Path, required=True, action="append",
         help="prompts of the task, better some hundreds: JSONL with `prompt` or `messages`, and "
         "maybe `completion`; or text, one a line. One file for all adapters, or one for each in "
         "their order")  # fmt: skip
    data("--test", metavar="FILE", type=Path, action="append", default=[],
         help="a test with gold answers, likewise; without, the verdict rests on agreement with "
         "the old adapter on prompts that are set apart. Of 256 items or more, 64 choose the "
         "teacher where --teacher is auto, and nothing else")  # fmt: skip
    check.add_template(prompts)
    data("--use", type=int, default=400, metavar="N",
         help="prompts taught or held back, at most (default: 400)")  # fmt: skip
    data("--at-least", type=int, default=100, metavar="N",
         help="prompts taught; where fewer are given, a model writes more (default: 100; 0: none "
         "are written)")  # fmt: skip
    teaching = parser.add_argument_group("teaching").add_argument
    teaching("--teacher", default="auto", metavar="NAME",
             help="auto (default), context, delta, old or on_policy")  # fmt: skip
    teaching("--soft", action="store_true",
             help="teacher old: its probabilities, not its text alone")  # fmt: skip
    teaching("--alpha", type=float, default=1.0, metavar="X",
             help="teacher delta: strength of the old change (default: 1)")  # fmt: skip
    teaching("--shots", type=int, default=8, metavar="N",
             help="teacher context: demonstrations (default: 8)")  # fmt: skip
    teaching("--start", action="append", default=[], metavar="METHOD",
             help="transfer method of a start that is tried; may be repeated; `nothing`: none is "
             "carried (default: aligned)")  # fmt: skip
    teaching("--rates", default="3e-4,1e-3,3e-3", metavar="X,X",
             help="learning rates that are tried (default: 3e-4,1e-3,3e-3)")  # fmt: skip
    teaching("--epochs", type=int, default=16, metavar="N",
             help="of the best rate, at most (default: 16)")  # fmt: skip
    teaching("--minutes", type=float, default=0.0, metavar="N",
             help="for each adapter; 0: no limit (default)")  # fmt: skip
    teaching("--seed", type=int, default=0, metavar="N",
             help="of the choice of prompts and of the teaching (default: 0)")  # fmt: skip
    check.add_judging(parser, "; not the texts of --calibration")
    carrying = parser.add_argument_group("carrying").add_argument
    carrying("--calibration", default="", metavar="FILE",
             help="calibration texts, one a line, that both models read so that adapters can be "
         "carried (default: Wikitext-2); `loraport transfer` calls it --texts")  # fmt: skip
    carrying("--known-as", action="append", default=[], metavar="NAME",
             help="a name under which the adapters may record OLD; may be repeated")  # fmt: skip
    carrying("--work", type=Path, default=Path(), metavar="FOLDER",
             help="folder of artifacts/ (default: this one)")  # fmt: skip
    carrying("--cores", type=int, default=os.cpu_count(), metavar="N",
             help="for the workflow (default: all)")  # fmt: skip
    several = parser.add_argument_group("several adapters").add_argument
    several("--skip-bad", action=BooleanOptionalAction, default=None,
            help="one that fails gets a row and stops no other (default for several)")  # fmt: skip
    several("--strict", dest="skip_bad", action="store_false", help="the same as --no-skip-bad")


def run(arguments: Namespace) -> int:
    """Upgrade all adapters, print their table, and write it."""
    from ..evaluation.verdict import DEPLOY
    from ..report.terminal import WIDTH, in_lines, table
    from ..upgrade import fleet
    from . import _fleet_run

    rows = _fleet_run.upgrade_all(arguments)
    print(table(fleet.TOLD, map(fleet.cells, rows)))
    print(f"\n{fleet.ABOUT_SCORES}")
    reasons = rows if len(rows) <= FEW else [row for row in rows if row.verdict == fleet.FAILED]
    for each in reasons:
        print(f"\n{in_lines(f'{each.name}: {each.verdict}. {each.why}', WIDTH)}")
    if len(reasons) < len(rows):
        print(f"\nThe reason of each verdict: {arguments.out / 'fleet.csv'}")
    print("\nWhat changed, item by item, as a page:")
    print(f"  {shlex.join(['loraport', 'report', str(arguments.out)])}")
    if good := next((row.name for row in rows if row.verdict == DEPLOY), ""):
        folder = arguments.out / good if len(rows) > 1 else arguments.out
        print("\nServe one that may be deployed:")
        print(f"  {shlex.join(['loraport', 'export', str(folder), '--vllm'])}")
    return 0 if fleet.all_deployed(rows) else check.OTHER_VERDICT
