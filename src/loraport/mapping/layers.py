"""Which old layer serves which new one: a monotone path of greatest similarity."""

import itertools
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..artifacts import read_json, write_json
from ..errors import LoraportError
from ..models.spec import Model, shared_roles

LayerPath = list[tuple[int, int]]


def best_path(similarity: np.ndarray, max_offset: int | None = None) -> LayerPath:
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


def fixed_path(old: int, new: int, how: str) -> LayerPath:
    """The ablations First, Medium and Last: one offset for all layers (0, ⌊gap/2⌋, gap)."""
    gap = abs(new - old)
    offset = {"first": 0, "medium": gap // 2, "last": gap}[how]
    short = range(min(old, new))
    return [(i, i + offset) if old <= new else (i + offset, i) for i in short]


def serve_all(path: LayerPath, layers: int) -> LayerPath:
    """Every new layer: one that no old layer is matched with by that of the next pair, or of the
    last one.
    """
    left, served = list(path), []
    for layer in range(layers):
        while left[0][1] < layer and len(left) > 1:
            del left[0]
        served.append((left[0][0], layer))
    return served


def shared_counts(old: Model, new: Model) -> np.ndarray | None:
    """How many roles an old and a new layer have in common, (l_o, l_n); None where all layers of
    both models have the same ones.

    k and v count wherever both layers have attention: one whose keys and values are another
    layer's, or whose keys are its values, is a layer of attention like others.
    """
    if not (old.dims.by_layer or new.dims.by_layer):
        return None
    layers = itertools.product(range(old.dims.layers), range(new.dims.layers))
    found = [set(shared_roles((old, new), pair)) for pair in layers]
    counts = [len(roles | {"k", "v"} if "q" in roles else roles) for roles in found]
    return np.reshape(counts, (old.dims.layers, new.dims.layers))


def _preferring(similarity: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """Scores by which the best path has the most roles in common, and of such paths the greatest
    similarity: a role more weighs more than all similarities of a path.
    """
    if (shared == shared.flat[0]).all():
        return similarity
    return similarity + shared * (1 + 2 * min(similarity.shape) * np.abs(similarity).max())


def layer_path(
    similarity: np.ndarray,
    how: str,
    max_offset: int | None,
    unmatched: str = "empty",
    shared: np.ndarray | None = None,
) -> LayerPath:
    """The path by the mapping settings.

    Parameters
    ----------
    how : `cka` (best path) or a fixed offset
    unmatched : new layers without a partner are left `empty`, or served by the `next` pair's old
        one
    shared : roles that layers have in common, (l_o, l_n): they come first, then similarity
    """
    old, new = similarity.shape
    scores = similarity if shared is None else _preferring(similarity, shared)
    path = best_path(scores, max_offset) if how == "cka" else fixed_path(old, new, how)
    return serve_all(path, new) if unmatched == "next" else path


def write_path(
    file: str | os.PathLike[str],
    inputs: Mapping[str, str],
    similarity: np.ndarray,
    *,
    layers: str,
    max_offset: int | None,
    unmatched: str,
    shared: np.ndarray | None = None,
) -> LayerPath:
    """Choose the layer path and store it with the similarity of each pair.

    Parameters
    ----------
    inputs : identities of what the similarity comes from
    similarity : (l_o, l_n)
    layers, max_offset, unmatched : settings of the mapping, as in `layer_path`
    shared : as in `layer_path`
    """
    path = layer_path(similarity, layers, max_offset, unmatched, shared)
    rows = [[old, new, float(similarity[old, new])] for old, new in path]
    content: dict[str, Any] = {
        "path": rows,
        "max_offset": max_offset,
        "unmatched": unmatched,
        "total": sum(row[2] for row in rows),
        "rule": layers,
        "layers": list(similarity.shape),
    }
    write_json(os.fspath(file), "layers", inputs, content)
    return path


def read_path(file: str | os.PathLike[str]) -> LayerPath:
    """The (old, new) layers of layers.json."""
    return [(old, new) for old, new, _ in read_json(os.fspath(file), "layers")["path"]]
