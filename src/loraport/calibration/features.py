"""Pooled features on disk: their writer, their reader, and two models' side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..artifacts import read_h5, write_h5
from ..errors import LoraportError


def write_features(
    path: str | Path,
    inputs: Mapping[str, str],
    features: np.ndarray,
    kept: np.ndarray,
    *,
    pooling: str,
    texts: str,
) -> None:
    """Store a model's features.

    Parameters
    ----------
    inputs : identities of what they were made from
    features : (layers, n, d) float32
    kept : (n,) bool, the texts of which the model kept a token
    pooling, texts : how they were pooled, and the version of the texts
    """
    with write_h5(path, "activations", inputs) as file:
        for layer, values in enumerate(features):
            file.dataset(f"layer_{layer}", values)
        file.dataset("kept", kept)
        file.attributes(pooling=pooling, texts=texts, count=len(kept))


def read_features(path: str | Path) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """Features (layers, n, d) float32, kept (n,) bool and the attributes of an activations file."""
    with read_h5(path, "activations") as file:
        layers = sum(name.startswith("layer_") for name in file)
        features = np.stack([file[f"layer_{layer}"][...] for layer in range(layers)])
        attributes = {key: str(file.attrs[key]) for key in ("pooling", "texts", "count")}
        return features, file["kept"][...], attributes


def matched_features(
    old: str | Path, new: str | Path
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Features of both models over the texts that both kept.

    Returns
    -------
    (l_o, n, d_o), (l_n, n, d_n), and their common attributes

    Raises
    ------
    LoraportError
        If the models read different texts or pooled them differently.
    """
    (left, kept_left, about), (right, kept_right, other) = read_features(old), read_features(new)
    if about != other:
        raise LoraportError(
            "the two models' activations do not belong together",
            got=f"{other} in {new}",
            expected=f"{about} as in {old}",
            todo="delete both files and run the workflow again",
        )
    kept = kept_left & kept_right
    return torch.from_numpy(left[:, kept]), torch.from_numpy(right[:, kept]), about
