"""Adapters of every kind on pico models, made and run by peft."""

import copy
import json
from functools import cache
from pathlib import Path

import numpy as np
import pico
import torch
from peft import AdaLoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file

from loraport.adapters.attach import attach
from loraport.adapters.audit import audit
from loraport.adapters.files import read_adapter, write_adapter
from loraport.models.side import Side
from loraport.models.spec import open_model
from loraport.transfer.carry import carry
from loraport.transfer.embedding_file import Tokens, write_embedding
from loraport.transfer.maps import ModuleMap, Term, open_maps, write_maps
from loraport.transfer.modules_to_save import keep_saved

TOKENS = torch.tensor([[1, 5, 9, 13, 17, 21, 25, 29]])


@cache
def loaded(base: Path):
    return pico.load(base)


def make(directory: Path, base: Path, config, seed: int = 3) -> Path:
    """An adapter of random parts, none of them at its start value, saved by peft."""
    adapted = get_peft_model(copy.deepcopy(loaded(base)), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, values in adapted.named_parameters():
            noise = torch.randn(values.shape, generator=generator)
            if any(part in name for part in ("magnitude", "modules_to_save", "trainable_tokens")):
                values.mul_(1 + 0.2 * noise)
            elif "lora_" in name:
                values.copy_(0.1 * noise)
    adapted.save_pretrained(directory)
    return directory


def logits(base: Path, adapter: Path | None) -> torch.Tensor:
    """Of the model with an adapter; a key that is missing or left over is an error of `attach`."""
    model = copy.deepcopy(loaded(base))
    model = model if adapter is None else attach(model, adapter)
    with torch.no_grad():
        return model.eval()(TOKENS).logits.double()


def config_of(directory: Path) -> dict:
    return json.loads((directory / "adapter_config.json").read_text())


def edit(directory: Path, **changes) -> Path:
    path = directory / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return directory


def edit_tensors(directory: Path, change) -> Path:
    path = directory / "adapter_model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})
    return directory


def same_tokens(path: Path, base: Path) -> Path:
    """The embedding artifact of a base and itself."""
    model = open_model(base)
    ids = np.arange(model.dims.vocabulary)
    counts = dict.fromkeys(("old", "new", "at_the_same_id"), len(ids))
    about = {"rule": "identity", **{f"tokens_{of}": count for of, count in counts.items()}}
    write_embedding(path, {}, Tokens(np.eye(model.dims.hidden), ids, ids), about)
    return path


def adalora(**more) -> AdaLoraConfig:
    return AdaLoraConfig(
        init_r=4, target_r=2, lora_alpha=6, total_step=10, target_modules=pico.ALL_LINEAR, **more
    )


def prune(directory: Path) -> Path:
    """Ranks pruned as AdaLoRA's allocator does: masks in the config, thinner tensors, one of 0."""
    modules = sorted(read_adapter(directory).modules)
    masks = {
        path: [place % (number % 4 + 1) == 0 for place in range(4)] if number else [False] * 4
        for number, path in enumerate(modules)
    }

    def thin(tensors):
        for path, mask in masks.items():
            for part in ("A", "B", "E"):
                name = f"base_model.model.{path}.lora_{part}"
                kept = tensors[name][:, mask] if part == "B" else tensors[name][mask]
                tensors[name] = np.ascontiguousarray(kept)
        return tensors

    edit_tensors(directory, thin)
    return edit(directory, rank_pattern={f"{path}.lora_E": mask for path, mask in masks.items()})


def identity_maps(path: Path, base: Path, rows: bool = True) -> Path:
    """L = I and R = I for every role, with the base's own row norms."""
    model = open_model(base)
    checkpoint = model.checkpoint()

    def entries():
        for layer in range(model.dims.layers):
            for role in model.architecture.roles:
                weight = model.weight(checkpoint, layer, role).astype(np.float64)
                norms = np.linalg.norm(weight, axis=1) if rows else None
                size = np.linalg.norm(weight)
                yield ModuleMap(
                    layer, role, layer, (Term(),), size, size, rows_old=norms, rows_new=norms
                )

    write_maps(path, "identity", {}, entries())
    return path


def carried(folder: Path, base: Path, adapter_dir: Path, *, rows=True, dtype="float32") -> Path:
    """The adapter through identity maps, written for the same base."""
    model = open_model(base)
    side = Side(model.architecture, model.dims)
    adapter = read_adapter(adapter_dir)
    located = audit(adapter, side.family, side.dims, {str(base), base.name})
    with open_maps(identity_maps(folder / "maps.h5", base, rows)) as maps:
        weights, _ = carry(located, maps, side, side)
    out = folder / "carried"
    out.mkdir()
    write_adapter(
        out, adapter.config, str(base), "", side.family, side.dims.layers, weights, dtype,
        keep_saved(adapter, side, side, same_tokens(folder / "embedding.h5", base), None),
    )  # fmt: skip
    return out
