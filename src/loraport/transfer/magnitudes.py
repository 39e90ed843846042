"""DoRA's magnitudes through the maps of a pair.

How much an adapter stretches a row, `ρ = m / ‖W‖_row`, is carried as an average: a new row is
stretched as the old rows that it is made of, weighted by |L|. Row norms of both bases lie in the
maps, so that no base is read.
"""

import numpy as np

from ..adapters.lora_weights import LoraWeights
from ..errors import LoraportError
from .maps import ModuleMap, absolute_times


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
