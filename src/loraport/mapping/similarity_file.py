"""Layer similarities on disk (cka.h5): their writer and their reader."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..artifacts import read_h5, write_h5

if TYPE_CHECKING:
    import torch


def write_similarity(
    path: str | Path,
    inputs: Mapping[str, str],
    old: "torch.Tensor",
    new: "torch.Tensor",
    *,
    measure: str,
    minibatch: int,
    about: Mapping[str, Any],
) -> np.ndarray:
    """Compare all layer pairs and store their similarity.

    Parameters
    ----------
    inputs : identities of what the features come from
    old, new : (l_o, n, d_o) and (l_n, n, d_n) features of the same texts
    measure : `cka`, whose sums are stored as well, or one of `similarity.MEASURES`
    minibatch : examples, of CKA
    about : further attributes

    Returns
    -------
    (l_o, l_n) float64
    """
    from .cka import cka, hsic_sums, unit_scale  # with torch, which readers do not need
    from .similarity import similarities

    attributes = dict(about)
    with write_h5(path, "cka", inputs) as file:
        if measure == "cka":
            cross, own_old, own_new, used = hsic_sums(old, new, minibatch)
            compared = cka(cross, own_old, own_new)
            size_old, size_new = (unit_scale(each).square() for each in (old, new))  # of a Gram
            file.dataset("hsic_cross", (size_old[:, None] * cross * size_new).numpy())
            file.dataset("hsic_old", (size_old.square() * own_old).numpy())
            file.dataset("hsic_new", (size_new.square() * own_new).numpy())
            attributes |= {"estimator": "unbiased HSIC", "minibatches": used}
        else:
            compared = similarities(old, new, measure)
            attributes["estimator"] = f"{measure} over the whole set"
        file.dataset("similarity", compared.numpy())
        file.attributes(**attributes)
    return compared.numpy()


def read_similarity(path: str | Path) -> np.ndarray:
    """Similarity of all layer pairs, (l_o, l_n)."""
    with read_h5(path, "cka") as file:
        return file["similarity"][...]
