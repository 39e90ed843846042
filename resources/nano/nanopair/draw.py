"""Drawing from a `random.Random` with calls whose streams are stable across Python versions."""

import random
import zlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def pick(rng: random.Random, options: Sequence[T]) -> T:
    """One element, uniformly (only `random()` is guaranteed stable between versions)."""
    return options[int(rng.random() * len(options))]


def between(rng: random.Random, low: int, high: int) -> int:
    """An integer in [low, high], uniformly."""
    return low + int(rng.random() * (high - low + 1))


def sample(rng: random.Random, options: Sequence[T], count: int) -> list[T]:
    """`count` different elements in random order (partial Fisher-Yates)."""
    pool = list(options)
    for i in range(count):
        j = between(rng, i, len(pool) - 1)
        pool[i], pool[j] = pool[j], pool[i]
    return pool[:count]


def is_test_key(key: str, one_in: int = 5) -> bool:
    """Whether a content key belongs to the test side: a fixed hash decides, one key in `one_in`."""
    return zlib.crc32(key.encode()) % one_in == 0
