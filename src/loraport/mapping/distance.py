"""How far apart two models are, and how well the pieces of their mapping fit.

Model distance: `mean_i ‖W_o⁽ⁱ⁾ − W_n⁽ⁱ⁾‖_F / numel(W_n⁽ⁱ⁾)` over the parameters i that stand in
both under one name and shape (the trivial-baselines study). Weights are read one tensor at a time.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..adapters.lora_weights import LoraWeights
from ..artifacts import read_json
from ..models.spec import Model
from ..transfer.embedding_file import read_about
from .assignments import read_assignment


def model_distance(old: Model, new: Model) -> dict[str, Any]:
    """Distances per tensor, per layer and overall.

    Returns
    -------
    `mean` (None where no parameter has a twin), `layers` (new layer -> mean over its tensors),
    `tensors` (name -> distance), and `left_out`: names of the new model without a twin
    """
    files = old.checkpoint(), new.checkpoint()
    family, tensors, left_out = new.architecture, {}, []
    layers: dict[int, list[float]] = defaultdict(list)
    for name in sorted(files[1].names()):
        twin = name in files[0] and files[0].shape(name) == files[1].shape(name)
        if not twin or files[1].dtype(name).kind in "iub":  # packed numbers have no distance
            left_out.append(name)
            continue
        difference, size = tensor_distance(*(file.read(name) for file in files))
        tensors[name] = difference / size
        head, tail = family.block.split("{layer}")
        if name.startswith(head):
            layers[int(name[len(head) :].split(tail or ".")[0])].append(tensors[name])
    return {
        "mean": float(np.mean(list(tensors.values()))) if tensors else None,
        "layers": {str(layer): float(np.mean(held)) for layer, held in sorted(layers.items())},
        "tensors": tensors,
        "left_out": left_out,
    }


def tensor_distance(old: np.ndarray, new: np.ndarray) -> tuple[float, int]:
    """‖old − new‖_F in float64, and the number of entries."""
    return float(np.linalg.norm(new.astype(np.float64) - old.astype(np.float64))), new.size


def mapping_quality(layers: str | Path, embedding: str | Path, heads: str | Path) -> dict[str, Any]:
    """What the mapping's artifacts say about its fit.

    Returns
    -------
    `path`: similarity of each matched layer pair and their mean; `embedding`: rule, relative
    residual, condition number and shared tokens; `heads`: mean similarity of the assignment, per
    new layer and overall, beside that of a random assignment (the mean over all pairs, which is
    its expectation) and of the default order
    """
    rows = read_json(layers, "layers")["path"]
    shown = ("rule", "residual", "condition", "tokens_shared")
    about = {key: value for key, value in read_about(embedding).items() if key in shown}
    by_layer = {}
    for _, layer, _ in rows:
        if (of_heads := read_assignment(heads, layer)) is None:
            continue  # one of both layers has no heads
        similarity, matched = of_heads
        by_layer[str(layer)] = {
            "assigned": _mean(similarity[matched[:, 0], matched[:, 1]]),
            "random": float(similarity.mean()),
            "default_order": float(np.diag(similarity).mean()),
        }
    keys = ("assigned", "random", "default_order")
    means = {
        key: _mean(np.array([each[key] for each in by_layer.values() if each[key] is not None]))
        for key in keys
    }
    return {
        "path": {"pairs": rows, "mean": float(np.mean([row[2] for row in rows]))},
        "embedding": about,
        "heads": {**means, "layers": by_layer},
    }


def _mean(values: np.ndarray) -> float | None:
    """None where there is nothing: no head is assigned by `heads: none`."""
    return float(values.mean()) if values.size else None


def update_magnitudes(located: Mapping[tuple[int, str], LoraWeights]) -> dict[str, Any]:
    """`‖s B A‖_F²` of an adapter's modules.

    Parameters
    ----------
    located : (layer, module below the block) -> factors, as `adapter.audit` gives them

    Returns
    -------
    `total`, and sums by the module's `kinds` (its last name, such as q_proj) and by `layers`
    """
    kinds: dict[str, float] = defaultdict(float)
    layers: dict[str, float] = defaultdict(float)
    for (layer, module), weights in sorted(located.items()):
        kinds[module.rpartition(".")[2]] += weights.norm() ** 2
        layers[str(layer)] += weights.norm() ** 2
    return {"total": math.fsum(layers.values()), "kinds": dict(kinds), "layers": dict(layers)}
