"""Models of the same function as another one: the same weights rewritten."""

from pathlib import Path

import methodcase
import numpy as np
import pico
import torch

SIZES = {"hidden": 32, "intermediate": 56, "layers": 2, "heads": 4, "kv_heads": 2}
PATH = [(0, 0), (1, 1)]
Tensors = dict[str, torch.Tensor]
READERS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}


def orthogonal(seed: int, d: int) -> torch.Tensor:
    return torch.from_numpy(np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0])


def rotate(tensors: Tensors) -> Tensors:
    """The residual stream x becomes xQ; norm weights go into the layers that read the norm."""
    turned, Q = dict(tensors), orthogonal(0, SIZES["hidden"])
    for name, values in tensors.items():
        block, _, norm = name.removesuffix(".weight").rpartition(".")
        targets = [f"{block}.{module}.weight" for module in READERS.get(norm, ())]
        for target in ["lm_head.weight"] if name == "model.norm.weight" else targets:
            turned[target] = turned[target] * values
            turned[name] = torch.ones_like(values)
    for name, values in turned.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            turned[name] = Q.T @ values
        elif values.ndim == 2:
            turned[name] = values @ Q
    return turned


def permute(tensors: Tensors) -> Tensors:
    """Both key-value groups change places, and so do the two query heads of each."""
    h, swapped = SIZES["hidden"] // SIZES["heads"], dict(tensors)
    order = {"q_proj": [3, 2, 1, 0], "k_proj": [1, 0], "v_proj": [1, 0]}
    for name, values in tensors.items():
        module = name.split(".")[-2]
        if module in order:
            heads = values.reshape(-1, h, values.shape[1])
            swapped[name] = heads[order[module]].reshape(values.shape)
        elif module == "o_proj":
            heads = values.T.reshape(-1, h, values.shape[0])
            swapped[name] = heads[order["q_proj"]].reshape(values.shape).T
    return swapped


def pad(tensors: Tensors, width: int) -> Tensors:
    """A residual stream with dimensions that stay zero; norm weights make up for the width."""
    grown = {}
    for name, values in tensors.items():
        more = width - SIZES["hidden"]
        if values.ndim == 1:
            shrink = (SIZES["hidden"] / width) ** 0.5
            grown[name] = torch.nn.functional.pad(values * shrink, (0, more), value=1.0)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            grown[name] = torch.nn.functional.pad(values, (0, 0, 0, more))
        else:
            grown[name] = torch.nn.functional.pad(values, (0, more))
    return grown


def add_biases(tensors: Tensors) -> Tensors:
    """The biases that Qwen2 has on q, k and v, all zero."""
    names = [name for name in tensors if name.split(".")[-2] in ("q_proj", "k_proj", "v_proj")]
    zero = {n.replace("weight", "bias"): torch.zeros(len(tensors[n])).double() for n in names}
    return {**tensors, **zero}


WIDE = SIZES["hidden"] + 8
QWEN = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False}
TWINS = {
    "same": (lambda tensors: tensors, {}),
    "rotated": (rotate, {}),
    "permuted": (permute, {}),
    "padded": (
        lambda tensors: pad(tensors, WIDE),
        {"hidden_size": WIDE, "head_dim": 8, "rms_norm_eps": 1e-6 * SIZES["hidden"] / WIDE},
    ),
    "qwen2": (add_biases, QWEN),
}


def make_twin(directory: Path, source: Path, name: str) -> Path:
    """A model of the function of `source`, made by the edit of that name."""
    edit, changes = TWINS[name]
    new = pico.edit_model(directory, source, edit, **changes)
    assert torch.allclose(methodcase.logits(new), methodcase.logits(source), atol=1e-4)
    return new
