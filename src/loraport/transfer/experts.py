"""Experts' own updates, carried from each expert to the one that does the same in the new model.

With e the old expert of a new one, n(k) the old neuron of its neuron k, R and L the maps of what
experts read and write: gate and up `B_n[k] = B_o[n(k)]`, `A_n = A_o R`; down `B_n = L B_o`,
`A_n[:, k] = A_o[:, n(k)]`; the router's row of each expert `B_n = B_o[e]`, `A_n = A_o R`. The rank
stays.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..adapters.experts import Experts, gathered, is_routed
from ..errors import LoraportError
from ..models.side import Side
from .experts_file import LayerExperts, open_experts

if TYPE_CHECKING:
    from ..adapters.files import Adapter


def check_experts(adapter: "Adapter", old: Side, new: Side) -> None:
    """Refuse experts' updates that have no counterparts, as far as both configs tell.

    Raises
    ------
    LoraportError
        For a new model without experts, with other ones, or of a family whose experts are left.
    """
    if not any(is_routed(path, old.family) for path in adapter.modules):
        return
    sides = [(side.dims.experts, side.dims.intermediate) for side in (old, new)]
    if not new.family.routed or sides[0] != sides[1]:
        raise LoraportError(
            f"adapter {adapter.directory} adapts experts, which have no counterparts in the new "
            "model",
            got=f"{sides[0][0]} experts of {sides[0][1]} neurons; {new.family.name} "
            + (f"has {sides[1][0]} of {sides[1][1]}" if new.family.experts else "has none"),
            expected="as many experts, as wide, which a router chooses by their inputs",
            todo="carry it to a model of the same make, or train it on the modules of attention",
        )


def carry_experts(
    adapter: "Adapter", path: str | None, old: Side, new: Side, gain: float
) -> tuple[dict[int, Experts], dict[str, Any]]:
    """An adapter's experts for the new model.

    Parameters
    ----------
    path : of the experts artifact
    gain : multiplies every update

    Returns
    -------
    new layer -> updates; and for transfer.json per new layer its source, norms and the match, with
    the old layers whose experts serve no new layer
    """
    held = gathered(adapter.modules, old.family, old.dims)
    if not held:
        return {}, {}
    check_experts(adapter, old, new)
    if path is None:
        raise LoraportError(
            f"adapter {adapter.directory} adapts experts, and no match of experts was given",
            expected="the artifact experts.h5 of its pair",
            todo="run the workflow, which makes it",
        )
    carried: dict[int, Experts] = {}
    layers: dict[str, Any] = {}
    with open_experts(path) as file:
        for layer in file.layers():
            match = file.read(layer)
            if match.old_layer not in held:
                continue
            before = held[match.old_layer]
            carried[layer] = _carried(before, match, gain)
            layers[str(layer)] = {
                "source": match.old_layer,
                "norm_before": before.norm(),
                "norm_after": carried[layer].norm(),
                **match.about,
            }
    left = sorted(set(held) - {each["source"] for each in layers.values()})
    return carried, {"layers": layers, "left_behind": left}


def left_experts(report: Mapping[str, Any]) -> list[str]:
    """A line, or none, on old layers whose experts serve no layer of the new model."""
    left = report.get("left_behind", [])
    if not left:
        return []
    which = ", ".join(map(str, left))
    return [f"the experts of old layer {which} will be left behind: no new layer is matched"]


def _carried(before: Experts, match: LayerExperts, gain: float) -> Experts:
    gate_up = down = router = None
    experts = np.arange(len(match.experts))[:, None]
    if before.gate_up is not None:
        b, a = (each[match.experts] for each in before.gate_up)
        rows = np.take_along_axis(b, match.neurons[:, None, :, None], axis=2)
        gate_up = gain * rows, a.astype(np.float64) @ match.right
    if before.down is not None:
        b, a = (each[match.experts] for each in before.down)
        ranks = np.arange(a.shape[1])[None, :, None]
        down = (
            gain * (match.left @ b.astype(np.float64)),
            a[experts[:, :, None], ranks, match.neurons[:, None, :]],
        )
    if before.router is not None:
        b, a = before.router
        router = gain * b[:, match.experts], a.astype(np.float64) @ match.right
    return Experts(*(each and _single(each) for each in (gate_up, down, router)))


def _single(factors: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    b, a = factors
    return b.astype(np.float32), a.astype(np.float32)
