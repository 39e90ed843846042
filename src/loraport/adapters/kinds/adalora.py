"""AdaLoRA: `ΔW = B (A ∘ E) · alpha / (init_r + 1e-5)`; ranks pruned module by module, down to 0."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import LoraportError
from ..lora_weights import ADALORA_EPSILON, LoraWeights
from .lora import checked_alpha, whole

PARTS = {"lora_A": "a", "lora_B": "b", "lora_E": "e"}
OPTIONAL: tuple[str, ...] = ()
FIELDS = (
    "beta1",
    "beta2",
    "deltaT",
    "init_r",
    "orth_reg_weight",
    "target_r",
    "tfinal",
    "tinit",
    "total_step",
)


def serves(config: Mapping[str, Any]) -> bool:
    """Whether an adapter is of this kind."""
    return config.get("peft_type") == "ADALORA"


def read(config: Mapping[str, Any], path: str, parts: Mapping[str, np.ndarray]) -> LoraWeights:
    """A module's weights with E multiplied into A; the rank is what pruning left."""
    a, b, e, init_rank = parts["a"], parts["b"], parts["e"], config.get("init_r")
    mask = (config.get("rank_pattern") or {}).get(f"{path}.lora_E")
    rank: Any = init_rank if mask is None else sum(mask)
    if not isinstance(init_rank, int) or not 0 <= a.shape[0] == rank <= init_rank:
        raise LoraportError(
            f"its tensors contradict its config at {path}",
            got=f"tensors of rank {a.shape[0]}",
            expected=f"rank {rank} of at most init_r = {init_rank}",
            todo="check that adapter_config.json and the weights belong together",
        )
    if e.shape != (a.shape[0], 1):
        raise LoraportError(f"its lora_E does not fit at {path}", got=e.shape,
                            expected=(a.shape[0], 1), todo="save the adapter again")  # fmt: skip
    return LoraWeights(b, a * e, checked_alpha(config.get("lora_alpha")), init_rank=init_rank)


def tensors(weights: LoraWeights) -> dict[str, np.ndarray]:
    """`B = U`, `E = S`, `A = Vᵀ`, as AdaLoRA keeps them near orthonormal."""
    lengths = np.linalg.norm(weights.b, axis=0), np.linalg.norm(weights.a, axis=1)
    left, right = (np.where(length > 0, length, 1.0) for length in lengths)
    return {
        "lora_A": weights.a / right[:, None],
        "lora_B": weights.b / left,
        "lora_E": (lengths[0] * lengths[1])[:, None],
    }


def fields(weights: Mapping[str, LoraWeights]) -> dict[str, Any]:
    """One alpha and `init_r` for all modules; masks of that length where ranks differ."""
    first = next(iter(weights.values()))
    init_rank = max(each.init_rank for each in weights.values())
    alpha = first.alpha
    if init_rank != first.init_rank:
        alpha = first.scale * (init_rank + ADALORA_EPSILON)
    masks = {
        f"{path}.lora_E": [place < each.rank for place in range(init_rank)]
        for path, each in weights.items()
    }
    return {
        "init_r": init_rank,
        "lora_alpha": whole(alpha),
        "rank_pattern": masks if any(not all(mask) for mask in masks.values()) else None,
        "alpha_pattern": {},
    }
