"""What the page of a pair shows of each adapter: verdict, scores, items that flipped, cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from ..errors import LoraportError
from ..evaluation.verdict import by_labels
from . import render
from .tables import all_items, is_binary

RESULTS = ("upgraded", "finetuned", "transferred")  # what may be deployed, the best known first
FLIPS_SHOWN = 10
NO_VERDICT = ""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Flip:
    """An item that the old model with its adapter got right, and the new one does not; or else.

    lost : whether it was right before
    """

    prompt: str
    gold: str
    old: str
    new: str
    lost: bool


@dataclass(frozen=True)
class App:
    """An adapter on the page.

    Attributes
    ----------
    rows : of its table, as read from its CSV
    stage : of the row that may be deployed; empty where none was scored
    verdict, why : DEPLOY, RETRAIN or UNDECIDED with its reason; empty where none can be given
    flips : at most ten; `flipped` counts all, lost and gained
    rates : rows of the learning-rate sweep, where there is one
    """

    name: str
    rows: Sequence[Row]
    stage: str = ""
    verdict: str = NO_VERDICT
    why: str = ""
    flips: Sequence[Flip] = ()
    flipped: tuple[int, int] = (0, 0)
    rates: Sequence[Row] = field(default_factory=tuple)

    def row(self, stage: str) -> Row:
        """The first row of a stage; empty where there is none."""
        return next((row for row in self.rows if row["stage"] == stage), {})


def upgraded(rows: Sequence[Row], verdicts: Mapping[str, Row] = MappingProxyType({})) -> list[App]:
    """Adapters on the page from the rows of a fleet.json, whose scores are in points.

    Those that failed have the reason in the place of scores.

    Parameters
    ----------
    verdicts : name -> content of its verdict.json, where it is there
    """
    stages = {"old": ("old_lora", "old model + adapter"), "carried": ("transferred", "carried"),
              "upgraded": ("upgraded", "carried and taught")}  # fmt: skip
    apps = []
    for row in rows:
        scored = [
            {"row": label, "stage": stage, "metric": "acc", "average": row[key] / 100}
            for key, (stage, label) in stages.items()
            if render.is_number(row.get(key))
        ]
        if scored:
            scored[-1]["train_s"] = 60 * row["minutes"]
        shown, flipped = flips_of(verdicts.get(row["name"], {}))
        stage = result_stage(scored)
        apps.append(App(row["name"], scored, stage, row["verdict"], row["why"], shown, flipped))
    return apps


def with_verdict(app: App, judged: Row) -> App:
    """An adapter of a pair's page as its verdict.json has it, with a row for what was taught."""
    scores = judged["evidence"].get("scores") or judged["evidence"].get("agreement") or {}
    points = scores.get("new_adapted", scores.get("new_with_old"))
    label = "carried and taught"
    if "agreement" in judged["evidence"]:
        label += " (agreement with the old adapter)"
    taught = {"row": label, "stage": "upgraded", "metric": "acc"}
    rows = [row for row in app.rows if row["stage"] != "upgraded"]
    if points is not None:
        rows.append({**taught, "average": points / 100})
    shown, flipped = flips_of(judged)
    return replace(
        app, rows=rows, stage="upgraded", verdict=judged["verdict"], why=judged["why"],
        flips=shown, flipped=flipped,
    )  # fmt: skip


def flips_of(judged: Row) -> tuple[list[Flip], tuple[int, int]]:
    """Items that changed, of a verdict.json, and how many were lost and gained."""
    evidence = judged.get("evidence", {})
    scores = evidence.get("scores") or {}
    shown = [Flip(**each) for each in evidence.get("flips", [])]
    return shown, (scores.get("lost", 0), scores.get("gained", 0))


def result_stage(rows: Sequence[Row]) -> str:
    """The stage that may be deployed: the last of the way that was scored."""
    scored = {row["stage"] for row in rows if render.is_number(row.get("average"))}
    return next((stage for stage in RESULTS if stage in scored), "")


def verdict(scores: Mapping[str, Mapping[str, Any]], stage: str) -> tuple[str, str]:
    """Verdict of a stage against the old model with its adapter, on the same items, and why.

    Parameters
    ----------
    scores : stage -> content of its score file

    Returns
    -------
    both empty where old, bare or the stage itself has no score of right and wrong items; the
    verdict is empty where the items measure nothing, and the reason says so
    """
    needed = ("old", "old_lora", stage)
    if not stage or any(name not in scores or not is_binary(scores[name]) for name in needed):
        return NO_VERDICT, ""
    bare, old, new = (all_items(scores[name], scores["old_lora"]) for name in needed)
    try:
        found = by_labels(old.tolist(), new.tolist(), bare.tolist())
    except LoraportError as error:
        return NO_VERDICT, str(error)
    return found.verdict, found.why


def flips(
    old: Mapping[str, Any] | None,
    new: Mapping[str, Any] | None,
    asked: Mapping[str, Sequence[tuple[str, str]]],
) -> tuple[list[Flip], tuple[int, int]]:
    """Items that changed, at most ten and those lost first; and how many were lost and gained.

    Parameters
    ----------
    old, new : contents of score files of the same items; None where there is none
    asked : task -> (prompt, gold) of each item; items of other tasks are counted and not shown
    """
    every: list[Flip] = []
    lost = gained = 0
    if old is None or new is None:
        return [], (0, 0)
    for name, task in old["tasks"].items():
        other = new["tasks"].get(name)
        if other is None or task["items_sha256"] != other["items_sha256"]:
            continue
        for number, (before, after) in enumerate(zip(task["items"], other["items"], strict=True)):
            if before == after:
                continue
            lost, gained = lost + (before > after), gained + (before < after)
            if number < len(asked.get(name, ())):
                prompt, gold = asked[name][number]
                said = _said(task, number), _said(other, number)
                every.append(Flip(prompt, gold, said[0], said[1], before > after))
    every.sort(key=lambda flip: not flip.lost)
    return every[:FLIPS_SHOWN], (lost, gained)


def _said(task: Mapping[str, Any], number: int) -> str:
    outputs = task.get("outputs") or []
    return outputs[number] if number < len(outputs) else ""
