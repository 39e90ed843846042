"""DoRA: `W' = m ∘ (W + s B A) / ‖W + s B A‖_row`, a magnitude a row beside LoRA's factors."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import LoraportError
from ..lora_weights import LoraWeights
from . import lora

PARTS = {
    **{end: part for end, part in lora.PARTS.items() if part != "bias"},
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",  # as peft wrote it at first
}
OPTIONAL = ("embedding_a", "embedding_b")
FIELDS = ("use_dora",)


def serves(config: Mapping[str, Any]) -> bool:
    """Whether an adapter is of this kind."""
    return config.get("peft_type") == "LORA" and bool(config.get("use_dora"))


def read(config: Mapping[str, Any], path: str, parts: Mapping[str, np.ndarray]) -> LoraWeights:
    """A module's weights; the magnitude has one entry for each row of B."""
    plain = lora.read(config, path, parts)
    magnitude = parts["magnitude"].reshape(-1)
    if magnitude.shape != (plain.b.shape[0],):
        raise LoraportError(
            f"its magnitudes do not fit at {path}",
            got=magnitude.shape,
            expected=f"({plain.b.shape[0]},), one for each row",
            todo="save the adapter again",
        )
    return LoraWeights(plain.b, plain.a, plain.alpha, plain.rslora, magnitude=magnitude)


def tensors(weights: LoraWeights) -> dict[str, np.ndarray]:
    """End of a tensor's name -> array."""
    assert weights.magnitude is not None
    return {**lora.tensors(weights), "lora_magnitude_vector": weights.magnitude}


fields = lora.fields
