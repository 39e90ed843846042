"""Mixtures of experts of one function: experts and neurons in another order, the stream turned."""

import re
from pathlib import Path

import families
import family_twins
import numpy as np
import pico
import torch
from twins import Tensors

EXPERTS, NEURONS = 4, families.SIZES["intermediate"]


def order(layer: int) -> list[int]:
    """The old expert of each new one."""
    return [(2 * e + 1 + layer) % 5 for e in range(5) if (2 * e + 1 + layer) % 5 < EXPERTS]


def neurons(layer: int, expert: int) -> torch.Tensor:
    """The old neuron of each neuron of a new expert."""
    return torch.from_numpy(np.random.default_rng(10 * layer + expert).permutation(NEURONS))


def shuffled(tensors: Tensors, name: str) -> Tensors:
    """Experts and their neurons in another order."""
    made = dict(tensors)
    for key, values in tensors.items():
        layer = re.search(r"layers\.(\d+)\.", key)
        if layer is None:
            continue
        number = int(layer[1])
        if re.search(r"experts\.\d+\.", key):
            new = int(re.search(r"experts\.(\d+)\.", key)[1])
            old = tensors[re.sub(r"experts\.\d+\.", f"experts.{order(number)[new]}.", key)]
            place = neurons(number, new)
            made[key] = (
                old[:, place] if key.endswith(("down_proj.weight", "w2.weight")) else old[place]
            )
        elif re.search(r"(mlp|block_sparse_moe)\.(gate|router)\.", key):
            made[key] = values[order(number)]
        elif ".experts." in key:
            kept = values[order(number)]
            made[key] = torch.stack(
                [_by_neuron(key, v, neurons(number, e)) for e, v in enumerate(kept)]
            )
    return made


def _by_neuron(key: str, values: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """One expert of GPT-OSS: gate and up in turn in the last axis; down's neurons in the first."""
    if "gate_up_proj" in key:
        both = torch.stack([2 * place, 2 * place + 1], dim=1).flatten()
        return values[..., both]
    return values[place] if key.endswith("down_proj") else values


def make_pair(root: Path, name: str) -> tuple[Path, Path]:
    """An old model, and the same one shuffled and rotated."""
    old, turned = family_twins.make_pair(root, name, "rotated")
    new = pico.edit_model(root / "shuffled", turned, lambda tensors: shuffled(tensors, name))
    return old, new
