"""What was measured of transfers, one file each in `measured/`: what advice and figures rest on."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import methods
from . import render

MEASURED = Path(__file__).parent / "measured"
RANKED_BY = "nll_retention"  # what methods are ranked by: defined where scores tell nothing apart
NUMBERS = (
    *("average", "low", "high", "nll"),
    *(f"{of}{end}" for of in ("retention", RANKED_BY, "difference", "nll_difference")
      for end in ("", "_low", "_high")),
    *("p_low", "p_high", "seeds"),
)  # fmt: skip
# fact -> how a figure names it; more means further apart
DISTANCES = {
    "distance": "model distance (equal shapes)",
    "path_dissimilarity": "1 − mean CKA along the path",
    "residual": "residual of the embedding map",
}
Case = dict[str, Any]


def read_cases(folder: str | Path = MEASURED) -> list[Case]:
    """All measured cases, by name."""
    return [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]


def make_case(
    advised: Mapping[str, Any], table: Sequence[Mapping[str, Any]], by: str, examples: int
) -> Case:
    """A case from an app's advice.json (for its facts) and its comparison of methods.

    Parameters
    ----------
    by : the command that made the table
    examples : size of the small set that was fine-tuned on
    """
    rows = [row for row in table if row.get("seed") in (None, "")]
    found: dict[str, Any] = {}
    for row in (row for row in rows if row.get("method")):
        if render.is_number(row.get("average")):
            found.setdefault(row["method"], {})[row["stage"]] = _numbers(row)
        else:
            found.setdefault(row["method"], {})["note"] = row.get("note")
    return {
        "pair": advised["pair"],
        "app": advised["app"],
        "by": by,
        "examples": examples,
        "facts": advised["facts"],
        "baselines": {row["stage"]: _numbers(row) for row in rows if not row.get("method")},
        "methods": found,
        "variants": {row["method"]: row["variant_of"] for row in rows if row.get("variant_of")},
    }


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in NUMBERS if row.get(key) is not None}


def best_method(cases: Iterable[Case], stage: str) -> str:
    """The offered method or variant of one with the greatest mean share kept over cases that all
    have it; empty if none.
    """
    held: dict[str, list[float]] = {}
    cases = list(cases)
    for case in cases:
        for name, stages in case["methods"].items():
            share = stages.get(stage, {}).get(RANKED_BY)
            if render.is_number(share) and not _is_withheld(case, name):
                held.setdefault(name, []).append(share)
    means = {name: math.fsum(v) / len(v) for name, v in held.items() if len(v) == len(cases)}
    return max(sorted(means), key=lambda name: means[name], default="")


def _is_withheld(case: Case, name: str) -> bool:
    """Whether a method, or that of a variant, is there but not offered."""
    base = case.get("variants", {}).get(name, name)
    return base in methods.names() and base not in methods.offered()


def share(case: Case, method: str, stage: str, end: str = "") -> float:
    """Retention of the score or, where that is undefined, of the answers' likelihood."""
    held = case["methods"].get(method, {}).get(stage, {})
    for key in ("retention", RANKED_BY):
        if render.is_number(held.get(f"{key}{end}")):
            return float(held[f"{key}{end}"])
    return -math.inf


def left_out(cases: Sequence[Case]) -> tuple[int, int]:
    """Apps whose best method the cases of other pairs alike name, and how many could be asked."""
    hits = tried = 0
    for case in cases:
        others = [
            other
            for other in cases
            if other["pair"] != case["pair"]
            and other["facts"]["same_shapes"] == case["facts"]["same_shapes"]
        ]
        named, best = best_method(others, "transferred"), best_method([case], "transferred")
        if others and named and best:
            hits, tried = hits + (named == best), tried + 1
    return hits, tried


def pearson(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Pearson's r; None for fewer than three points, or where one of the two does not vary."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def points(cases: Sequence[Case], fact: str) -> list[tuple[str, float, float]]:
    """(pair/app, distance, share kept by the best training-free method) of the cases that have it.

    The model distance in log10, as the trivial-baselines study has it.
    """
    parts = []
    for case in cases:
        x = case["facts"].get(fact)
        best = best_method([case], "transferred")
        if x is None or not best or (fact == "distance" and x <= 0):
            continue
        x = math.log10(x) if fact == "distance" else x
        y = case["methods"][best]["transferred"][RANKED_BY]
        parts.append((f"{case['pair']}/{case['app']}", x, y))
    return parts
