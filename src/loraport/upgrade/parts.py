"""How an adapter is upgraded, and which records are taught, held back and verified on."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import LoraportError
from ..evaluation import verdict as verdicts
from . import teach as lessons
from . import teachers
from .choice import READ
from .more_prompts import ENOUGH
from .prompts import Record
from .verify import all_labelled

LEAST_TEST = 4 * READ  # items of a test of which some are set apart for the choice of a teacher


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


def set_apart(
    records: Sequence[Record], test: Sequence[Record], settings: Settings = Settings()
) -> tuple[list[Record], list[Record]]:
    """What a verdict rests on of a test, and what the teacher is chosen on, drawn by the seed.

    None of it chooses where a teacher is asked for by name, where gold answers of the records are
    all that is taught and held back, where an item has no gold answer, or where fewer than
    `LEAST_TEST` are there.
    """
    if settings.teacher != "auto" or not all_labelled(test) or len(test) < LEAST_TEST:
        return list(test), []
    parts = split(records, test, settings)
    if all_labelled([*parts.taught, *parts.held]) and len(parts.taught) >= settings.at_least:
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


def check_taught(parts: Parts) -> None:
    """Refuse parts without a prompt to teach or without one that is held back, before any work.

    Raises
    ------
    LoraportError
        If one of both is empty.
    """
    if not (parts.taught and parts.held):
        raise LoraportError(
            "there are too few prompts to teach",
            got=f"{len(parts.taught)} to teach and {len(parts.held)} to hold back",
            expected="at least one of both, beside those of the test",
            todo="give more prompts that are not in the test",
        )
