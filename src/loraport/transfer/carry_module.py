"""One module's carried factors, balanced, with what its kind keeps for each row.

`B_n = Σ L B_o`, `A_n = A_o R`: the update's rank stays at most r, so that no d×d product and no
large SVD is needed. The factors are then balanced, which equals the truncated SVD that LoRASuite
takes of the full d×d update (arXiv 2505.13515), at O(d r²) in place of O(d³).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..adapters.lora_weights import LoraWeights
from ..errors import LoraportError
from ..models.side import Side
from ..numerics.lowrank import balance, truncated_sum
from .guard import by_definition
from .magnitudes import carried_magnitude, row_norms
from .maps import ModuleMap

Key = tuple[str, str]  # an old module, and what tells its R from others


@dataclass(frozen=True)
class Source:
    """What one role of a new module is made from.

    Attributes
    ----------
    map : the role's map
    module : the old module that holds the role, maybe fused with others
    weights : the role's rows of that module's factors
    """

    map: ModuleMap
    module: str
    weights: LoraWeights


def carry_module(
    sources: list[Source], new: Side, module: str, precision: type = np.float64
) -> tuple[LoraWeights, float]:
    """One module's new factors, balanced.

    Parameters
    ----------
    sources : one for each role that the new module stacks and the adapter adapts
    new : the layer
    module : the new module, below its block
    precision : of the products with the maps, float64 or float32; all else is float64

    Returns
    -------
    factors, and the share of ‖B A‖² kept

    Notes
    -----
    Roles that come from one old module by the same R share A, and the rank stays r. Where they do
    not (separate q, k, v into a fused module), their factors stand side by side: the rank is the
    sum over the different A, alpha grows with it, and nothing is lost.
    """
    sources = [source for source in sources if source.weights.rank] or sources[:1]
    like = max((source.weights for source in sources), key=lambda each: abs(each.scale))
    shared: dict[Key, np.ndarray] = {}
    ranks: dict[Key, int] = {}
    parts: list[tuple[str, Key, np.ndarray]] = []
    for source in sources:
        b_old: np.ndarray = source.weights.b.astype(precision)
        a_old = source.weights.a.astype(np.float64) * _ratio(source.weights, like)
        key = (source.module, source.map.right_key)
        carried = [term.carry(b_old, a_old.astype(precision)) for term in source.map.terms]
        shared.setdefault(key, _joined([a for _, a in carried], 0))
        ranks[key] = source.weights.rank
        parts.append((source.map.role, key, _joined([b for b, _ in carried], 1)))
    a_new = _joined(list(shared.values()), 0).astype(np.float64, copy=False)
    if new.family.rows(parts[0][0], new.dims) is None:  # the module holds this role alone
        b_new = parts[0][2].astype(np.float64, copy=False)
    else:
        b_new = _placed(parts, shared, new, module)
    rank = sum(ranks.values())
    constant = _constant(sources, new, module, b_new.shape[0])
    kept = 1.0
    if constant is not None:
        b_new, a_new, kept = truncated_sum(constant / like.scale, b_new, a_new, rank)
    elif rank:
        b_new, a_new, kept = balance(b_new, a_new, rank)
    return like.replaced(b_new, a_new), kept


def _joined(pieces: list[np.ndarray], axis: int) -> np.ndarray:
    """Pieces side by side; one of them is not copied."""
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis)


def _placed(
    parts: list[tuple[str, Key, np.ndarray]], shared: dict[Key, np.ndarray], new: Side, module: str
) -> np.ndarray:
    """B of a fused module: each role's in its rows, in the columns of the A that it goes with."""
    widths = [len(a) for a in shared.values()]
    starts = dict(zip(shared, np.cumsum([0, *widths]), strict=False))
    b_new = np.zeros((new.family.module_shape(module, new.dims)[0], sum(widths)))
    for role, key, b in parts:
        b_new[new.family.rows(role, new.dims), starts[key] : starts[key] + b.shape[1]] = b
    return b_new


def _ratio(weights: LoraWeights, like: LoraWeights) -> float:
    """Scale of a source as a multiple of the new module's."""
    return weights.scale / like.scale if like.scale else 1.0


def _constant(sources: list[Source], new: Side, module: str, height: int) -> np.ndarray | None:
    """What a method adds to a module's update, (d_out, d_in) float64, fused where the module is."""
    held = [source.map for source in sources if source.map.constant is not None]
    if not held:
        return None
    total = np.zeros((height, held[0].constant.shape[1]))
    for each in held:
        rows = new.family.rows(each.role, new.dims)
        total[slice(None) if rows is None else rows] = each.constant
    return total


def with_row_vectors(
    weights: LoraWeights,
    sources: list[Source],
    new: Side,
    module: str,
    entries: Mapping[str, ModuleMap | None],
) -> LoraWeights:
    """A carried module with what its kind keeps for each row: a bias (by L), DoRA's magnitudes.

    Parameters
    ----------
    entries : role of the new module -> its map; rows of a role that the adapter leaves alone keep
        their norm, and so need one as well
    """
    height = weights.b.shape[0]
    bias, magnitude = np.zeros(height), np.zeros(height)
    of_role = {source.map.role: source.weights for source in sources}
    dora = sources[0].weights.magnitude is not None
    for role, entry in entries.items():
        if entry is None:
            continue
        rows = new.family.rows(role, new.dims)
        place, held = slice(None) if rows is None else rows, of_role.get(role)
        if held is not None and held.bias is not None:
            bias_old = held.bias[:, None].astype(np.float64)
            carried = sum(term.carry_left(bias_old)[:, 0] for term in entry.terms)
            bias[place] = carried * _ratio(held, weights)
        if dora:
            magnitude[place] = (
                row_norms(entry)[1] if held is None else carried_magnitude(held, entry)
            )
    if dora:
        return replace(weights, magnitude=_complete(magnitude, module).astype(np.float32))
    has_bias = any(each.bias is not None for each in of_role.values())
    return replace(weights, bias=bias.astype(np.float32)) if has_bias else weights


def base_rows(
    weights: LoraWeights, new: Side, module: str, entries: Mapping[str, ModuleMap | None]
) -> np.ndarray | None:
    """‖W_n‖ of each row of a DoRA module, (d_out,), from the maps of the roles that it holds."""
    if weights.magnitude is None:
        return None
    norms = np.zeros(len(weights.magnitude))
    for role, entry in entries.items():
        if entry is not None:
            rows = new.family.rows(role, new.dims)
            norms[slice(None) if rows is None else rows] = row_norms(entry)[1]
    return norms


def _complete(magnitude: np.ndarray, module: str) -> np.ndarray:
    if (magnitude > 0).all():
        return magnitude
    raise LoraportError(
        f"a DoRA adapter can't be carried to {module}: not all of its rows have a magnitude",
        got=f"{int((magnitude <= 0).sum())} of {len(magnitude)} rows without one",
        expected="maps for every role that the module holds, and base rows that are not zero",
        todo="map all of its roles (mapping.modules), or convert the adapter to plain LoRA",
    )


def _norms(sources: list[Source]) -> tuple[float, float, float]:
    """‖ΔW_o‖, ‖W_o‖ and ‖W_n‖ of the roles that a module is made from."""
    return (
        math.hypot(*(source.weights.norm() for source in sources if source.weights.rank)),
        math.hypot(*(source.map.norm_old for source in sources)),
        math.hypot(*(source.map.norm_new for source in sources)),
    )


def rescaled(weights: LoraWeights, sources: list[Source]) -> LoraWeights:
    """The update scaled so that ‖ΔW_n‖ / ‖W_n‖ is ‖ΔW_o‖ / ‖W_o‖; as it is if W_o is zero."""
    before, base_old, base_new = _norms(sources)
    now = weights.norm()
    if not (now > 0 and base_old > 0):
        return weights
    root = math.sqrt(before / base_old * base_new / now)
    return weights.replaced(weights.b * root, weights.a * root)


def account(
    weights: LoraWeights, sources: list[Source], kept: float, gain: float
) -> dict[str, Any]:
    """What transfer.json tells of a carried module: where it is from, its norms, and what is kept
    of it (`kept`, a share of its energy).
    """
    before, base_old, base_new = _norms(sources)
    after = weights.norm()
    return {
        "source": sources[0].map.old_layer,
        "norm_before": before,
        "norm_after": after,
        "relative_norm_before": before / base_old if base_old else 0.0,
        "relative_norm_after": after / base_new if base_new else 0.0,
        "energy_kept": kept,
        **by_definition((source.map for source in sources), base_new / gain if gain else 0.0),
    }
