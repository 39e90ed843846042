"""Which teacher serves: by its answers to labelled prompts, or by whom its student sides with.

Where the old model is about as good as the new one, its adapter's answers are the best target there
is. Where the new one is far stronger, imitating the old one costs what it knows.

Without labels the old adapter teaches first. A strong student of a weak teacher does not learn all
of its errors (Burns et al., arXiv 2312.09390): it falls back on what it knows. So the student is
asked prompts that were held back, and so is the bare new model that is shown the old adapter's
answers. Where the student answers like that model more often than like the old adapter, whose
answers it was taught, the new model knows the task better, and teaches. Two other rules did not
tell on real pairs: how surprised the bare models are at each other's answers, and which teacher
gives its answers again when it is sampled (`docs/upgrade.md`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.matching import scores
from ..evaluation.paired import compare
from .prompts import Prompt, Record, labelled
from .teachers import Classroom, context, teacher

ENOUGH_LABELS = 20  # labelled prompts by which teachers are compared
READ = 64  # labelled prompts that a choice reads, at most
AMONG = ("old", "context", "delta")  # compared on labels, in the order that ties go by
IMITATES, SHOWS = "old", "context"


@dataclass(frozen=True)
class Choice:
    """A teacher, why, and the numbers.

    Attributes
    ----------
    open : its student is still to be asked whether another should teach (`by_student`)
    """

    name: str
    why: str
    measured: dict[str, Any] = field(default_factory=dict)
    open: bool = False

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

    Returns
    -------
    the choice; an open one where `auto` has too few labels
    """
    if asked != "auto":
        teacher(asked)
        return Choice(asked, "It was asked for.")
    known = labelled(records)[:READ]
    if len(known) >= ENOUGH_LABELS:
        choice = by_labels(room, known, match)
        if choice is not None:
            return choice
    return Choice(IMITATES, "Without labels that tell, the old adapter teaches first.", open=True)


def by_labels(room: Classroom, known: Sequence[Record], match: str) -> Choice | None:
    """The teacher whose answers are right most often; the old one unless another is clearly so.

    None where no teacher gives a right answer: the labels then can't tell.
    """
    prompts, golds = [each.prompt for each in known], [str(each.gold) for each in known]
    right: dict[str, list[float]] = {}
    for name in AMONG:
        if name == SHOWS and not context.demonstrations(room, prompts):
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


def by_student(
    room: Classroom, adapter: Path, prompts: Sequence[Prompt], match: str = "exact"
) -> Choice:
    """`context` where the student of `old` clearly sides with it against its own teacher.

    Parameters
    ----------
    room : as for `choose_teacher`
    adapter : of the new model, taught by `old`
    prompts : that it was not taught
    """
    if not context.demonstrations(room, prompts):
        return Choice(IMITATES, "There is nothing to compare it by.")
    shown = [target.answer for target in context.targets(room, prompts)]
    with room.new.wearing(adapter):
        said = [answer.text for answer in room.new.write(prompts)]
    taught = scores(match, said, [answer.text for answer in room.said(prompts)])
    gap = compare(taught, scores(match, said, shown))
    why = (
        f"Its student answers {100 * gap.first:.0f} % of {len(prompts)} prompts that were held back"
        f" as the old adapter does, and {100 * gap.second:.0f} % as the new model does that is "
        "shown the old adapter's answers."
    )
    measured = {"student_agrees_with_old": gap.first, "student_agrees_with_context": gap.second}
    return Choice(SHOWS if gap.low > 0 else IMITATES, why, measured)
