"""The table of a sweep: what each point scores, and what its cut kept of a source adapter."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..planning import layout, sweeps
from .tables import SCORE, Row, scored, training_of

COLUMNS = (
    "value",
    "row",
    "average",
    "low",
    "high",
    "nll",
    "steps",
    "train_s",
    "energy_kept",
    "note",
)


def sweep_table(
    name: str, points: Sequence[Mapping[str, Any]], skipped_values: Mapping[str, str]
) -> list[Row]:
    """Rows of a sweep's table.

    Parameters
    ----------
    points : of each scored stage `value`, `stage`, `adapter` and `scores` (its JSON file)
    """
    table = []
    for point in points:
        row = scored(point["scores"])
        cut = Path(point["adapter"]).parent / layout.SOURCE / "cut.json"
        training = training_of(point["adapter"])
        note = energy = None
        if point["stage"] == "lora_finetuned" and cut.is_file():
            energy = json.loads(cut.read_text())["energy_kept"]
            way = "truncated" if name == "rank" else "cut to these modules"
            note = f"source adapter {way}: {100 * energy:.1f} % of ‖ΔW‖² kept"
        table.append(
            {
                "value": point["value"],
                "row": {**sweeps.POINTS, **sweeps.REFERENCES}[point["stage"]],
                **{key: row.get(key) for key in ("average", "low", "high", "nll", "metric")},
                **{key: value for key, value in row.items() if key.startswith(SCORE)},
                "steps": training.get("steps"),
                "train_s": training.get("run", {}).get("seconds"),
                "energy_kept": energy,
                "note": note,
            }
        )
    left_out = [
        {"value": value, "row": "not run", "note": reason}
        for value, reason in skipped_values.items()
    ]
    return [*table, *left_out]
