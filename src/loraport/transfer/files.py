"""An adapter directory through the maps of a pair, into a folder with its record and its card."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..adapters.audit import audit
from ..adapters.experts import Experts
from ..adapters.files import Adapter, read_adapter, write_adapter
from ..adapters.lora_weights import LoraWeights
from ..artifacts import read_json, write_json
from ..models.side import Side
from ..models.spec import load_spec
from ..provenance import versions
from .card import write_card
from .carry import Place, carry
from .experts import carry_experts, left_experts
from .gauge import scaled
from .guard import check_size, listed
from .left import made_elsewhere, no_layer, no_place
from .maps import open_maps
from .modules_to_save import keep_saved
from .new_base import NewBase
from .trained_tokens import Carried, carry_tokens
from .vocabulary import carry_from

# Of products with the maps, by the dtype that is written. Rounding to bfloat16 changes an update by
# 2e-3 of its norm; float32 products by 1e-6, and by 1e-4 where the old weights are as badly
# conditioned as two-byte maps allow (tests/unit/transfer/test_carry.py)
PRECISIONS = {"float32": np.float64, "bfloat16": np.float32}


@dataclass(frozen=True)
class Pair:
    """Both models of a transfer, by their specs.

    old_tied : whether the old head shares the weight of its embedding
    old_commit, new_commit : on the hub; empty where there is none
    """

    old: Side
    new: Side
    old_tied: bool
    old_commit: str
    new_commit: str

    @classmethod
    def of(cls, artifacts: Mapping[str, str]) -> "Pair":
        """By the paths of both specs."""
        paths = artifacts["old_spec"], artifacts["new_spec"]
        models = [load_spec(path) for path in paths]
        old, new = (Side(model.architecture, model.dims) for model in models)
        commits = (read_json(path, "spec")["revision"] for path in paths)
        return cls(old, new, models[0].tied, *commits)


@dataclass(frozen=True)
class Beside:
    """What is carried beside the modules that have maps.

    saved : whole tensors, by their names in the new model
    trained : rows of single tokens
    words, of_words : factors of the embedding and the head, and what is told of them
    experts, of_experts : updates of experts, and what is told of them
    """

    saved: dict[str, np.ndarray]
    trained: Carried
    words: dict[str, LoraWeights]
    of_words: dict[str, Any]
    experts: dict[int, Experts]
    of_experts: dict[str, Any]

    def told(self, adapter: Adapter) -> dict[str, Any]:
        """As transfer.json records it."""
        return {
            "kept": sorted(self.saved),
            "vocabulary": self.of_words,
            **({"experts": self.of_experts} if self.of_experts else {}),
            **({"trained_tokens": self.trained.ids} if adapter.tokens else {}),
        }


@dataclass(frozen=True)
class Mapped:
    """What passed through the maps.

    weights : (layer, module) of the new model -> factors
    report : as `carry` gives it
    served : (old layer, new layer) for each layer of the new model
    """

    method: str
    weights: dict[Place, LoraWeights]
    report: dict[str, Any]
    served: list[tuple[int | None, int]]


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
    workers: int = 1,
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
    workers : modules that are carried side by side; the files are the same for any number

    Returns
    -------
    content of transfer.json
    """
    pair, adapter = Pair.of(artifacts), read_adapter(source)
    located = _audited(adapter, pair, params["known_as"])
    settings, chosen = chosen_gain(params["settings"], artifacts.get("gain"))
    dtype, allow_large = settings.pop("dtype"), settings.pop("allow_large", False)
    beside = _carry_beside(adapter, artifacts, params, pair, settings["gain"])
    how = {**settings, "precision": PRECISIONS[dtype], "workers": workers}
    mapped = _carry_through(artifacts["maps"], located, pair, how)
    large, oversized = check_size(mapped.report["modules"], allow_large=allow_large)
    left = _left(located, mapped.served, beside, pair)
    base = params["base"], pair.new_commit or params["revision"]
    _write(out, adapter, base, pair.new, mapped, beside, dtype)
    content = {
        "of": dict(params["of"]),
        "method": mapped.method,
        "settings": dict(params["settings"]),
        "gain": chosen,
        "adapter": adapter.hashes(),
        "versions": versions("numpy", "h5py", "safetensors"),
        **beside.told(adapter),
        "warnings": [*adapter.warnings, *left, *large],
        **mapped.report,
        **listed(oversized),
    }
    write_json(out / "transfer.json", "transfer", identities, content)
    write_card(out, content, (params.get("old_base", params["of"]["old"]), pair.old_commit), base)
    return content


def _audited(adapter: Adapter, pair: Pair, known_as: Collection[str]) -> dict[Place, LoraWeights]:
    """Factors of the modules that maps carry, after checks against the old model."""
    everything = {"vocabulary": True, "experts": True, "partly": True}
    old = pair.old
    return audit(adapter, old.family, old.dims, known_as, pair.old_commit, **everything)


def _carry_beside(
    adapter: Adapter,
    artifacts: Mapping[str, str],
    params: Mapping[str, Any],
    pair: Pair,
    gain: float,
) -> Beside:
    """Carry what no map is made for; its updates are multiplied by the gain."""
    old, new = pair.old, pair.new
    embedding, base = artifacts.get("embedding"), NewBase.of(artifacts["new_spec"], params)
    saved = keep_saved(adapter, old, new, embedding, base)
    trained = carry_tokens(adapter, old, new, embedding, base, pair.old_tied)
    words, of_words = carry_from(adapter, embedding, old, new, base)
    words = {path: scaled(each, gain) for path, each in words.items()}
    experts = carry_experts(adapter, artifacts.get("experts"), old, new, gain)
    return Beside(saved, trained, words, of_words, *experts)


def _carry_through(
    path: str, located: Mapping[Place, LoraWeights], pair: Pair, how: Mapping[str, Any]
) -> Mapped:
    """Carry modules through the maps in a file, as `carry` takes it."""
    with open_maps(path) as maps:
        weights, report = carry(located, maps, pair.old, pair.new, **how)
        served = [(maps.source(layer), layer) for layer in range(pair.new.dims.layers)]
        return Mapped(maps.method, weights, report, served)


def _left(
    located: Mapping[Place, LoraWeights],
    served: list[tuple[int | None, int]],
    beside: Beside,
    pair: Pair,
) -> list[str]:
    """What stays behind of an adapter, and why."""
    return [
        *no_place(located, pair.old, pair.new),
        *no_layer(located, served, pair.old, pair.new),
        *made_elsewhere(located, served, pair.old, pair.new),
        *left_experts(beside.of_experts),
    ]


def _write(
    out: Path,
    adapter: Adapter,
    base: tuple[str, str],
    new: Side,
    mapped: Mapped,
    beside: Beside,
    dtype: str,
) -> None:
    """Write what was carried as a PEFT directory."""
    write_adapter(
        out,
        adapter.config,
        *base,
        new.family,
        new.dims.layers,
        mapped.weights,
        dtype,
        {**beside.saved, **beside.trained.rows},
        beside.words,
        beside.trained.ids,
        beside.experts,
    )


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
