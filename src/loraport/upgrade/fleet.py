"""Many adapters of one pair: a row each, told on the terminal and kept as CSV and JSON."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..artifacts import atomic, read_json, write_json
from ..evaluation.verdict import DEPLOY, KIND
from ..runtime.job import last_record

REPORT = "upgrade.json"  # what an upgraded adapter's folder tells of it

COLUMNS = (
    "name", "verdict", "old", "carried", "upgraded", "teacher", "start", "minutes", "source", "why",
)  # fmt: skip
TOLD = ("adapter", "verdict", "old", "carried", "taught", "minutes")
ABOUT_SCORES = (
    "Scores in %: of the old model with its adapter, and of the new one with the carried and with "
    "the\ntaught one; without gold answers, how often they are the old adapter's."
)
FAILED = "FAILED"  # in the place of a verdict, where there is none


@dataclass(frozen=True)
class Row:
    """What came of one adapter; scores in points, None where it failed.

    minutes : that it took
    source : the old adapter's folder
    why : of the verdict, or of the failure
    """

    name: str
    verdict: str
    source: str
    why: str
    minutes: float
    old: float | None = None
    carried: float | None = None
    upgraded: float | None = None
    teacher: str = ""
    start: str = ""


def row(
    name: str, source: str, minutes: float, verdict: str, why: str, report: Mapping[str, Any]
) -> Row:
    """The row of an adapter that was upgraded; `report` is the content of its upgrade.json."""
    return Row(
        name,
        verdict,
        source,
        why,
        round(minutes, 2),
        **{key: round(value, 2) for key, value in report["scores"].items()},
        teacher=report["choice"]["teacher"],
        start=report["start"]["start"],
    )


def row_of_files(name: str, source: str, upgraded: str, verdict: str, logs: Sequence[str]) -> Row:
    """The row of an adapter that the workflow upgraded, from its files.

    Parameters
    ----------
    logs : of the rules whose seconds count
    """
    report = read_json(Path(upgraded) / REPORT, "upgrade")
    judged = read_json(verdict, KIND)
    evidence = judged["evidence"]
    scores = evidence.get("scores") or evidence.get("agreement") or {}
    seconds = sum(last_record(log).get("seconds", 0.0) for log in logs)
    return Row(
        name,
        judged["verdict"],
        source,
        judged["why"],
        round(seconds / 60, 2),
        old=scores.get("old_adapted", scores.get("old_with_itself")),
        upgraded=scores.get("new_adapted", scores.get("new_with_old")),
        teacher=report["choice"]["teacher"],
        start=report["start"]["start"],
    )


def failed(name: str, source: str, minutes: float, error: object) -> Row:
    """The row of an adapter that could not be upgraded."""
    return Row(name, FAILED, source, str(error), round(minutes, 2))


def write_fleet(
    folder: Path, rows: Sequence[Row], about: Mapping[str, Any], inputs: Mapping[str, str]
) -> None:
    """Write fleet.csv and fleet.json."""
    with (
        atomic(folder / "fleet.csv") as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: asdict(each)[key] for key in COLUMNS} for each in rows)
    content = {**about, "rows": [asdict(each) for each in rows]}
    write_json(folder / "fleet.json", "fleet", inputs, content)


def cells(each: Row) -> list[str]:
    """A row as it is told on the terminal, under `TOLD`."""
    scores = (each.old, each.carried, each.upgraded)
    shown = ("" if value is None else f"{value:.1f}" for value in scores)
    return [each.name, each.verdict, *shown, f"{each.minutes:.1f}"]


def all_deployed(rows: Sequence[Row]) -> bool:
    """Whether every adapter may take its old one's place."""
    return bool(rows) and all(each.verdict == DEPLOY for each in rows)
