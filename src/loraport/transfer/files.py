"""An adapter directory through the maps of a pair, into a folder with its record and its card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..adapters.audit import audit
from ..adapters.files import read_adapter, write_adapter
from ..artifacts import read_json, write_json
from ..models.side import Side
from ..models.spec import load_spec
from ..provenance import versions
from .card import write_card
from .carry import carry
from .experts import carry_experts, left_experts
from .gauge import scaled
from .guard import check_size, listed
from .left import made_elsewhere, no_layer, no_place
from .maps import open_maps
from .modules_to_save import keep_saved
from .new_base import NewBase
from .trained_tokens import carry_tokens
from .vocabulary import carry_from

# Of products with the maps, by the dtype that is written. Rounding to bfloat16 changes an update by
# 2e-3 of its norm; float32 products by 1e-6, and by 1e-4 where the old weights are as badly
# conditioned as two-byte maps allow (tests/unit/transfer/test_carry.py)
PRECISIONS = {"float32": np.float64, "bfloat16": np.float32}


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
    models = load_spec(artifacts["old_spec"]), load_spec(artifacts["new_spec"])
    old, new = (Side(model.architecture, model.dims) for model in models)
    adapter = read_adapter(source)
    specs = [read_json(artifacts[f"{side}_spec"], "spec") for side in ("old", "new")]
    revision, resolved = (spec["revision"] for spec in specs)
    everything = {"vocabulary": True, "experts": True, "partly": True}
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
        settings["precision"] = PRECISIONS[dtype]
        weights, report = carry(located, maps, old, new, workers=workers, **settings)
        served = [(maps.source(layer), layer) for layer in range(new.dims.layers)]
        method = maps.method
    experts, of_experts = carry_experts(
        adapter, artifacts.get("experts"), old, new, settings["gain"]
    )
    told, oversized = check_size(report["modules"], allow_large=allow_large)
    by_layer = [*no_layer(located, served, old, new), *made_elsewhere(located, served, old, new)]
    told = [*no_place(located, old, new), *by_layer, *left_experts(of_experts), *told]
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
