"""Measured cases for the advice (`loraport.advice`), from benchmarks/results/smollm2.json.

    python benchmarks/smollm2/cases.py [--results FILE] [--folder src/loraport/report/measured]

What a method kept is told by the nats of worked answers, where they were measured for the bare new
model and for LoRA(full): the sets' own gold is a bare number or letter here (`likelihood.py`).
"""

import argparse
import json
from pathlib import Path
from typing import Any

from asked import ROOT

from loraport.artifacts import atomic
from loraport.report.cases import MEASURED, RANKED_BY, make_case

RESULTS = ROOT / "benchmarks" / "results" / "smollm2.json"
BY = "benchmarks/smollm2/run.sh"
Row = dict[str, Any]


def by_worked(rows: list[Row]) -> list[Row]:
    """Rows whose likelihood is that of worked answers, with the share of LoRA(full)'s gain kept;
    none where the two that this is measured between are not there.
    """
    ends = {row["stage"]: row.get("worked") for row in rows if not row["method"]}
    bare, full = ends.get("new"), ends.get("lora_full")
    if bare is None or full is None:
        return []
    found = []
    for row in rows:
        kept = {name: held for name, held in row.items() if not name.startswith("nll")}
        if row.get("worked") is not None:
            kept["nll"] = row["worked"]
            kept[RANKED_BY] = (bare - row["worked"]) / (bare - full)
            for end in ("", "_low", "_high"):
                kept[f"nll_difference{end}"] = row.get(f"worked_difference{end}")
        found.append(kept)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--folder", type=Path, default=MEASURED)
    given = parser.parse_args()
    held = json.loads(given.results.read_text())
    examples = held["settings"]["finetune"]["examples"]
    for name, measured in held["apps"].items():
        pair, app = name.split("/")
        rows = by_worked(measured["rows"])
        if not rows:
            print(f"{name}: no worked answers were scored")
            continue
        case = make_case(held["diagnostics"][pair][f"{app}/advice"], rows, BY, examples)
        case = {**case, "nll": "of worked answers"}
        with atomic(given.folder / f"smollm2_{pair}.{app}.{examples}.json") as temporary:
            temporary.write_text(json.dumps({**case, "pair": f"smollm2_{pair}"}, indent=1) + "\n")
        print(f"{name}: {len(case['methods'])} methods")


if __name__ == "__main__":
    main()
