"""Centred kernel alignment between all layers of two models, unbiased, by minibatches."""

import torch

from ..errors import LoraportError
from ..numerics.linalg import chunks

MIN_EXAMPLES = 4  # the unbiased estimator divides by m (m − 3)


def unit_scale(features: torch.Tensor) -> torch.Tensor:
    """The power of two at or below the largest magnitude of each layer.

    Parameters
    ----------
    features : (layers, n, width)

    Returns
    -------
    (layers,) float64; 1 where a layer is zero or not finite. Features divided by it keep all digits
    """
    largest = features.abs().amax(dim=(1, 2)).double()
    mantissa, _ = torch.frexp(largest)
    known = torch.isfinite(largest) & (largest > 0)
    return torch.where(known, largest / (2 * mantissa), 1.0)


def u_centred_grams(features: torch.Tensor) -> torch.Tensor:
    """U-centred Grams of all layers, flattened.

    Parameters
    ----------
    features : (layers, m, width), m ≥ 4 examples of one minibatch

    Returns
    -------
    (layers, m·m) float64 with `HSIC1(K, L) = ⟨row_K, row_L⟩ / (m (m − 3))`

    Notes
    -----
    Features are centred before the Gram is taken: a large common offset would eat its digits. The
    diagonal is set to zero, then rows and columns are centred without bias (Székely and Rizzo).
    """
    x = features.double()
    x = x - x.mean(dim=1, keepdim=True)
    gram = x @ x.transpose(1, 2)
    m = gram.shape[1]
    off = 1 - torch.eye(m, dtype=gram.dtype, device=gram.device)
    gram = gram * off
    rows = gram.sum(dim=2, keepdim=True) / (m - 2)
    total = gram.sum(dim=(1, 2), keepdim=True) / ((m - 1) * (m - 2))
    return ((gram - rows - rows.transpose(1, 2) + total) * off).flatten(1)


def hsic_sums(
    old: torch.Tensor, new: torch.Tensor, minibatch: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Unbiased HSIC of every layer pair, averaged over minibatches.

    Parameters
    ----------
    old, new : (l_o, n, d_o) and (l_n, n, d_n), the same n examples in the same order
    minibatch : examples a minibatch; a last one of fewer than 4 is left out

    Returns
    -------
    cross (l_o, l_n), self_old (l_o,), self_new (l_n,), minibatches used. The HSICs are those of
    features divided by their `unit_scale`, which CKA does not see

    Notes
    -----
    HSIC grows with the fourth power of the features, and CKA divides by the root of a product of
    two: of very small or large features these would leave what float64 can hold.

    `HSIC1 = [tr(KL) + (1ᵀK1)(1ᵀL1)/((m−1)(m−2)) − 2/(m−2) · 1ᵀKL1] / (m(m−3))`, here as one inner
    product of U-centred Grams, so that a minibatch costs O((l_o + l_n) m² d + l_o l_n m²).
    """
    cross = torch.zeros(len(old), len(new), dtype=torch.float64, device=old.device)
    own_old = torch.zeros(len(old), dtype=torch.float64, device=old.device)
    own_new = torch.zeros(len(new), dtype=torch.float64, device=old.device)
    sides = [(each, unit_scale(each)[:, None, None]) for each in (old, new)]
    used = 0
    for span in chunks(old.shape[1], minibatch):
        m = span.stop - span.start
        if m < MIN_EXAMPLES:
            continue
        a, b = (u_centred_grams(each[:, span].double() / unit) for each, unit in sides)
        scale = 1.0 / (m * (m - 3))
        cross += a @ b.T * scale
        own_old += a.square().sum(dim=1) * scale
        own_new += b.square().sum(dim=1) * scale
        used += 1
    if not used:
        raise LoraportError(
            "too few calibration texts for CKA",
            got=f"{old.shape[1]} examples",
            expected=f"at least {MIN_EXAMPLES}",
            todo="give more texts in calibration.texts or raise calibration.examples",
        )
    return cross / used, own_old / used, own_new / used, used


def cka(cross: torch.Tensor, own_old: torch.Tensor, own_new: torch.Tensor) -> torch.Tensor:
    """`mean HSIC(K,L) / sqrt(mean HSIC(K,K) · mean HSIC(L,L))`, (l_o, l_n).

    A layer whose features do not vary (its own HSIC is zero) resembles nothing: similarity 0.
    """
    below = (own_old[:, None] * own_new[None, :]).clamp(min=0).sqrt()
    return torch.where(below > 0, cross / below.clamp(min=torch.finfo(below.dtype).tiny), 0.0)
