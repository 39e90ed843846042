"""Ridge regression from second moments alone, towards zero or towards a scaled rotation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .moments import Moments

# λ as a fraction of the Gram's mean diagonal
RIDGE_GRID = tuple(10.0 ** (exponent / 2) for exponent in range(-12, 3))
# where a map with SLIGHT_RIDGE has a held-out error below EXACT_ERROR, one model is taken for the
# other one rewritten; between float32 activations of such models it is about 1e-12
SLIGHT_RIDGE, EXACT_ERROR = 1e-9, 1e-6
MIN_SHARE = 0.1  # that a share is taken for


@dataclass(frozen=True)
class Regression:
    """The sums that a linear prediction of targets y (t,) from sources x (s,) needs.

    Attributes
    ----------
    cross : Σ y xᵀ (t, s)
    gram : Σ x xᵀ (s, s)
    square : Σ ‖y‖²
    """

    cross: torch.Tensor
    gram: torch.Tensor
    square: float


def reading(moments: Moments) -> Regression:
    """Of a module's old input from its new input; not centred, since weights act on what is."""
    assert moments.gram_new is not None
    return Regression(moments.cross, moments.gram_new, moments.square_old)


def writing(moments: Moments) -> Regression:
    """Of a module's new output from its old output; centred, which takes biases out."""
    assert moments.gram_old is not None
    x, y, count = moments.sum_old, moments.sum_new, max(1, moments.count)
    return Regression(
        moments.cross.T - torch.outer(y, x) / count,
        moments.gram_old - torch.outer(x, x) / count,
        moments.square_new - float(y @ y) / count,
    )


def polar(matrix: torch.Tensor) -> torch.Tensor:
    """The partial isometry `U Vᵀ` (m, n) of a matrix U S Vᵀ, without its null directions."""
    u, _, vh = _singular(matrix)
    return u @ vh


def _singular(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Thin singular value decomposition (m, k), (k,), (k, n) without the null directions."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    kept = s > max(matrix.shape) * torch.finfo(s.dtype).eps * s[0]
    return u[:, kept], s[kept], vh[kept]


def procrustes(regression: Regression) -> torch.Tensor:
    """The scaled partial isometry c·Q (t, s) nearest to the relation of x and y.

    `Q = U Vᵀ` of the cross moment's singular vectors without its null directions, `c` by least
    squares: `c = Σσ / tr(Q Σxxᵀ Qᵀ)`. O(t s min(t, s)).
    """
    u, s, vh = _singular(regression.cross)
    q = u @ vh
    below = float(((q @ regression.gram) * q).sum())
    return q * (float(s.sum()) / below if below > 0 else 0.0)


@dataclass(frozen=True)
class Fit:
    """A fitted map.

    Attributes
    ----------
    matrix : (t, s) float64
    ridge : λ as a fraction of the mean diagonal
    error : Σ‖y − M x‖² / Σ‖y‖² on the held-out part, of the map fitted without it; 1 is what a map
        of zero has
    rank : numerical rank of Σ x xᵀ, at a cut of 1e-10 of its largest eigenvalue
    """

    matrix: torch.Tensor
    ridge: float
    error: float
    rank: int

    @property
    def share(self) -> float:
        """Of its target's variance, what the map predicts on the held-out part."""
        return max(1 - self.error, MIN_SHARE)


class Path:
    """All ridge solutions of one regression, by one eigendecomposition O(s³).

    `M(λ) = (Σ y xᵀ + λ P)(Σ x xᵀ + λ I)⁻¹` with the prior P (t, s), or zero for None.
    """

    def __init__(self, regression: Regression, prior: torch.Tensor | None):
        values, self.vectors = torch.linalg.eigh(regression.gram)
        self.values = values.clamp(min=0)
        self.unit = float(regression.gram.diagonal().mean())
        self.cross = regression.cross @ self.vectors
        self._prior = None if prior is None else prior @ self.vectors

    def turned(self, ridge: float) -> torch.Tensor:
        """M(ridge · mean diagonal) in the basis of the eigenvectors."""
        weight = ridge * self.unit
        above = self.cross if self._prior is None else self.cross + weight * self._prior
        below = self.values + weight
        return torch.where(below > 0, above / below.clamp(min=torch.finfo(below.dtype).tiny), 0.0)

    def matrix(self, ridge: float) -> torch.Tensor:
        """M(ridge · mean diagonal), (t, s)."""
        return self.turned(ridge) @ self.vectors.T

    def errors(self, held: Regression, ridges: Sequence[float]) -> list[float]:
        """Σ‖y − M x‖² / Σ‖y‖² on held-out sums, for each ridge; O(t s²) once and O(s²) each.

        In the eigenvectors' basis `M = C D + P E` with diagonal D and E, so that
        `tr(M G Mᵀ) = dᵀ(G ∘ CᵀC)d + 2 dᵀ(G ∘ CᵀP)e + eᵀ(G ∘ PᵀP)e`.
        """
        cross = held.cross @ self.vectors
        gram = self.vectors.T @ held.gram @ self.vectors
        parts = [self.cross] if self._prior is None else [self.cross, self._prior]
        both = [(0, 0), (0, 1), (1, 1)] if len(parts) == 2 else [(0, 0)]
        squares = {(i, j): gram * (parts[i].T @ parts[j]) for i, j in both}
        lines = [(one * cross).sum(dim=0) for one in parts]
        errors = []
        for ridge in ridges:
            weight = ridge * self.unit
            below = self.values + weight
            d = torch.where(below > 0, 1 / below.clamp(min=torch.finfo(below.dtype).tiny), 0.0)
            scales = [d, weight * d][: len(parts)]
            fitted = sum(-2 * scale @ line for scale, line in zip(scales, lines, strict=True))
            for (i, j), square in squares.items():
                fitted += (1 if i == j else 2) * scales[i] @ square @ scales[j]
            errors.append(1 + float(fitted) / held.square if held.square > 0 else 1.0)
        return errors


def fit(
    part: Regression,
    held: Regression,
    ridge: float | str = "auto",
    prior: str = "zero",
    spare_exact: bool = False,
) -> Fit:
    """The ridge map of both parts together.

    Parameters
    ----------
    part, held : sums of the texts to fit on, and of the held-out ones
    ridge : λ as a fraction of the mean diagonal, or `auto`: of `RIDGE_GRID`, the one whose
        map of `part` has the least error on `held`
    prior : what the map is drawn to, `zero` or `procrustes`
    spare_exact : take `SLIGHT_RIDGE` in place of `ridge` where the relation of both sides is exact
    """
    whole = Regression(part.cross + held.cross, part.gram + held.gram, part.square + held.square)
    ridges = RIDGE_GRID if ridge == "auto" else (float(ridge), SLIGHT_RIDGE)
    errors = Path(part, procrustes(part) if prior == "procrustes" else None).errors(held, ridges)
    if ridge == "auto":
        best = min(range(len(ridges)), key=errors.__getitem__)
    else:
        best = int(spare_exact and errors[1] < EXACT_ERROR)
    path = Path(whole, procrustes(whole) if prior == "procrustes" else None)
    rank = int((path.values > 1e-10 * path.values[-1]).sum())
    return Fit(path.matrix(ridges[best]), ridges[best], errors[best], rank)


def fit_parts(
    side: Callable[[Moments], Regression],
    parts: tuple[Moments, Moments],
    ridge: float | str,
    prior: str,
    spare_exact: bool = False,
) -> Fit:
    """The ridge map of one side, `reading` or `writing`, of both parts' moments."""
    return fit(side(parts[0]), side(parts[1]), ridge, prior, spare_exact)


def solve(
    regression: Regression,
    ridge: float,
    spare_exact: bool = False,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """The ridge map towards zero (t, s), of few sources: `ridge` and `spare_exact` as in `fit`, but
    by the error on what was fitted.

    Parameters
    ----------
    weights : w (t,) where y is predicted by `w ∘ (M x)`: the M of the least
        `Σ‖y − w ∘ (M x)‖² + λ‖M‖²`, which stays bounded where an entry of w is next to zero
    """
    path = Path(regression, None)
    w = torch.ones(len(path.cross)).to(path.cross) if weights is None else weights.to(path.cross)
    squares = w.square()[:, None]

    def turned(fraction: float) -> torch.Tensor:
        below = squares * path.values + fraction * path.unit * float(squares.mean())
        tiny = torch.finfo(below.dtype).tiny
        return torch.where(below > 0, w[:, None] * path.cross / below.clamp(min=tiny), 0.0)

    slight = turned(SLIGHT_RIDGE)
    fitted = (slight * (squares * path.values * slight - 2 * w[:, None] * path.cross)).sum()
    error = 1 + float(fitted) / regression.square if regression.square > 0 else 1.0
    return (slight if spare_exact and error < EXACT_ERROR else turned(ridge)) @ path.vectors.T


def right_inverse(matrix: torch.Tensor, ridge: float) -> torch.Tensor:
    """`Mᵀ (M Mᵀ + λ I)⁻¹` (s, t) for M (t, s), λ a fraction of the mean diagonal of M Mᵀ.

    What a reader by M has to be shown so that it reads a given y: `M x ≈ y` with the least x.
    """
    gram = matrix @ matrix.T
    gram.diagonal().add_(ridge * float(gram.diagonal().mean()))
    return torch.linalg.solve(gram, matrix).T
