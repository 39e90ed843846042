"""App `mcq`: commonsense-like questions with five lettered options, answered by the option.

Key: question template and fact; a hash puts each key on one side, so that the test asks about a
fact in a wording that training never used for it. The facts themselves stand in the base corpus
and occur on both sides. The templates stand in no base corpus, and neither does this
answer after lettered options.
"""

import random

from .draw import between, is_test_key, pick, sample
from .world import QUIZ_RELATIONS

LETTERS = "ABCDE"


def mcq_example(rng: random.Random, test: bool) -> tuple[str, dict[str, str]]:
    """One (key, example) of the wanted side."""
    while True:
        name = pick(rng, list(QUIZ_RELATIONS))
        relation = QUIZ_RELATIONS[name]
        template, (subject, right) = pick(rng, relation.quiz), pick(rng, relation.pairs)
        key = f"{name}:{relation.quiz.index(template)}:{subject}"
        if is_test_key(key) == test:
            break
    wrong = sample(rng, [a for _, a in relation.pairs if a != right], len(LETTERS) - 1)
    place = between(rng, 0, len(LETTERS) - 1)
    options = [*wrong[:place], right, *wrong[place:]]
    shown = "\n".join(f"{letter}. {o}" for letter, o in zip(LETTERS, options, strict=True))
    example = {
        "prompt": f"Question: {template.format(s=subject)}\n{shown}\nAnswer:",
        "completion": f" It is {right}.",
        "answer": f"It is {right}.",
    }
    return key, example
