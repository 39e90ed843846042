"""New prompts out of given ones: the beginning of one with the end of another.

Two prompts are joined where both have the same words, so that the new one reads on. No model is
asked. (Jia and Liang, arXiv 1606.03622, recombine the examples of a parser in this manner.)
"""

import re
from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np

SAME = 2  # words that both prompts have where they are joined
TRIES = 20  # for each prompt that is asked for


def recombine(
    texts: Sequence[str], count: int, rng: np.random.Generator, known: Collection[str] = ()
) -> list[str]:
    """Up to `count` different texts, none of them among `texts` or `known`.

    Fewer where the texts share too few words. Complexity: O(words of all texts + count · words).
    """
    parts = [re.findall(r"\s*\S+", text) for text in texts]
    after: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
    for number, words in enumerate(parts):
        for place in range(SAME, len(words)):
            after[tuple(words[place - SAME : place])].append((number, place))
    places = [where for shared in after.values() if len(shared) > 1 for where in shared]
    known = {*texts, *known}
    new: dict[str, None] = {}  # in the order that they were made in
    for _ in range(TRIES * count if places else 0):
        if len(new) == count:
            break
        number, place = places[int(rng.integers(len(places)))]
        shared = after[tuple(parts[number][place - SAME : place])]
        other, there = shared[int(rng.integers(len(shared)))]
        text = "".join([*parts[number][:place], *parts[other][there:]])
        if text not in known:
            new[text] = None
    return list(new)
