"""Tells an app's advice in four sentences:

    python -m loraport.advice artifacts/{pair}/{app}/advice.json

and adds a measured case to what advice rests on:

    python -m loraport.advice artifacts/{pair}/{app}/advice.json \\
        artifacts/{pair}/tables/{app}.methods.csv --by "the command that made the table"
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from .artifacts import atomic, read_json
from .errors import LoraportError
from .report import render
from .report.advice import in_short
from .report.cases import MEASURED, make_case


def main(arguments: Sequence[str]) -> int:
    """Tell an advice in short, or add a measured case; status 2 where it can't be read."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m loraport.advice", description=__doc__, formatter_class=form
    )
    parser.add_argument("advice", help="advice.json of the app")
    parser.add_argument("table", nargs="?", help="its comparison of methods, {app}.methods.csv")
    parser.add_argument("--by", default="", help="the command that made the table")
    parser.add_argument("--examples", type=int, default=100, help="that were fine-tuned on")
    parser.add_argument("--folder", type=Path, default=MEASURED, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.table and not asked.by:
        parser.error("a case needs the command that made its table: --by")
    try:
        advised = read_json(asked.advice, "advice")
        if not asked.table:
            print("\n".join(in_short(advised, asked.advice)))
            return 0
        case = make_case(advised, render.read_csv(asked.table), asked.by, asked.examples)
    except LoraportError as error:
        print(error, file=sys.stderr)
        return 2
    path = asked.folder / f"{case['pair']}.{case['app']}.{case['examples']}.json"
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(case, indent=1, allow_nan=False) + "\n")
    print(f"{path}: {len(case['methods'])} methods")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
