"""Which old layer serves which new one: a monotone path of greatest similarity."""

import os

import numpy as np

from .artifacts import read_json
from .errors import LoraportError

Path = list[tuple[int, int]]


def best_path(similarity: np.ndarray, max_offset: int | None = None) -> Path:
    """The monotone layer path of greatest total similarity (LoRASuite, layer mapping).

    Parameters
    ----------
    similarity : (l_o, l_n), finite
    max_offset : Δ, the greatest `j − i` between the layer i of the shallower model and its partner
        j in the deeper one; None is the difference in depth, which never binds

    Returns
    -------
    (old, new) pairs, both strictly increasing; each layer of the shallower model stands once

    Notes
    -----
    Dynamic programming, O(l_o l_n): `T[i, j] = max(T[i, j−1], T[i−1, j−1] + S[i, j])` with
    `0 ≤ j − i ≤ Δ`. Ties take the smallest offset.
    """
    similarity = np.asarray(similarity, dtype=np.float64)
    if not np.isfinite(similarity).all():
        raise LoraportError("the layer similarities hold NaN or Inf", expected="finite numbers")
    if similarity.shape[0] > similarity.shape[1]:
        return [(old, new) for new, old in best_path(similarity.T, max_offset)]
    short, long = similarity.shape
    gap = long - short
    limit = gap if max_offset is None else min(max_offset, gap)
    if limit < 0:
        raise LoraportError(
            "mapping.max_offset is negative", got=max_offset, expected="0 or more, or null"
        )
    # best[i, o]: greatest total of layers 0…i where layer i sits at an offset of at most o
    best = np.zeros((short + 1, limit + 1))
    taken = np.zeros((short, limit + 1), dtype=bool)
    for i in range(short):
        for offset in range(limit + 1):
            here = best[i, offset] + similarity[i, i + offset]
            before = best[i + 1, offset - 1] if offset else -np.inf
            taken[i, offset] = here > before
            best[i + 1, offset] = max(here, before)
    path, offset = [], limit
    for i in reversed(range(short)):
        while not taken[i, offset]:
            offset -= 1
        path.append((i, i + offset))
    return path[::-1]


def fixed_path(old: int, new: int, how: str) -> Path:
    """The ablations First, Medium and Last: one offset for all layers (0, ⌊gap/2⌋, gap)."""
    gap = abs(new - old)
    offset = {"first": 0, "medium": gap // 2, "last": gap}[how]
    short = range(min(old, new))
    return [(i, i + offset) if old <= new else (i + offset, i) for i in short]


def layer_path(similarity: np.ndarray, how: str, max_offset: int | None) -> Path:
    """The path by a `mapping.layers` setting: `cka` (best path) or a fixed offset."""
    if how == "cka":
        return best_path(similarity, max_offset)
    return fixed_path(similarity.shape[0], similarity.shape[1], how)


def read_path(file: str | os.PathLike[str]) -> Path:
    """The (old, new) layers of layers.json."""
    return [(old, new) for old, new, _ in read_json(os.fspath(file), "layers")["path"]]
