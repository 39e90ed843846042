"""Which teacher serves: by its answers to labelled prompts, or by both models' likelihoods.

Where the old model is about as good as the new one, its adapter's answers are the best target there
is. Where the new one is far stronger, imitating the old one costs what it knows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..evaluation.matching import scores
from ..evaluation.paired import compare
from .prompts import Prompt, Record, labelled
from .teachers import Classroom, teacher

ENOUGH_LABELS = 20  # labelled prompts by which teachers are compared
READ = 64  # prompts that a choice reads, at most
FAR_STRONGER = 2.0  # ratio of the two models' surprise at each other's answers, a character
AMONG = ("old", "context", "delta")  # compared on labels, in the order that ties go by
IMITATES, SHOWS = "old", "context"


@dataclass(frozen=True)
class Choice:
    """A teacher, why, and the numbers."""

    name: str
    why: str
    measured: dict[str, Any] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """As reports record it."""
        return {"teacher": self.name, "why": self.why, "measured": self.measured}


def choose_teacher(
    asked: str, room: Classroom, records: Sequence[Record], match: str = "exact"
) -> Choice:
    """The teacher that was asked for; for `auto`, the one that serves.

    Parameters
    ----------
    room : the old model wears its adapter, the new one is bare
    records : prompts that are taught; those with a gold answer decide where they are enough
    """
    if asked != "auto":
        teacher(asked)
        return Choice(asked, "It was asked for.")
    known = labelled(records)[:READ]
    if len(known) >= ENOUGH_LABELS:
        choice = by_labels(room, known, match)
        if choice is not None:
            return choice
    return by_likelihood(room, [record.prompt for record in records][:READ])


def by_labels(room: Classroom, known: Sequence[Record], match: str) -> Choice | None:
    """The teacher whose answers are right most often; the old one unless another is clearly so.

    None where no teacher gives a right answer: the labels then can't tell.
    """
    prompts, golds = [each.prompt for each in known], [str(each.gold) for each in known]
    right: dict[str, list[float]] = {}
    for name in AMONG:
        if name == SHOWS and not room.shown:
            continue
        targets = teacher(name).targets(room, prompts)
        right[name] = scores(match, [target.answer for target in targets], golds)
    shares = {name: float(np.mean(each)) for name, each in right.items()}
    if not any(shares.values()):
        return None
    best = max(shares, key=lambda name: shares[name])
    if best != IMITATES and compare(right[IMITATES], right[best]).low <= 0:
        best = IMITATES
    listed = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())
    why = f"On {len(known)} labelled prompts the teachers are right in: {listed}."
    return Choice(best, why, {"right": shares, "labelled": len(known)})


def by_likelihood(room: Classroom, prompts: Sequence[Prompt]) -> Choice:
    """`old`, unless the bare new model is far stronger than the bare old one; then `context`.

    Both bare models answer. A model that is far stronger is hardly surprised by what the other one
    says, and surprises it.
    """
    with room.old.without_adapter():
        old_texts = [answer.text for answer in room.old.write(prompts)]
        new_texts = [answer.text for answer in room.new.write(prompts)]
        old_surprise = room.old.losses(prompts, new_texts).sum() / _characters(new_texts)
    new_surprise = room.new.losses(prompts, old_texts).sum() / _characters(old_texts)
    ratio = float(old_surprise / max(new_surprise, 1e-9))
    measured = {
        "old_at_new_nats_a_character": float(old_surprise),
        "new_at_old_nats_a_character": float(new_surprise),
        "ratio": ratio,
        "far_stronger_above": FAR_STRONGER,
    }
    stronger = ratio > FAR_STRONGER and bool(room.shown)
    why = (
        f"The bare old model finds the new one's answers {ratio:.2f} times as surprising as the "
        f"new one finds the old one's; above {FAR_STRONGER:g} the new one counts as far stronger."
    )
    return Choice(SHOWS if stronger else IMITATES, why, measured)


def _characters(texts: Sequence[str]) -> int:
    return max(sum(map(len, texts)), 1)
