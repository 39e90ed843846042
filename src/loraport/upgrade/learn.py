"""Teaching one adapter, from the choice of its teacher to what is written: all but the verdict."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..runtime.measure import versions
from . import teach as lessons
from . import teachers
from .base import Base
from .candidates import Start, choose_start, fitting
from .chat import template_doubt
from .choice import Choice, choose_teacher
from .more_prompts import ENOUGH, Source, write_more, writers
from .parts import Parts, Settings
from .prompts import Prompt, Record, labelled
from .teachers import Classroom, Target

log = logging.getLogger("loraport")
LABELS = "labels"  # in place of a teacher's name, where every prompt has its own answer


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
    settings: Settings = Settings(),  # noqa: B008  (frozen)
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
    }
    return Learned(start, report)


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

    Labelled records have their gold answers as targets. Where all are, no teacher is asked.
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
    if open_ended or held_open:
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
