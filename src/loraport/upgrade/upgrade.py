"""One adapter from the old model to the new one: carried, taught, verified. Models stay loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..adapters.attach import detach
from ..artifacts import atomic, write_json
from ..evaluation import verdict as verdicts
from ..evaluation.verdict import Verdict
from ..runtime.measure import measured
from .base import Base, wrote
from .candidates import Start, started
from .card import write_card
from .fleet import REPORT
from .learn import LABELS, learn
from .parts import Settings, check_taught, split
from .prompts import Record
from .verify import OldAnswers, check_yardstick, judge, old_answers, verify

VERDICT = "verdict.json"


@dataclass(frozen=True)
class Upgraded:
    """What came of an upgrade.

    Attributes
    ----------
    verdict : on the upgraded adapter
    scores : `old`, `carried` and `upgraded`, in points of the test (or of agreement)
    report : content of upgrade.json
    answers : to the test, of `old_bare`, `old` (with its adapter), `start` and `upgraded`
    """

    verdict: Verdict
    scores: dict[str, float]
    report: dict[str, Any]
    answers: dict[str, list[str]]


def upgrade(
    old: Base,
    new: Base,
    adapter: Path,
    carried: Mapping[str, Path],
    records: Sequence[Record],
    out: Path,
    settings: Settings = Settings(),  # noqa: B008  (frozen)
    *,
    test: Sequence[Record] = (),
    tested: Sequence[Record] = (),
    texts: Sequence[str] = (),
    base_name: str | None = None,
    about: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
) -> Upgraded:
    """Upgrade one adapter and write it with its record, its model card and its verdict.

    Parameters
    ----------
    old, new : bare base models; they are so again at the end
    adapter : of the old model
    carried : candidate starts, name -> adapter of the new model; may be empty
    records : prompts; their gold answers, where there are some, are taught in place of a teacher's
    out : PEFT directory to write, whole or not at all
    test : records for the verdict; without, some of `records` are set apart
    tested : further items with gold answers, which the teacher may be chosen on (`set_apart`)
    texts : generic ones, on which the adapters' cost is measured
    about : of the two models and the adapter, recorded as it is

    Raises
    ------
    LoraportError
        If the test does not measure what the old adapter does (before anything is taught), or
        there is nothing to teach.
    """
    parts = split(records, test, settings, tested)
    check_taught(parts)
    for base in (old, new):
        base.wrote.clear()
    with measured() as run:
        before = old_answers(
            old, adapter, parts.test, texts, temperature=settings.verdict.temperature
        )
        check_yardstick(before, parts.test, settings.verdict)
        with atomic(out) as temporary:
            taught = learn(
                old, new, adapter, carried, parts, temporary, settings, base_name=base_name
            )
            first = _answers_at_start(new, taught.start, parts.test)
            alone = first if taught.start.directory is None else ()
            verdict, last = verify(
                new, temporary, before, parts.test, texts, settings.verdict, alone=alone
            )
            verdict = judged_of(verdict, taught.report["choice"]["teacher"])
            scores = _scores(before, first, verdict, parts.test, settings)
            report = {**dict(about or {}), "scores": scores, **taught.report, **wrote(old, new)}
            write_json(temporary / REPORT, "upgrade", inputs or {}, report)
            write_card(temporary, report, verdict)
            verdicts.write_verdict(temporary / VERDICT, verdict, inputs=inputs, about=about)
    answers = {"old_bare": before.bare, "old": before.adapted, "start": first, "upgraded": last}
    return Upgraded(verdict, scores, {**report, "run": run}, answers)


def _answers_at_start(new: Base, start: Start, test: Sequence[Record]) -> list[str]:
    """What the new model answers to the test before anything is taught: bare, from nothing."""
    prompts = [record.prompt for record in test]
    if start.directory is None:
        answers = new.write(prompts)
    else:
        new.model = started(new, start, start.directory, 1).eval()
        try:
            answers = new.write(prompts)
        finally:
            new.model = detach(new.model)
    return [answer.text for answer in answers]


def judged_of(verdict: Verdict, teacher: str) -> Verdict:
    """A verdict by agreement, where other than the old adapter's answers are taught: no RETRAIN.

    Such a student is meant to answer otherwise than the old adapter where that is wrong.
    """
    if verdict.rests_on != "agreement" or verdict.verdict != verdicts.RETRAIN:
        return verdict
    if teacher not in ("context", "delta", LABELS):
        return verdict
    why = f"{verdict.why} It was taught by {teacher}, which may be right where the old adapter "
    why += "is wrong: a test with gold answers is needed to tell."
    return replace(verdict, verdict=verdicts.UNDECIDED, why=why)


def _scores(
    before: OldAnswers,
    first: Sequence[str],
    verdict: Verdict,
    test: Sequence[Record],
    settings: Settings,
) -> dict[str, float]:
    """Points of old + adapter, of the start, and of what was taught."""
    at_start = judge(before, first, test, settings.verdict)
    names = ("old_adapted", "new_adapted")
    if verdict.rests_on == "agreement" or "agreement" in verdict.evidence:
        names = ("old_with_itself", "new_with_old")
    key = "agreement" if names[0] == "old_with_itself" else "scores"
    return {
        "old": verdict.evidence[key][names[0]],
        "carried": at_start.evidence[key][names[1]],
        "upgraded": verdict.evidence[key][names[1]],
    }
