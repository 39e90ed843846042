"""Matched heads as heads.h5 has them, for readers that compute nothing with them."""

from pathlib import Path

import numpy as np

from ..artifacts import read_h5


def read_assignment(path: str | Path, layer: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Similarity (H_o, H_n) and assignment (k, 2) of the heads of one new layer, if it has any."""
    with read_h5(path, "heads") as file:
        if f"layer_{layer}" not in file:
            return None
        group = file[f"layer_{layer}"]
        return group["similarity"][...], group["assignment"][...]
