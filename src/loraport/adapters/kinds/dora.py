"""DoRA: `W' = m ∘ (W + s B A) / ‖W + s B A‖_row`, a magnitude for each row beside LoRA's factors.

How much an adapter stretches a row, `ρ = m / ‖W‖_row`, is carried as an average: a new row is
stretched as the old rows that it is made of, weighted by |L|. Row norms of both bases lie in the
maps, so that no base is read.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import LoraportError
from ...transfer.maps import ModuleMap, absolute_times
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


def carried_magnitude(weights: LoraWeights, entry: ModuleMap) -> np.ndarray:
    """Magnitudes of a role's new rows: `m_n = ρ_n ‖W_n‖_row`, `ρ_n = |L| ρ_o / |L| 1`.

    Parameters
    ----------
    weights : of the role's old rows
    entry : the role's map, with row norms

    Returns
    -------
    (d_out,) float64

    Notes
    -----
    |L| is taken of the product, O(d_out_n · d_out_o · waist) where L is one; rows of zeros keep
    their norm.
    """
    if entry.constant is not None:
        raise LoraportError(
            "a DoRA adapter can't be carried by a method that adds the difference of the weights",
            got="rows whose lengths the method changes as well",
            expected="a method that maps the update alone",
            todo="use another method, or convert the adapter to plain LoRA",
        )
    rows_old, rows_new = row_norms(entry)
    assert weights.magnitude is not None
    stretch = weights.magnitude.astype(np.float64) / np.where(rows_old > 0, rows_old, 1.0)
    above, below = absolute_times(entry, np.stack([stretch, np.ones_like(stretch)], axis=1)).T
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), 1.0) * rows_new


def row_norms(entry: ModuleMap) -> tuple[np.ndarray, np.ndarray]:
    """‖W_o‖_row and ‖W_n‖_row of a role; maps that lack them are refused."""
    if entry.rows_old is None or entry.rows_new is None:
        raise LoraportError(
            "a DoRA adapter needs the norms of both bases' rows, and these maps hold none",
            got=f"none for {entry.role} in layer {entry.layer}",
            expected="rows_old and rows_new beside each map",
            todo="use a method whose maps hold them, such as lorasuite, or delete the maps file if "
            "it is from an older version",
        )
    return entry.rows_old.astype(np.float64), entry.rows_new.astype(np.float64)
