"""Which teacher serves: by its answers to labelled prompts, or by how sure it is of its answers.

Where the old model is about as good as the new one, its adapter's answers are the best target there
is. Where the new one is far stronger, imitating the old one costs what it knows.

Labels tell most on prompts that the old adapter was not trained on: of those that it was, it knows
the answers, whatever it knows of others. So items of a labelled test come first, where some were
set apart for this.

Without labels, a teacher that knows the answer gives it again when it is asked a little otherwise;
one that guesses gives another. So the share of prompts on which it agrees with itself stands for
the share on which it is right (Wang et al., Self-Consistency Improves Chain of Thought Reasoning,
ICLR 2023, section 3.3, measure the two together). Each teacher is asked thrice. The old adapter's
answers are drawn, and given with its update halved: what it only remembers from its training is
mostly lost then. The new model is shown three sets of demonstrations. Three other rules did not
tell on real pairs (`docs/upgrade.md`): how surprised the bare models are at each other's answers,
whom a student of the old adapter sides with, and drawn answers alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..evaluation.gain import is_ahead, mean_and_error
from ..evaluation.matching import scores
from ..evaluation.paired import compare
from .prompts import Prompt, Record, labelled
from .teachers import Classroom, context, teacher

ENOUGH_LABELS = 20  # labelled prompts by which teachers are compared
READ = 64  # labelled prompts that a choice reads, at most
ASKED = 128  # prompts on which teachers are compared with themselves, at most
TEMPERATURE = 1.0  # of the old adapter's answers that are drawn
STRENGTH = 0.5  # of the old adapter where it must do with less
DRAWS = 3  # of demonstrations, none in two of them
FIRST = 32  # prompts that are asked first: where the new model is far behind on them, they are all
FAR = 2  # standard errors
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
    tested: Sequence[Record] = (),
) -> Choice:
    """The teacher that was asked for; for `auto`, the one that serves.

    Parameters
    ----------
    room : the old model wears its adapter, the new one is bare
    records : prompts that are taught; those with a gold answer decide where `tested` does not,
        and they are enough
    tested : items of a labelled test, which the verdict does not rest on
    """
    if asked != "auto":
        teacher(asked)
        return Choice(asked, "It was asked for.")
    for words, known in ((TESTED, labelled(tested)[:READ]), (GIVEN, labelled(records)[:READ])):
        if len(known) >= ENOUGH_LABELS and (choice := by_labels(room, known, match, words)):
            return choice
    return by_certainty(room, [record.prompt for record in records[:ASKED]], match)


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
    """`old`, unless the new model, shown what it answers, is surer of its own answers.

    A teacher is sure of an answer that it gives all three times. Of those of the old adapter that
    are drawn at its full strength alone, the new model must not be behind: some adapters do
    nothing at half of it. Its answers must also follow the old adapter's: agree with them on the
    same prompts more often than with those to other prompts. A model that says one thing to
    everything is sure of it, too.

    Parameters
    ----------
    room : as for `choose_teacher`
    prompts : that are taught
    """
    thirds = [replace(room, shown=room.shown[start::DRAWS]) for start in range(DRAWS)]
    # those that fit before the longest prompt of all, so that each batch of prompts is shown them
    rooms = [replace(third, shown=context.demonstrations(third, prompts)) for third in thirds]
    if len(prompts) < ENOUGH_LABELS or not all(third.shown for third in rooms):
        return Choice(IMITATES, "There are too few prompts, or answers to show, to compare it by.")
    answers = _thrice(room, rooms, prompts[:FIRST])
    if not _far_behind(match, answers) and len(prompts) > FIRST:
        rest = _thrice(room, rooms, prompts[FIRST:])
        answers = [first + more for first, more in zip(answers, rest, strict=True)]
    said, drawn, halved, shown, *others = answers
    drawn_same, sure = _kept(match, said, drawn), _kept(match, said, drawn, halved)
    shown_same, surer = _kept(match, shown, others[0]), _kept(match, shown, *others)
    form = compare(_kept(match, said[1:] + said[:1], shown), _kept(match, said, shown))
    shares = [float(each.mean()) for each in (drawn_same, sure, shown_same, surer)]
    names = ("old_drawn", "old_drawn_and_halved", "context_shown_others", "context_shown_thrice")
    measured = dict(zip(names, shares, strict=True))
    measured |= {"context_agrees_with_old": form.second, "by_chance": form.first}
    percents = [f"{100 * share:.0f} %" for share in shares]
    why = (
        f"Of {len(said)} prompts the old adapter gives its answer again on {percents[0]} where "
        f"it is drawn, and on {percents[1]} at half of its strength as well. The new model that is "
        f"shown answers of it gives its own again on {percents[2]} where it is shown others, and "
        f"on {percents[3]} with a third set as well. The two agree on {100 * form.second:.0f} % "
        f"({100 * form.first:.0f} % by chance)."
    )
    ahead = is_ahead(*mean_and_error(surer - sure))
    behind = is_ahead(*mean_and_error(drawn_same - shown_same))
    return Choice(SHOWS if ahead and not behind and form.low > 0 else IMITATES, why, measured)


def _thrice(
    room: Classroom, rooms: Sequence[Classroom], prompts: Sequence[Prompt]
) -> list[list[str]]:
    """Answers of the old adapter, drawn ones and those at half of its strength; and of the new
    model in each of `rooms`.
    """
    answers = [
        room.said(prompts),
        room.old.write(prompts, temperature=TEMPERATURE, seed=room.settings.seed),
    ]
    with room.old.at_strength(STRENGTH):
        answers.append(room.old.write(prompts))
    told = [[answer.text for answer in each] for each in answers]
    return told + [[each.answer for each in context.targets(r, prompts)] for r in rooms]


def _far_behind(match: str, answers: Sequence[Sequence[str]]) -> bool:
    """Whether the new model keeps to so few of its answers that more prompts would not tell."""
    said, drawn, halved, shown, *others = answers
    gap = _kept(match, shown, *others) - _kept(match, said, drawn, halved)
    mean, error = mean_and_error(gap)
    return mean < -FAR * error


def _kept(match: str, first: Sequence[str], *others: Sequence[str]) -> np.ndarray:
    """Where all other answers are the first ones, (n,), 0 or 1."""
    return np.prod([scores(match, other, first) for other in others], axis=0)
