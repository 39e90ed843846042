"""Which teacher serves: by its answers to labelled prompts, or by how sure it is of its answers.

Where the old model is about as good as the new one, its adapter's answers are the best target there
is. Where the new one is far stronger, imitating the old one costs what it knows.

Labels tell most on prompts that the old adapter was not trained on: of those that it was, it knows
the answers, whatever it knows of others. So items of a labelled test come first, where some were
set apart for this.

Without labels, a teacher that knows the answer gives it again when it is sampled; one that guesses
gives another. So the share of prompts on which it agrees with itself stands for the share on which
it is right (Wang et al., Self-Consistency Improves Chain of Thought Reasoning, ICLR 2023, section
3.3, measure the two together). The prompts must be new to the old adapter: of those that it was
trained on it is as sure as a model that knows them. So they are written for this. Two other rules
did not tell on real pairs (`docs/upgrade.md`): how surprised the bare models are at each other's
answers, and whom a student of the old adapter sides with.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..evaluation.gain import is_ahead, mean_and_error
from ..evaluation.matching import scores
from ..evaluation.paired import compare
from .prompts import Prompt, Record, labelled
from .teachers import Classroom, context, teacher

ENOUGH_LABELS = 20  # labelled prompts by which teachers are compared
READ = 64  # prompts that a choice reads, at most
TEMPERATURE = 1.0  # of the samples that tell how sure a teacher is
AMONG = ("old", "context", "delta")  # compared on labels, in the order that ties go by
IMITATES, SHOWS = "old", "context"
GIVEN = "labelled prompts"
TESTED = "items of the test, which the verdict does not rest on,"


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
    asked: str,
    room: Classroom,
    records: Sequence[Record],
    match: str = "exact",
    fresh: Callable[[], Sequence[Prompt]] = tuple,
    tested: Sequence[Record] = (),
) -> Choice:
    """The teacher that was asked for; for `auto`, the one that serves.

    Parameters
    ----------
    room : the old model wears its adapter, the new one is bare
    records : prompts that are taught; those with a gold answer decide where `tested` does not,
        and they are enough
    fresh : gives prompts that the old adapter was not trained on, where labels do not decide
    tested : items of a labelled test, which the verdict does not rest on
    """
    if asked != "auto":
        teacher(asked)
        return Choice(asked, "It was asked for.")
    for words, known in ((TESTED, labelled(tested)[:READ]), (GIVEN, labelled(records)[:READ])):
        if len(known) >= ENOUGH_LABELS and (choice := by_labels(room, known, match, words)):
            return choice
    return by_certainty(room, fresh(), match)


def by_labels(
    room: Classroom, known: Sequence[Record], match: str, words: str = GIVEN
) -> Choice | None:
    """The teacher whose answers are right most often; the old one unless another is ahead of it.

    Ahead is by more than a standard error of the paired difference, as for starts and gains.

    None where no teacher gives a right answer: the labels then can't tell. `words` say what the
    labelled prompts are.
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
    if not is_ahead(*mean_and_error(np.subtract(right[best], right[IMITATES]))):
        best = IMITATES
    listed = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())
    why = f"On {len(known)} {words} the teachers are right in: {listed}."
    return Choice(best, why, {"right": shares, "labelled": len(known)})


def by_certainty(room: Classroom, prompts: Sequence[Prompt], match: str = "exact") -> Choice:
    """`old`, unless the new model, shown what it answers, is clearly surer of its own answers.

    The new model's answers must also follow the old adapter's: agree with them on the same prompts
    more often than with those to other prompts. A model that says one thing to everything is sure
    of it, too.

    Parameters
    ----------
    room : as for `choose_teacher`
    prompts : that the old adapter was not trained on
    """
    if len(prompts) < ENOUGH_LABELS or not context.demonstrations(room, prompts):
        return Choice(IMITATES, "There are too few new prompts to compare it by.")
    said = [answer.text for answer in room.said(prompts)]
    again = room.old.write(prompts, temperature=TEMPERATURE, seed=room.settings.seed)
    shown = [target.answer for target in context.targets(room, prompts)]
    shown_again = context.targets(room, prompts, TEMPERATURE)
    sure = scores(match, [answer.text for answer in again], said)
    surer = scores(match, [target.answer for target in shown_again], shown)
    gap = compare(sure, surer)
    form = compare(scores(match, shown, said[1:] + said[:1]), scores(match, shown, said))
    measured = {
        "old_agrees_with_itself": gap.first,
        "context_agrees_with_itself": gap.second,
        "context_agrees_with_old": form.second,
        "by_chance": form.first,
    }
    why = (
        f"Sampled again, the old adapter agrees with itself on {100 * gap.first:.0f} % of "
        f"{len(prompts)} new prompts, and the new model that is shown its answers on "
        f"{100 * gap.second:.0f} %; the two agree on {100 * form.second:.0f} % "
        f"({100 * form.first:.0f} % by chance)."
    )
    return Choice(SHOWS if gap.low > 0 and form.low > 0 else IMITATES, why, measured)
