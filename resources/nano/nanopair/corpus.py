"""The two base corpora as streams of documents, and the calibration texts.

A document is fixed by (version, seed, index range): `documents("v1", seed, count)` gives the
same texts on every machine. No app's question template and no app's
answer format stands in either corpus; their parts do, in other combinations.
"""

import random
from collections.abc import Callable, Iterator

from . import skills_language as words
from . import skills_numbers as numbers

Skill = Callable[[random.Random], str]

# (weight in v1, weight in v2, skill): the newer corpus has more language and two skills more.
_SKILLS: tuple[tuple[float, float, Skill], ...] = (
    (16, 10, numbers.story),
    (5, 4, numbers.two_people),
    (14, 12, numbers.arithmetic),
    (8, 8, numbers.chain),
    (10, 9, numbers.counts),
    (11, 9, numbers.problems),
    (8, 12, words.facts),
    (7, 9, words.open_questions),
    (18, 18, words.choices),
    (3, 3, words.lettered),
    (3, 3, words.copying),
    (3, 3, words.clock),
    (16, 0, words.commands),
    (0, 17, words.newer_commands),
    (0, 4, numbers.order),
)
MIXTURES: dict[str, list[tuple[float, Skill]]] = {
    "v1": [(old, skill) for old, _, skill in _SKILLS if old],
    "v2": [(new, skill) for _, new, skill in _SKILLS if new],
}
CALIBRATION_SEED = 990_001
TOKENIZER_SEED = 880_001


def documents(version: str, seed: int, count: int) -> Iterator[str]:
    """`count` documents of a version's corpus. One seed is one independent shard."""
    rng = random.Random(seed)
    weights, skills = zip(*MIXTURES[version], strict=True)
    total, edge, edges = sum(weights), 0.0, []
    for weight in weights:
        edge += weight / total
        edges.append(edge)
    edges[-1] = 1.0
    for _ in range(count):
        draw = rng.random()
        yield next(s for e, s in zip(edges, skills, strict=True) if draw < e)(rng)


def calibration_lines(count: int = 768) -> list[str]:
    """Generic texts, one a line, from a seed that no training shard uses.

    Lines come from both versions' mixtures in turn; line breaks inside a text become spaces.
    """
    half = (count + 1) // 2
    pairs = zip(
        documents("v1", CALIBRATION_SEED, half),
        documents("v2", CALIBRATION_SEED + 1, half),
        strict=True,
    )
    return [" ".join(text.split()) for pair in pairs for text in pair][:count]
