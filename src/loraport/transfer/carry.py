"""Carrying one adapter through the maps of a pair: a few thin products a module, and no base model.

`B_n = Σ L B_o`, `A_n = A_o R`: the update's rank stays at most r, so that no d×d product and no
large SVD is needed. The factors are then balanced, which equals the truncated SVD that LoRASuite
takes of the full d×d update (arXiv 2505.13515), at O(d r²) in place of O(d³), multiplied by the
gain, and put into the gauge that is asked for (`gauge`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..adapters.audit import audit
from ..adapters.files import read_adapter, write_adapter
from ..adapters.lora_weights import LoraWeights
from ..artifacts import read_json, write_json
from ..errors import LoraportError
from ..models.side import Side
from ..models.spec import load_spec
from ..numerics.lowrank import balance, truncated_sum
from ..provenance import versions
from .card import write_card
from .experts import carry_experts, left_experts
from .gauge import fresh_rows, in_gauge, scaled
from .guard import by_definition, check_size, listed
from .left import no_layer, no_place
from .magnitudes import carried_magnitude, row_norms
from .maps import Maps, ModuleMap, open_maps
from .modules_to_save import keep_saved
from .new_base import NewBase
from .trained_tokens import carry_tokens
from .vocabulary import carry_from

Place = tuple[int, str]  # (layer, module below the block)


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


def carry_module(sources: list[Source], new: Side, module: str) -> tuple[LoraWeights, float]:
    """One module's new factors, balanced.

    Parameters
    ----------
    sources : one for each role that the new module stacks and the adapter adapts
    new : the layer
    module : the new module, below its block

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
    shared: dict[tuple[str, str], np.ndarray] = {}
    ranks: dict[tuple[str, str], int] = {}
    parts = []
    for source in sources:
        b_old = source.weights.b.astype(np.float64)
        a_old = source.weights.a.astype(np.float64) * _ratio(source.weights, like)
        key = (source.module, source.map.right_key)
        carried = [term.carry(b_old, a_old) for term in source.map.terms]
        shared.setdefault(key, np.vstack([a for _, a in carried]))
        ranks[key] = source.weights.rank
        parts.append((source.map.role, key, np.hstack([b for b, _ in carried])))
    a_new = np.vstack(list(shared.values()))
    starts = dict(zip(shared, np.cumsum([0, *(len(a) for a in shared.values())]), strict=False))
    b_new = np.zeros((new.family.module_shape(module, new.dims)[0], len(a_new)))
    for role, key, b in parts:
        rows = new.family.rows(role, new.dims)
        columns = slice(starts[key], starts[key] + b.shape[1])
        b_new[slice(None) if rows is None else rows, columns] = b
    rank = sum(ranks.values())
    constant = _constant(sources, new, module, b_new.shape[0])
    kept = 1.0
    if constant is not None:
        b_new, a_new, kept = truncated_sum(constant / like.scale, b_new, a_new, rank)
    elif rank:
        b_new, a_new, kept = balance(b_new, a_new, rank)
    return like.replaced(b_new, a_new), kept


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


def carry(
    adapter: Mapping[Place, LoraWeights],
    maps: Maps,
    old: Side,
    new: Side,
    *,
    scale: str = "paper",
    new_layers: str = "zero",
    factors: str = "balanced",
    gain: float = 1.0,
) -> tuple[dict[Place, LoraWeights], dict[str, Any]]:
    """Carry an audited adapter to the new model.

    Parameters
    ----------
    scale : `paper` keeps what the maps give; `norm` rescales each module so that ‖ΔW_n‖/‖W_n‖ =
        ‖ΔW_o‖/‖W_o‖
    new_layers : `zero` or `init`, for layers without a source
    factors : the gauge of the carried factors, `balanced` or `fresh`; the update is the same
    gain : multiplies every carried update; the report's norms are those behind it

    Returns
    -------
    (layer, module) -> factors for every layer of the new model, and a report: per module its
    source, norms and relative norms, and the old layers that were left behind

    Notes
    -----
    O(r · stored numbers of the maps) a module.
    """
    result: dict[Place, LoraWeights] = {}
    modules: dict[str, Any] = {}
    used = set()
    for layer in range(new.dims.layers):
        here = new.at(layer)
        for module, roles in here.modules.items():
            homes = {r: old.family.module_of(r) for r in roles if r in old.family.roles}
            kin = [weights for (_, home), weights in adapter.items() if home in homes.values()]
            if not kin:
                continue  # the adapter does not adapt this kind of module
            entries = {role: _map_of(maps, layer, role, old) for role in homes}
            sources = _sources(adapter, entries, homes, old)
            name = new.family.path(layer, module)
            if sources:
                used |= {(source.map.old_layer, source.module) for source in sources}
                weights, kept = carry_module(sources, here, module)
                if scale == "norm":
                    weights = _rescaled(weights, sources)
                weights = with_row_vectors(weights, sources, here, module, entries)
                weights = scaled(weights, gain, _base_rows(weights, here, module, entries))
                modules[name] = _account(weights, sources, kept, gain)
                weights = in_gauge(weights, factors, name)
            elif any(entries.values()) or kin[0].magnitude is not None:
                continue  # left alone by the adapter, or without norms for DoRA's magnitudes
            else:
                weights = _without_source(kin, here, module, new_layers, name)
                modules[name] = {"source": None}
            result[layer, module] = weights
    left = sorted(old.family.path(*place) for place in adapter if place not in used)
    return result, {"modules": modules, "left_behind": left}


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
            carried = sum(term.carry_left(held.bias[:, None])[:, 0] for term in entry.terms)
            bias[place] = carried * _ratio(held, weights)
        if dora:
            magnitude[place] = (
                row_norms(entry)[1] if held is None else carried_magnitude(held, entry)
            )
    if dora:
        return replace(weights, magnitude=_complete(magnitude, module).astype(np.float32))
    has_bias = any(each.bias is not None for each in of_role.values())
    return replace(weights, bias=bias.astype(np.float32)) if has_bias else weights


def _base_rows(
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


def _rescaled(weights: LoraWeights, sources: list[Source]) -> LoraWeights:
    before, base_old, base_new = _norms(sources)
    now = weights.norm()
    if not (now > 0 and base_old > 0):
        return weights
    root = math.sqrt(before / base_old * base_new / now)
    return weights.replaced(weights.b * root, weights.a * root)


def _account(
    weights: LoraWeights, sources: list[Source], kept: float, gain: float
) -> dict[str, Any]:
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


def chosen_gain(
    settings: Mapping[str, Any], path: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings with a gain that is a number, and what it rests on.

    Parameters
    ----------
    settings : of the transfer; `gain` is a number, or `auto`: as was chosen on texts where there
        are any, else 1
    path : the artifact of that choice, or None
    """
    asked = settings.get("gain", 1.0)
    if asked != "auto":
        about: dict[str, Any] = {"gain": float(asked), "chosen_on": "given as a number"}
    elif path is None:
        about = {"gain": 1.0, "chosen_on": "nothing: there were no texts to choose it on"}
    else:
        content = read_json(path, "gain")
        keys = ("gain", "curve", "improvement", "standard_error", "examples", "chosen_on")
        about = {key: content[key] for key in keys}
    return {**settings, "gain": about["gain"]}, about


def transfer_files(
    source: Path,
    artifacts: Mapping[str, str],
    identities: Mapping[str, str],
    out: Path,
    params: Mapping[str, Any],
) -> dict[str, Any]:
    """Carry an adapter directory into the folder `out`, with its provenance in transfer.json.

    Parameters
    ----------
    artifacts : paths of `old_spec`, `new_spec`, `maps`, for adapters of the vocabulary
        `embedding` and, where one was chosen on texts, `gain`
    identities : of those
    params : `settings` (the transfer section), `of` (names of the models, app and method),
        `known_as` (names of the old base), `base` and `revision` (the new base, as recorded),
        `old_base` (the old one, as recorded), `source` (where the new base is)

    Returns
    -------
    content of transfer.json
    """
    models = load_spec(artifacts["old_spec"]), load_spec(artifacts["new_spec"])
    old, new = (Side(model.architecture, model.dims) for model in models)
    adapter = read_adapter(source)
    specs = [read_json(artifacts[f"{side}_spec"], "spec") for side in ("old", "new")]
    revision, resolved = (spec["revision"] for spec in specs)
    everything = {"vocabulary": True, "experts": True}
    located = audit(adapter, old.family, old.dims, params["known_as"], revision, **everything)
    embedding = artifacts.get("embedding")
    base_of = NewBase.of(artifacts["new_spec"], params)
    saved = keep_saved(adapter, old, new, embedding, base_of)
    trained = carry_tokens(adapter, old, new, embedding, base_of, models[0].tied)
    words, of_words = carry_from(adapter, embedding, old, new, base_of)
    settings, chosen = chosen_gain(params["settings"], artifacts.get("gain"))
    words = {path: scaled(each, settings["gain"]) for path, each in words.items()}
    dtype, allow_large = settings.pop("dtype"), settings.pop("allow_large", False)
    with open_maps(artifacts["maps"]) as maps:
        weights, report = carry(located, maps, old, new, **settings)
        served = [(maps.source(layer), layer) for layer in range(new.dims.layers)]
        method = maps.method
    experts, of_experts = carry_experts(
        adapter, artifacts.get("experts"), old, new, settings["gain"]
    )
    told, oversized = check_size(report["modules"], allow_large=allow_large)
    told = [*no_place(located, old, new), *no_layer(located, served, old, new),
            *left_experts(of_experts), *told]  # fmt: skip
    base = params["base"], resolved or params["revision"]
    write_adapter(
        out,
        adapter.config,
        *base,
        new.family,
        new.dims.layers,
        weights,
        dtype,
        {**saved, **trained.rows},
        words,
        trained.ids,
        experts,
    )
    content = {
        "of": dict(params["of"]),
        "method": method,
        "settings": dict(params["settings"]),
        "gain": chosen,
        "adapter": adapter.hashes(),
        "versions": versions("numpy", "h5py", "safetensors"),
        "kept": sorted(saved),
        "vocabulary": of_words,
        **({"experts": of_experts} if of_experts else {}),
        **({"trained_tokens": trained.ids} if adapter.tokens else {}),
        "warnings": [*adapter.warnings, *told],
        **report,
        **listed(oversized),
    }
    write_json(out / "transfer.json", "transfer", identities, content)
    write_card(out, content, (params.get("old_base", params["of"]["old"]), revision), base)
    return content


def transfer_whole(
    source: Path,
    artifacts: Mapping[str, str],
    identities: Mapping[str, str],
    out: Path,
    params: Mapping[str, Any],
    **settings: Any,
) -> dict[str, Any]:
    """`transfer_files` at a gain of 1 and of any size, to be tried before anything is served.

    Parameters
    ----------
    out : a folder that is made
    settings : further ones of the transfer section, over those of `params`
    """
    out.mkdir()
    forced = {**params["settings"], "gain": 1.0, "allow_large": True, **settings}
    return transfer_files(source, artifacts, identities, out, {**params, "settings": forced})
