"""Experts' updates in the tensors of a checkpoint: one for all experts, or some for each."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from ..adapters.experts import PARAMETERS, Experts, Factors, joined
from ..errors import LoraportError
from ..models.spec import Model
from ..models.weights import Checkpoint

Change = Callable[[np.ndarray, slice], np.ndarray]
Named = tuple[str, tuple[tuple[int, ...], Change]]


def expert_changes(
    layers: dict[int, Experts], model: Model, checkpoint: Checkpoint
) -> dict[str, tuple[tuple[int, ...], Change]]:
    """Name of a tensor -> its shape and what happens to it: `change(base, rows)` gives rows, in
    float64, of its first axis.

    Raises
    ------
    LoraportError
        For weights that are packed, to which nothing can be added.
    """
    family = model.architecture
    changes: dict[str, tuple[tuple[int, ...], Change]] = {}
    for layer, experts in layers.items():
        kinds = zip(PARAMETERS, (joined(experts.gate_up, family), experts.down), strict=True)
        for name, factors in kinds:
            if factors is not None:
                own = f"{family.routed['experts']}.{name}"
                changes |= dict(_of_parameter(layer, own, factors, model, checkpoint))
        if experts.router is not None:
            b, a = experts.router
            own = f"{family.routed['router']}.weight"
            name = _stored(layer, own, model, checkpoint)[0]
            changes[name] = (b.shape[1], a.shape[2]), partial(_rows_added, b[0], a[0])
    return changes


def _stored(layer: int, own: str, model: Model, checkpoint: Checkpoint) -> list[str]:
    """The tensors that a parameter is stored as; of each expert still with `{expert}`."""
    family = model.architecture
    if family.path(layer, own) in checkpoint:
        return [family.path(layer, own)]
    return [family.path(layer, part) for part in family.stored.get(own, (own,))]


def _of_parameter(
    layer: int, own: str, factors: Factors, model: Model, checkpoint: Checkpoint
) -> Iterator[Named]:
    b, a = factors
    names = _stored(layer, own, model, checkpoint)
    if "{expert}" in names[0]:
        rows = b.shape[1] // len(names)
        for expert in range(len(b)):
            for place, name in enumerate(names):
                part = b[expert, place * rows : (place + 1) * rows]
                shape = rows, a.shape[2]
                yield name.format(expert=expert), (shape, partial(_rows_added, part, a[expert]))
        return
    if names[0].endswith("_blocks"):
        raise LoraportError(
            f"an adapter of experts can't be merged into {model.directory}",
            got=f"{names[0]}: weights packed in MXFP4",
            expected="weights of experts as numbers",
            todo="merge it into a model whose experts were unpacked and saved as bfloat16",
        )
    turned = model.architecture.routed["axes"] == "in_out"
    sizes = (a.shape[2], b.shape[1]) if turned else (b.shape[1], a.shape[2])
    yield names[0], ((len(b), *sizes), partial(_experts_added, b, a, turned))


def _rows_added(b: np.ndarray, a: np.ndarray, base: np.ndarray, rows: slice) -> np.ndarray:
    return base.astype(np.float64) + b[rows].astype(np.float64) @ a.astype(np.float64)


def _experts_added(
    b: np.ndarray, a: np.ndarray, turned: bool, base: np.ndarray, experts: slice
) -> np.ndarray:
    update = b[experts].astype(np.float64) @ a[experts].astype(np.float64)
    return base.astype(np.float64) + (update.swapaxes(1, 2) if turned else update)
