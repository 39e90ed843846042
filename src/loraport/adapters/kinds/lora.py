"""LoRA and rsLoRA: `ΔW = s B A`, s = alpha / r or alpha / √r; ranks and alphas by pattern."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import LoraportError
from ..lora_weights import LoraWeights
from ..patterns import by_pattern

PARTS = {
    "lora_A.weight": "a",
    "lora_B.weight": "b",
    "lora_B.bias": "bias",
    "lora_embedding_A": "embedding_a",
    "lora_embedding_B": "embedding_b",
}
OPTIONAL = ("bias", "embedding_a", "embedding_b")
FIELDS: tuple[str, ...] = ()


def serves(config: Mapping[str, Any]) -> bool:
    """Whether an adapter is of this kind."""
    return config.get("peft_type") == "LORA" and not config.get("use_dora")


def read(config: Mapping[str, Any], path: str, parts: Mapping[str, np.ndarray]) -> LoraWeights:
    """A module's weights; its rank must be the one that the config promises."""
    a, b, bias = parts["a"], parts["b"], parts.get("bias")
    rank = by_pattern(config.get("rank_pattern") or {}, path, config.get("r"))
    alpha = by_pattern(config.get("alpha_pattern") or {}, path, config.get("lora_alpha"))
    if type(rank) is not int or rank < 1:
        raise LoraportError(
            f"it has no rank at {path}",
            got=f"r = {rank!r}, tensors of rank {a.shape[0]}",
            expected="a whole number of at least 1",
            todo="train it with a rank of at least 1",
        )
    if rank != a.shape[0]:
        raise LoraportError(
            f"its tensors contradict its config at {path}",
            got=f"tensors of rank {a.shape[0]}",
            expected=f"rank {rank}",
            todo="check that adapter_config.json and the weights belong together",
        )
    return LoraWeights(b, a, checked_alpha(alpha), bool(config.get("use_rslora")), bias=bias)


def checked_alpha(alpha: Any) -> float:
    """A finite lora_alpha."""
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise LoraportError(
            "it has no usable lora_alpha",
            got=repr(alpha),
            expected="a number",
            todo="write the lora_alpha that it was trained with into adapter_config.json",
        )
    return float(alpha)


def tensors(weights: LoraWeights) -> dict[str, np.ndarray]:
    """End of a tensor's name -> array."""
    stored = {"lora_A.weight": weights.a, "lora_B.weight": weights.b}
    return stored if weights.bias is None else {**stored, "lora_B.bias": weights.bias}


def embedding(weights: LoraWeights) -> dict[str, np.ndarray]:
    """The same of an input embedding, whose factors peft keeps transposed."""
    return {"lora_embedding_A": weights.b.T, "lora_embedding_B": weights.a.T}


def fields(weights: Mapping[str, LoraWeights]) -> dict[str, Any]:
    """Ranks and alphas: the most common ones, and patterns for the rest."""
    ranks = Counter(each.rank for each in weights.values())
    alphas = Counter(each.alpha for each in weights.values())
    rank, alpha = ranks.most_common(1)[0][0], alphas.most_common(1)[0][0]
    return {
        "r": rank,
        "lora_alpha": whole(alpha),
        "rank_pattern": {path: each.rank for path, each in weights.items() if each.rank != rank},
        "alpha_pattern": {
            path: whole(each.alpha) for path, each in weights.items() if each.alpha != alpha
        },
    }


def whole(value: float) -> float | int:
    """An integer where the value is one."""
    return int(value) if value == int(value) else value
