"""App `mcq`: commonsense-like questions with five lettered options, answered by the letter.

Key: relation and fact. Facts are disjoint between the sides, and so are all options of a
relation: a wrong option in one side is never an option in the other. The base corpus states the
facts, but never asks about them in lettered form.
"""

import random

from .draw import between, pick, sample
from .world import QUIZ_RELATIONS

LETTERS = "ABCDE"


def side_pairs(relation: str, test: bool) -> list[tuple[str, str]]:
    """The facts of one side: every third one is a test fact."""
    pairs = QUIZ_RELATIONS[relation].pairs
    return [pair for i, pair in enumerate(pairs) if (i % 3 == 2) == test]


def mcq_example(rng: random.Random, test: bool) -> tuple[str, dict[str, str]]:
    """One (key, example) of the wanted side."""
    relation = pick(rng, list(QUIZ_RELATIONS))
    pairs = side_pairs(relation, test)
    subject, right = pick(rng, pairs)
    wrong = sample(rng, [answer for _, answer in pairs if answer != right], len(LETTERS) - 1)
    place = between(rng, 0, len(LETTERS) - 1)
    options = [*wrong[:place], right, *wrong[place:]]
    question = pick(rng, QUIZ_RELATIONS[relation].quiz).format(s=subject)
    shown = "\n".join(f"{letter}. {o}" for letter, o in zip(LETTERS, options, strict=True))
    example = {
        "prompt": f"Question: {question}\n{shown}\nAnswer:",
        "completion": f" {LETTERS[place]}",
        "answer": LETTERS[place],
    }
    return f"{relation}:{subject}", example
