"""Layer similarities other than CKA: CCA, PWCCA and Procrustes, over the whole calibration set.

All three take features (n, d) of the same n examples. Unlike CKA they cannot be estimated from
minibatches, and with no more examples than dimensions they call any two layers alike: they need
n > d. The features are centred.
"""

from collections.abc import Callable

import torch

from ..errors import LoraportError


def canonical(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Canonical correlations of two sets of centred features.

    Parameters
    ----------
    x, y : (n, p) and (n, q) float64

    Returns
    -------
    correlations (k,), descending, k the smaller rank; canonical variates of x (n, k), orthonormal;
    the same of y

    Notes
    -----
    Singular values of `Q_xᵀ Q_y` for orthonormal bases of the columns; O(n p² + n q²).
    """
    bases = []
    for features in (x, y):
        u, s, _ = torch.linalg.svd(features, full_matrices=False)
        kept = s > max(features.shape) * torch.finfo(s.dtype).eps * s[0]
        bases.append(u[:, kept])
    u, rho, vh = torch.linalg.svd(bases[0].T @ bases[1], full_matrices=False)
    return rho.clamp(max=1), bases[0] @ u, bases[1] @ vh.T


def cca(x: torch.Tensor, y: torch.Tensor) -> float:
    """Mean canonical correlation, in [0, 1] (Raghu et al., arXiv 1706.05806)."""
    rho, _, _ = canonical(x, y)
    return float(rho.mean()) if len(rho) else 0.0


def pwcca(x: torch.Tensor, y: torch.Tensor) -> float:
    """Projection-weighted CCA, `Σ α ρ / Σ α`, `α_i = Σ_j |⟨h_i, x_j⟩|` (arXiv 1806.05759).

    The variates h_i and the feature columns x_j are those of the first argument: not symmetric.
    """
    rho, variates, _ = canonical(x, y)
    alpha = (variates.T @ x).abs().sum(dim=1)
    return float((alpha * rho).sum() / alpha.sum()) if len(rho) and float(alpha.sum()) else 0.0


def procrustes(x: torch.Tensor, y: torch.Tensor) -> float:
    """`‖XᵀY‖_* / (‖X‖_F ‖Y‖_F)` in [0, 1]: 1 − half of the orthogonal Procrustes distance.

    The distance is `‖X‖² + ‖Y‖² − 2‖XᵀY‖_*` of features of norm 1 (arXiv 2108.01661).
    """
    below = float(x.norm() * y.norm())
    return float(torch.linalg.matrix_norm(x.T @ y, "nuc")) / below if below else 0.0


MEASURES: dict[str, Callable[[torch.Tensor, torch.Tensor], float]] = {
    "cca": cca,
    "pwcca": pwcca,
    "procrustes": procrustes,
}


def similarities(old: torch.Tensor, new: torch.Tensor, how: str) -> torch.Tensor:
    """Similarity of all layer pairs, (l_o, l_n) float64.

    Parameters
    ----------
    old, new : (l_o, n, d_o) and (l_n, n, d_n), the same n examples in the same order
    how : a name out of `MEASURES`; of pwcca the weights are those of the old model's layers

    Raises
    ------
    LoraportError
        If there are no more examples than dimensions.
    """
    examples, widest = old.shape[1], max(old.shape[2], new.shape[2])
    if examples <= widest:
        raise LoraportError(
            f"too few calibration texts for layer similarity by {how}",
            got=f"{examples} examples for layers of width {widest}",
            expected=f"more than {widest}: with fewer any two layers look alike",
            todo="raise calibration.examples, or set mapping.similarity: cka",
        )
    left, right = ([layer - layer.mean(dim=0) for layer in side.double()] for side in (old, new))
    return torch.tensor([[MEASURES[how](x, y) for y in right] for x in left], dtype=torch.float64)
