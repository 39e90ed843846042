"""Carrying one adapter through the maps of a pair: a few thin products a module, and no base model.

Each module's factors are carried and balanced (`carry_module`), multiplied by the gain, and put
into the gauge that is asked for (`gauge`). `files` reads and writes the directories around it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from ..adapters.lora_weights import LoraWeights
from ..models.side import Side
from ..numerics.pool import side_by_side
from .carry_module import Source, account, base_rows, carry_module, rescaled, with_row_vectors
from .gauge import fresh_rows, in_gauge, scaled
from .maps import Maps, ModuleMap

Place = tuple[int, str]  # (layer, module below the block)


def new_layer(
    rank: int, shape: tuple[int, int], how: str, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Factors for a module that no old layer serves.

    `zero` (the authors'): both zero, which has no gradient. `init`: LoRA's standard start, A
    uniform in ±1/√d_in (Kaiming with a = √5) from a seed that is the module's name, B zero.
    """
    b = np.zeros((shape[0], rank))
    if how == "zero":
        return b, np.zeros((rank, shape[1]))
    return b, fresh_rows(rank, shape[1], name)


@dataclass(frozen=True)
class How:
    """How the factors of all modules are carried.

    Attributes
    ----------
    scale : `paper` keeps what the maps give; `norm` rescales each module so that ‖ΔW_n‖/‖W_n‖ =
        ‖ΔW_o‖/‖W_o‖
    new_layers : `zero` or `init`, for layers without a source
    factors : the gauge of the carried factors, `balanced` or `fresh`; the update is the same
    gain : multiplies every carried update; the report's norms are those behind it
    precision : of the products with the maps, float64 or float32; all else is float64
    """

    scale: str = "paper"
    new_layers: str = "zero"
    factors: str = "balanced"
    gain: float = 1.0
    precision: type = np.float64


class Made(NamedTuple):
    """A carried module: its factors, its part of the report, and the old modules it came from."""

    weights: LoraWeights
    report: dict[str, Any]
    used: frozenset[Place] = frozenset()


def carry(
    adapter: Mapping[Place, LoraWeights],
    maps: Maps,
    old: Side,
    new: Side,
    *,
    workers: int = 1,
    **how: Any,
) -> tuple[dict[Place, LoraWeights], dict[str, Any]]:
    """Carry an audited adapter to the new model.

    Parameters
    ----------
    workers : modules that are carried side by side; the result is the same for any number
    how : see `How`

    Returns
    -------
    (layer, module) -> factors for every layer of the new model, and a report: per module its
    source, norms and relative norms, and the old layers that were left behind

    Notes
    -----
    O(r · stored numbers of the maps) a module, each by one thread of the linear algebra's.
    """
    places = [
        (layer, module) for layer in range(new.dims.layers) for module in new.at(layer).modules
    ]
    one = partial(_carry_one, adapter, maps, old, new, How(**how))
    result: dict[Place, LoraWeights] = {}
    modules: dict[str, Any] = {}
    used: set[Place] = set()
    with threadpool_limits(1):
        for place, made in zip(places, side_by_side(one, places, workers), strict=True):
            if made:
                result[place], modules[new.family.path(*place)] = made.weights, made.report
                used |= made.used
    left = sorted(old.family.path(*place) for place in adapter if place not in used)
    return result, {"modules": modules, "left_behind": left}


def _carry_one(
    adapter: Mapping[Place, LoraWeights], maps: Maps, old: Side, new: Side, how: How, place: Place
) -> Made | None:
    """A module of the new model; None where the adapter does not adapt it."""
    layer, module = place
    here, name = new.at(layer), new.family.path(layer, module)
    homes = {r: old.family.module_of(r) for r in here.modules[module] if r in old.family.roles}
    kin = [weights for (_, home), weights in adapter.items() if home in homes.values()]
    if not kin:
        return None  # the adapter does not adapt this kind of module
    entries = {role: _map_of(maps, layer, role, old) for role in homes}
    sources = _sources(adapter, entries, homes, old)
    if not sources:
        if any(entries.values()) or kin[0].magnitude is not None:
            return None  # left alone by the adapter, or without norms for DoRA's magnitudes
        return Made(_without_source(kin, here, module, how.new_layers, name), {"source": None})
    weights, kept = carry_module(sources, here, module, how.precision)
    if how.scale == "norm":
        weights = rescaled(weights, sources)
    weights = with_row_vectors(weights, sources, here, module, entries)
    weights = scaled(weights, how.gain, base_rows(weights, here, module, entries))
    report = account(weights, sources, kept, how.gain)
    used = frozenset((source.map.old_layer, source.module) for source in sources)
    return Made(in_gauge(weights, how.factors, name), report, used)


def _map_of(maps: Maps, layer: int, role: str, old: Side) -> ModuleMap | None:
    """A role's map; None where no old layer serves the new one, or one without the role."""
    source = maps.source(layer)
    if source is None or role not in old.at(source).roles:
        return None
    return maps.module(layer, role)


def _sources(
    adapter: Mapping[Place, LoraWeights],
    entries: Mapping[str, ModuleMap | None],
    homes: Mapping[str, str],
    old: Side,
) -> list[Source]:
    """What each role of a new module is made from, where the adapter has it."""
    sources = []
    for role, entry in entries.items():
        if entry is not None and (entry.old_layer, homes[role]) in adapter:
            weights = adapter[entry.old_layer, homes[role]]
            rows = old.family.rows(role, old.dims.at(entry.old_layer))
            sources.append(Source(entry, homes[role], weights.rows(rows)))
    return sources


def _without_source(
    kin: list[LoraWeights], new: Side, module: str, how: str, name: str
) -> LoraWeights:
    """A module of a layer that no old layer serves, of the kind and rank of its kin."""
    like = max(kin, key=lambda each: each.rank)
    shape = new.family.module_shape(module, new.dims)
    weights = like.replaced(*new_layer(like.rank, shape, how, name))
    return weights if like.bias is None else replace(weights, bias=np.zeros(shape[0], np.float32))
