"""Models with a norm on what o and down write, and the same ones rewritten."""

from pathlib import Path

import families
import methodcase
import numpy as np
import pico
import torch
import twins

Tensors = twins.Tensors
FAMILIES = {"gemma2": 1.0, "gemma3": 1.0, "olmo2": 0.0}  # name -> what norms add to their weight
# a head's size at which q writes no more than it reads, and an eps that counts for nothing
SAFE = {"head_dim": 8, "rms_norm_eps": 1e-8}
OUTPUT_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
READERS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "pre_feedforward_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}
WRITERS = ("o_proj.weight", "down_proj.weight")


def make_old(directory: Path, name: str) -> Path:
    """A random model; norms on outputs have one weight throughout, so that it can be rotated."""
    old = families.make_model(directory.with_name(f"{directory.name}_any"), name, seed=1, **SAFE)

    def even(tensors: Tensors) -> Tensors:
        evened = dict(tensors)
        for key, values in tensors.items():
            if key.split(".")[-2] in OUTPUT_NORMS:
                factor = 0.7 if "attention" in key else 1.3
                evened[key] = torch.full_like(values, factor - FAMILIES[name])
        return evened

    return pico.edit_model(directory, old, even)


def untie(tensors: Tensors) -> Tensors:
    """With a head of its own, which then may take up the last norm's weight."""
    return {"lm_head.weight": tensors["model.embed_tokens.weight"].clone(), **tensors}


def rotate(tensors: Tensors, name: str) -> Tensors:
    """The residual stream x becomes xQ; weights of norms that read it go into their readers."""
    shift = FAMILIES[name]
    turned = untie(tensors)
    Q = twins.orthogonal(0, families.SIZES["hidden"])
    for key, values in tensors.items():
        block, _, norm = key.removesuffix(".weight").rpartition(".")
        targets = [f"{block}.{module}.weight" for module in READERS.get(norm, ())]
        if key == "model.norm.weight":
            targets = ["lm_head.weight"]
        for target in targets:
            turned[target] = turned[target] * (values + shift)
            turned[key] = torch.full_like(values, 1 - shift)
    for key, values in turned.items():
        if key.endswith(WRITERS):
            turned[key] = Q.T @ values
        elif values.ndim == 2:
            turned[key] = values @ Q
    return turned


def permute(tensors: Tensors, name: str) -> Tensors:
    """The dimensions of the residual stream in another order."""
    d = families.SIZES["hidden"]
    order = torch.from_numpy(np.random.default_rng(4).permutation(d))
    moved = {}
    for key, values in untie(tensors).items():
        if key.endswith(WRITERS):
            moved[key] = values[order]
        elif values.ndim == 2:
            moved[key] = values[:, order]
        elif key.split(".")[-2] in ("q_norm", "k_norm"):
            moved[key] = values
        else:
            moved[key] = values[order]
    return moved


def resize(tensors: Tensors, name: str) -> Tensors:
    """Modules before a norm write more, which the norm takes out again."""
    return {key: values * (20 if key.endswith(WRITERS) else 1) for key, values in tensors.items()}


EDITS = {"rotated": rotate, "permuted": permute, "louder": resize}


def make_twin(directory: Path, source: Path, family: str, edit: str) -> Path:
    """A model of the function of `source`, made by the edit of that name."""
    changes = {} if edit == "louder" else {"tie_word_embeddings": False}
    new = pico.edit_model(directory, source, lambda t: EDITS[edit](t, family), **changes)
    difference = (methodcase.logits(new) - methodcase.logits(source)).norm()
    assert difference < 1e-4 * methodcase.logits(source).norm()
    return new
