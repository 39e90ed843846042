"""A transfer method run on a model pair in this process, without artifacts but its own."""

from collections.abc import Collection
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pico
import torch

from loraport.adapters.attach import attach
from loraport.adapters.audit import audit
from loraport.adapters.files import read_adapter, write_adapter
from loraport.adapters.lora_weights import LoraWeights
from loraport.artifacts import write_h5
from loraport.calibration.batches import make_batches
from loraport.calibration.gradients import layer_gradients
from loraport.calibration.moments import LayerMoments
from loraport.calibration.sums import layer_moments
from loraport.calibration.walk import open_walks
from loraport.mapping.pair import Adapted, Pair, read_outputs, write_outputs
from loraport.methods import make_maps, make_outputs, needs
from loraport.models.families import ROLES
from loraport.models.loading import load_base
from loraport.models.side import Side
from loraport.models.spec import open_model
from loraport.transfer.carry import carry
from loraport.transfer.maps import open_maps, write_maps

SETTINGS: dict[str, Any] = {"modules": list(ROLES), "ridge": "auto", "prior": "procrustes",
                            "writes": "stream", "wi": "code", "side": "input",
                            "singular": 320, "cross_terms": "drop",
                            "calibrate_on": "generic"}  # fmt: skip


def collect_moments(
    old: Path, new: Path, path: list, texts: list[str], roles: Collection[str] = ROLES
) -> list[LayerMoments]:
    """Moments of each layer pair of the path."""
    models = open_model(old), open_model(new)
    settings = {"stream": "auto", "device": "cpu", "max_tokens": 64, "batch_size": 64}
    walks, batches = open_walks(models, texts, settings, [False, False])
    return list(layer_moments(models, walks, batches, path, "cpu", roles=roles))


def collect_gradients(old: Path, new: Path, path: list, texts: list[str]) -> list[dict]:
    """Sums over output gradients of each layer pair of the path."""
    models = open_model(old), open_model(new)
    bases, tokenizers = zip(*(load_base(m.directory, device="cpu") for m in models), strict=True)
    return layer_gradients(models, bases, make_batches(tokenizers, texts, 64, 8), path, "cpu")


def make_method_pair(
    old: Path,
    new: Path,
    path: list | None = None,
    moments: list | None = None,
    gradients: list | None = None,
    **settings,
) -> Pair:
    """The pair as a method sees it; heads and W_h are absent."""
    known = {layer: each for (_, layer), each in zip(path or [], moments or [], strict=False)}
    answered = {j: each for (_, j), each in zip(path or [], gradients or [], strict=False)}

    def no_heads(layer: int) -> Any:
        raise AssertionError("this method declares no heads")

    return Pair(
        open_model(old), open_model(new), {**SETTINGS, **settings}, "cpu", None, path or [],
        no_heads, known.__getitem__, gradients=lambda layer, role: answered[layer][role],
    )  # fmt: skip


def adapted(pair: Pair, adapter_dir: Path, texts: list[str]) -> Pair:
    """The pair with an adapter and the texts on which its own maps are fitted."""
    held = read_adapter(adapter_dir)
    names = {str(pair.old.directory), pair.old.directory.name}
    weights = audit(held, pair.old.architecture, pair.old.dims, names)
    return replace(
        pair, adapter=Adapted(adapter_dir, weights, lambda model, tokenizer: texts, 64, 64)
    )


def with_outputs(path: Path, method: str, pair: Pair) -> Pair:
    """The pair with a method's output maps, written and read again."""
    made = make_outputs(method, pair)
    with write_h5(path, "output maps", {}) as file:
        for _, layer in pair.path:
            write_outputs(file, layer, made(layer))
    return replace(pair, outputs=lambda layer: read_outputs(path, layer, "cpu"))


def transferred(
    folder: Path, method: str, pair: Pair, adapter_dir: Path, **how: Any
) -> tuple[dict[tuple[int, str], LoraWeights], dict]:
    """Maps written, read again and applied as `carry` is told; the result also lies in
    `folder/adapter`.
    """
    if "outputs" in needs(method):
        pair = with_outputs(folder / "outputs.h5", method, pair)
    write_maps(folder / "maps.h5", method, {}, make_maps(method, pair))
    sides = [Side(model.architecture, model.dims) for model in (pair.old, pair.new)]
    adapter = read_adapter(adapter_dir)
    names = {str(pair.old.directory), pair.old.directory.name}
    located = audit(adapter, sides[0].family, sides[0].dims, names)
    with open_maps(folder / "maps.h5") as maps:
        weights, report = carry(located, maps, *sides, **how)
    out = folder / "adapter"
    out.mkdir(exist_ok=True)
    write_adapter(
        out, adapter.config, str(pair.new.directory), "", sides[1].family, sides[1].dims.layers,
        weights, "float32",
    )  # fmt: skip
    return weights, report


def dense(weights: LoraWeights) -> np.ndarray:
    """s B A in float64."""
    return weights.scale * (weights.b.astype(np.float64) @ weights.a.astype(np.float64))


@cache
def logits(model_dir: Path, adapter: Path | None = None) -> torch.Tensor:
    """Logits of some token sequences, float64."""
    model = pico.load(model_dir)
    if adapter is not None:
        model = attach(model, adapter)
    ids = torch.randint(5, 120, (6, 24), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return model(ids).logits.double()


def lost(old: Path, new: Path, adapter_old: Path, adapter_new: Path) -> float:
    """Difference of the two adapted models' logits, as a share of what the old adapter does.

    For models of the same function: 0 is a perfect transfer, 1 is what no adapter has.
    """
    bare, wanted = logits(old), logits(old, adapter_old)
    return float((logits(new, adapter_new) - wanted).norm() / (wanted - bare).norm())


def carried(folder, method, models, adapter, path, texts):
    """An adapter carried from one model to another by a method that needs no heads: the weights,
    and what transfer.json says.
    """
    needed, moments, gradients = needs(method), None, None
    if {"moments", "outputs"} & set(needed):
        moments = collect_moments(*models, path, texts)
    if "gradients" in needed:
        gradients = collect_gradients(*models, path, texts)
    pair = make_method_pair(*models, path, moments, gradients)
    if "adapter" in needed:
        pair = adapted(pair, adapter, texts)
    return transferred(folder, method, pair, adapter)
