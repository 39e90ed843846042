"""A model of any family, and the same one with its residual stream in another basis."""

import json
from pathlib import Path

import families
import methodcase
import numpy as np
import pico
import torch
from families import FAMILIES
from twins import Tensors, orthogonal

# a head's size at which q writes no more than it reads, and an eps that counts for nothing
SAFE = {"head_dim": 8, "rms_norm_eps": 1e-8, "layer_norm_eps": 1e-8, "norm_eps": 1e-8}
HIDDEN = families.SIZES["hidden"]
# their norms take the mean off: it has to stay where it is
CENTRED = ("cohere2", "nemotron", "phimoe")
GEMMA4 = tuple(
    name for name in FAMILIES if name.startswith("gemma4")
)  # whose larger heads have four dimensions more
SHIFTED = ("nemotron", *families.QWEN3_5_ALL)  # whose norms add 1 to their weight
# where files of models that see have the decoder
OLDER = ("model.layers", "model.embed_tokens", "language_model.model", "language_model.lm_head")
# whose entries stand for no dimension of the stream
NEITHER = ("gate_up_proj_bias", "e_score_correction_bias", "conv1d.weight")
WRITERS = ("o", "linear_o", "down")
# of inputs of their own for each layer: what they read of the stream, and what is none of it
PER_LAYER = "per_layer_model_projection.weight", "embed_tokens_per_layer.weight"
# families that no other twins are of
NEWER = (
    "ministral3", "olmo3", "smollm3", "granite", "glm4", "exaone4", "hunyuan_v1_dense", "ernie4_5",
    "seed_oss", "arcee", "nemotron", "apertus", "cohere2", "qwen2_5_vl", "qwen3_vl", "mistral3",
    *dict.fromkeys((*families.MIXTURES, *families.BY_LAYER)),
)  # fmt: skip
CASES = [(name, edit) for name in NEWER for edit in ("rotated", "permuted")]
CASES += [("granite", "louder"), ("gemma4_multimodal", "scaled")]
# of Gemma 4: by what the stream in front of a layer is multiplied, once more behind the last one
SCALES = (1.0, 3.0, 0.4, 2.0, 0.5)


def make_old(directory: Path, name: str) -> Path:
    """A random model of a family. What norms that take the mean off let through is one dimension
    less: q has to write fewer.
    """
    given = {**SAFE, "head_dim": 4} if name in (*CENTRED, *GEMMA4) else SAFE
    return families.make_model(directory, name, seed=1, **given)


def of_the_stream(key: str, values: torch.Tensor) -> bool:
    """Whether a vector has an entry for each dimension of the residual stream."""
    named = "norm" in key or key.endswith("router.scale")
    return values.ndim == 1 and len(values) == HIDDEN and named and "self_attn." not in key


def writers(name: str) -> tuple[str, ...]:
    """Ends of the weights and biases that write into the stream."""
    paths = FAMILIES[name].paths
    ends = {paths[role].rpartition(".")[2] for role in WRITERS if role in paths}
    if name in families.MIXTURES:
        ends |= {"down_proj", "w2", "output_linear"}
    ends.add("per_layer_projection")
    named = tuple(f".{end}.{part}" for end in ends for part in ("weight", "bias"))
    return (*named, ".experts.down_proj") if name in GEMMA4 else named


def even(tensors: Tensors, name: str) -> Tensors:
    """Norms of the stream multiply all of it by one factor, and so can be turned with it."""
    shift, evened = float(name in SHIFTED), dict(tensors)
    for key, values in tensors.items():
        if of_the_stream(key, values):
            factor = 0.0 if key.endswith("bias") else (1.3 if "mlp" in key else 0.7) - shift
            evened[key] = torch.full_like(values, factor)
    return evened


def turn(tensors: Tensors, name: str, Q: torch.Tensor, norms: bool) -> Tensors:
    """The stream x becomes x Q: embedding, head, readers, writers and, where asked, the norms."""
    family, turned = FAMILIES[name], dict(tensors)
    outside = (family.block, family.embedding, "lm_head", *OLDER)
    for key, values in tensors.items():
        if of_the_stream(key, values):
            turned[key] = values @ Q if norms else values
        elif key.endswith(PER_LAYER[0]):
            turned[key] = values @ Q
        elif not key.startswith(outside) or key.endswith((*NEITHER, PER_LAYER[1])):
            continue
        # what writes the stream, and experts as one parameter, which read it by their rows, or not
        elif key.endswith("experts.gate_up_proj") and name in GEMMA4:
            turned[key] = values @ Q
        elif key.endswith((*writers(name), "experts.gate_up_proj")):
            turned[key] = Q.T @ values
        elif values.ndim >= 2:
            turned[key] = values @ Q
    return turned


def rotation(name: str) -> torch.Tensor:
    """Orthogonal (d, d); of a family whose norms take the mean off, it leaves (1, 1, …) alone."""
    if name not in CENTRED:
        return orthogonal(0, HIDDEN)
    ones = torch.ones(HIDDEN, 1, dtype=torch.float64)
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=(HIDDEN, HIDDEN - 1)))
    basis = torch.linalg.qr(torch.hstack([ones, noise]))[0]
    inside = torch.eye(HIDDEN, dtype=torch.float64)
    inside[1:, 1:] = orthogonal(0, HIDDEN - 1)
    return basis @ inside @ basis.T


def permutation() -> torch.Tensor:
    order = np.random.default_rng(4).permutation(HIDDEN)
    return torch.eye(HIDDEN, dtype=torch.float64)[:, torch.from_numpy(order)]


def louder(directory: Path, old: Path) -> Path:
    """Writers write more, and the stream takes in a smaller share of it."""
    share = json.loads((old / "config.json").read_text())["residual_multiplier"] / 20
    ends = writers("granite")
    return pico.edit_model(
        directory,
        old,
        lambda t: {key: values * (20 if key.endswith(ends) else 1) for key, values in t.items()},
        residual_multiplier=share,
    )


def scaled(directory: Path, old: Path) -> Path:
    """Another factor at the end of each layer, for which writers and their norms make up."""

    def edit(tensors: Tensors) -> Tensors:
        edited = dict(tensors)
        for key, values in tensors.items():
            if ".layers." not in key or ".vision_tower." in key:
                continue
            layer, name = key.split(".layers.")[1].split(".", 1)
            here, after = SCALES[int(layer) :][:2]
            if name == "layer_scalar":
                edited[key] = values * after / here
            elif name.startswith("post_"):
                edited[key] = values * here
            elif name.startswith("per_layer_input_gate"):
                edited[key] = values / here
        return edited

    return pico.edit_model(directory, old, edit)


def path(name: str) -> list[tuple[int, int]]:
    """Each layer to itself."""
    return [(layer, layer) for layer in range(families.sizes(name)["layers"])]


def make_pair(root: Path, name: str, edit: str) -> tuple[Path, Path]:
    """An old and a new model of one function, the new one made by an edit."""
    old, new = make_old(root / "any", name), root / edit
    if edit in ("louder", "scaled"):
        {"louder": louder, "scaled": scaled}[edit](new, old)
    elif edit == "rotated":
        old = pico.edit_model(root / "even", old, lambda t: even(t, name))
        pico.edit_model(new, old, lambda t: turn(t, name, rotation(name), False))
    else:
        pico.edit_model(new, old, lambda t: turn(t, name, permutation(), True))
    difference = (methodcase.logits(new) - methodcase.logits(old)).norm()
    assert difference < 1e-4 * methodcase.logits(old).norm()
    return old, new
