"""One adapter from the old model to the new one: carried, taught, verified. Models stay loaded."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..adapters.attach import detach
from ..artifacts import atomic, write_json
from ..evaluation import verdict as verdicts
from ..evaluation.verdict import Verdict
from ..runtime.measure import measured, versions
from . import generators, teachers
from . import teach as lessons
from .base import Base
from .candidates import Start, choose_start, fitting, started
from .card import write_card
from .chat import template_doubt
from .choice import READ, Choice, choose_teacher
from .fleet import REPORT
from .more_prompts import ENOUGH, Source, write_more, writers
from .prompts import Prompt, Record, labelled
from .teachers import Classroom, Target
from .verify import OldAnswers, all_labelled, check_yardstick, judge, old_answers, verify

log = logging.getLogger("loraport")
VERDICT = "verdict.json"
LEAST_TEST = 4 * READ  # items of a test of which some are set apart for the choice of a teacher
LABELS = "labels"  # in place of a teacher's name, where `auto` has none to choose


@dataclass(frozen=True)
class Settings:
    """How an adapter is upgraded.

    teacher : a name of `teachers`, or `auto`
    prompts : that are taught or held back, at most
    held : share of them that is held back from teaching, to choose by; at most `most_held`
    verify : prompts that the verdict rests on, at most, where no test is given
    at_least : prompts that are taught; where fewer are given, a model writes more
    minutes : for one adapter; 0: no limit. Teaching ends in time; the verdict is always found
    writing, teaching, verdict : of the teachers, of the training, and of the verdict
    """

    teacher: str = "auto"
    prompts: int = 400
    held: float = 0.2
    most_held: int = 64
    verify: int = 500
    at_least: int = ENOUGH
    minutes: float = 0.0
    seed: int = 0
    writing: teachers.Settings = field(default_factory=teachers.Settings)
    teaching: lessons.Settings = field(default_factory=lessons.Settings)
    verdict: verdicts.Settings = field(default_factory=verdicts.Settings)


@dataclass(frozen=True)
class Parts:
    """Records of an upgrade.

    taught, held, test : what is taught, held back from teaching, and verified on
    tested : items of a labelled test that the teacher is chosen on, and nothing else
    """

    taught: list[Record]
    held: list[Record]
    test: list[Record]
    tested: list[Record] = field(default_factory=list)


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


def set_apart(
    records: Sequence[Record], test: Sequence[Record], settings: Settings = Settings()
) -> tuple[list[Record], list[Record]]:
    """What a verdict rests on of a test, and what the teacher is chosen on, drawn by the seed.

    None of it chooses where a teacher is asked for by name, where the gold answers of the records
    are all that is taught, where an item has no gold answer, or where fewer than `LEAST_TEST` are
    there.
    """
    if settings.teacher != "auto" or not all_labelled(test) or len(test) < LEAST_TEST:
        return list(test), []
    if all_labelled(records) and len(split(records, test, settings).taught) >= settings.at_least:
        return list(test), []
    drawn = set(np.random.default_rng(settings.seed).permutation(len(test))[:READ].tolist())
    judged = [item for place, item in enumerate(test) if place not in drawn]
    return judged, [test[place] for place in sorted(drawn)]


def split(
    records: Sequence[Record],
    test: Sequence[Record],
    settings: Settings = Settings(),
    tested: Sequence[Record] = (),
) -> Parts:
    """Parts of the records, drawn by the seed; nothing of the test is in the others.

    Without a test, a quarter of the records at least is set apart for the verdict: all that are
    not taught, up to `verify`.
    """
    order = np.random.default_rng(settings.seed).permutation(len(records))
    asked = {record.prompt for record in (*test, *tested)}
    left = [records[place] for place in order if records[place].prompt not in asked]
    if test:
        chosen, reserved = left[: settings.prompts], list(test)
    else:
        count = min(settings.prompts, len(left) * 3 // 4)
        chosen, reserved = left[:count], left[count : count + settings.verify]
    aside = min(settings.most_held, max(1, round(settings.held * len(chosen))))
    return Parts(chosen[aside:], chosen[:aside], reserved, list(tested))


def upgrade(
    old: Base,
    new: Base,
    adapter: Path,
    carried: Mapping[str, Path],
    records: Sequence[Record],
    out: Path,
    settings: Settings = Settings(),
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
            report = {**dict(about or {}), "scores": scores, **taught.report}
            report |= wrote(old, new)
            write_json(temporary / REPORT, "upgrade", inputs or {}, report)
            write_card(temporary, report, verdict)
            verdicts.write_verdict(temporary / VERDICT, verdict, inputs=inputs, about=about)
    answers = {"old_bare": before.bare, "old": before.adapted, "start": first, "upgraded": last}
    return Upgraded(verdict, scores, {**report, "run": run}, answers)


@dataclass(frozen=True)
class Learned:
    """What an adapter started from, and what upgrade.json says of it."""

    start: Start
    report: dict[str, Any]


def learn(
    old: Base,
    new: Base,
    adapter: Path,
    carried: Mapping[str, Path],
    parts: Parts,
    out: Path,
    settings: Settings = Settings(),
    *,
    base_name: str | None = None,
) -> Learned:
    """Teach one adapter and write it into a folder: all of an upgrade but the verdict.

    Parameters
    ----------
    as for `upgrade`; `parts` as `split` makes them
    """
    until = time.monotonic() + 60 * settings.minutes if settings.minutes else math.inf
    like = next(iter(carried.values()), adapter)
    with old.wearing(adapter):
        doubt = template_doubt(old, [record.prompt for record in parts.taught])
        if doubt:
            log.warning("%s", doubt)
        lesson = prepare(Classroom(old, new, settings.writing), parts, settings)
        start = choose_start(new, fitting(new, carried, adapter), lesson.held)
        left = max((until - time.monotonic()) / 60, 1e-6) if settings.minutes else 0.0
        taught = lessons.teach(
            new,
            start,
            like,
            lesson.targets,
            lesson.held,
            out,
            replace(settings.teaching, minutes=left),
            again=lesson.again,
            base_name=base_name,
        )
    report = {
        "choice": lesson.choice.told(),
        "start": start.told(),
        "taught": taught.told(),
        "prompts": lesson.counts | {"test": len(parts.test), "tested": len(parts.tested)},
        "warnings": [doubt] if doubt else [],
        "versions": versions(),
        **wrote(old, new),
    }
    return Learned(start, report)


def wrote(old: Base, new: Base) -> dict[str, Any]:
    """`generator`: what wrote answers of both models, and how many, as reports record it.

    Empty where transformers wrote them all: reports then are as they are without another one.
    """
    return generators.told({"old": old.wrote, "new": new.wrote})


@dataclass(frozen=True)
class Lesson:
    """What is taught, and by whom.

    again : targets that are made anew in each epoch; None where there are none
    """

    choice: Choice
    targets: list[Target]
    held: list[Target]
    counts: dict[str, Any]
    again: Any = None


def prepare(room: Classroom, parts: Parts, settings: Settings) -> Lesson:
    """Choose the teacher and let it write the targets; the old model wears its adapter.

    Labelled records have their gold answers as targets. Where all are, `auto` asks no teacher.
    """
    taught, apart = list(parts.taught), [*parts.held, *parts.test, *parts.tested]
    source = Source(room.old, writers(room.old, room.new), parts.taught)
    seed = settings.seed
    counts: dict[str, Any] = {"given": len(parts.taught) + len(parts.held)}
    missing = settings.at_least - len(taught)
    if missing > 0:
        written = write_more(source, missing, seed, apart)
        counts["synthetic"] = written.told()
        taught += written.records
    open_ended, held_open = _open_ended(taught), _open_ended(parts.held)
    choice = Choice(LABELS, "Every prompt has its own answer.")
    module: Any = None
    if settings.teacher != "auto" or open_ended or held_open:
        sample = [record.prompt for record in taught[:ENOUGH]]
        pairs = zip(sample, room.said(sample), strict=True)
        room.shown = [(prompt, answer.text) for prompt, answer in pairs if answer.whole]
        match = settings.verdict.match
        choice = choose_teacher(settings.teacher, room, taught, match, parts.tested)
        module = teachers.teacher(choice.name)
    targets = _gold(taught) + (module.targets(room, open_ended) if open_ended else [])
    held = _gold(parts.held) + (module.targets(room, held_open) if held_open else [])
    counts |= {
        "taught": len(targets),
        "held": len(held),
        "labelled": len(labelled(taught)) + len(labelled(parts.held)),
        "cut": sum(not target.whole for target in targets),
    }
    whole = [target for target in held if target.whole and target.answer.strip()]
    if not whole:
        raise lessons.nothing_to_teach(sum(target.whole for target in targets), 0)
    again = None
    if hasattr(module, "again"):
        again = lambda epoch: module.again(room, open_ended, seed + epoch)  # noqa: E731
    return Lesson(choice, targets, whole, counts, again)


def _open_ended(records: Sequence[Record]) -> list[Prompt]:
    return [record.prompt for record in records if record.gold is None]


def _gold(records: Sequence[Record]) -> list[Target]:
    return [Target(record.prompt, record.gold) for record in records if record.gold is not None]


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
