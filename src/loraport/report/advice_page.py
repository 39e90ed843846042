"""The HTML page of a pair's advice."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from . import render
from .cases import DISTANCES, RANKED_BY

FACTS = {
    "same_shapes": "equal shapes",
    **DISTANCES,
    "heads_assigned": "similarity of assigned heads",
    "heads_random": "the same, of a random assignment",
    "magnitude": "‖sBA‖² of the adapter",
    "depth": "layers",
    "width": "hidden size",
}


def page(title: str, advised: Sequence[Mapping[str, Any]]) -> str:
    """The HTML page of a pair's advice."""
    parts = []
    for each in advised:
        size = each["examples"]
        needed = {True: "yes", False: "no", None: "not known"}[each["finetuning_needed"]]
        rows = [
            ("method", each["method"] or "not known"),
            ("light fine-tuning needed", needed),
            ("examples", "not known, see below" if size is None else str(size)),
            *((label, _shown(each["facts"][fact])) for fact, label in FACTS.items()),
        ]
        grid = render.grid(["", ""], rows).replace("<table>", '<table class="facts">')
        said = [*each["reasons"], *each["limits"]]
        parts += [f"<h2>{html.escape(each['app'])}</h2>", grid]
        parts += [f"<p class=note>{html.escape(line)}</p>" for line in said]
        if each["evidence"]:
            parts.append(render.grid(*_evidence_grid(each["evidence"])))
            made = dict.fromkeys(row["by"] for row in each["evidence"])
            parts += [f"<p class=legend>Made by: {html.escape(by)}</p>" for by in made]
    return render.document(title, parts)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " → ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none: shapes differ"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _evidence_grid(
    evidence: Sequence[Mapping[str, Any]],
) -> tuple[list[str], list[list[str]]]:
    titles = ["measured", "method", "stage", "examples", "score", "NLL", "retention", "NLL kept"]
    rows = []
    for row in sorted(evidence, key=lambda row: (row["stage"], -(row.get(RANKED_BY) or -math.inf))):
        rows.append(
            [
                f"{row['pair']}/{row['app']}",
                row["method"],
                row["stage"],
                str(row["examples"]) if row["stage"] == "finetuned" else "0",
                *(
                    f"{row[key]:.3g}" if render.is_number(row.get(key)) else render.NONE
                    for key in ("average", "nll", "retention", RANKED_BY)
                ),
            ]
        )
    return titles, rows
