"""Ridge regression from second moments alone, towards zero or towards a scaled rotation.

On a CPU all ridges of a fit come from one eigendecomposition. On a GPU each is a Cholesky factor of
its own, and rotations come by polar steps: products and triangular solves, which a GPU does some
fifty times as fast as eigenvectors. Both are equal within rounding (tests/unit/calibration).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..numerics.linalg import chunks
from ..numerics.polar import polar_by_steps
from .moments import Moments

# λ as a fraction of the Gram's mean diagonal
RIDGE_GRID = tuple(10.0 ** (exponent / 2) for exponent in range(-12, 3))
# where a map with SLIGHT_RIDGE has a held-out error below EXACT_ERROR, one model is taken for the
# other one rewritten; between float32 activations of such models it is about 1e-12
SLIGHT_RIDGE, EXACT_ERROR = 1e-9, 1e-6
MIN_SHARE = 0.1  # that a share is taken for
RANK_CUT = 1e-10  # of the largest eigenvalue: those above make a numerical rank
ROWS_AT_ONCE = 2048  # of a map, while its errors are summed


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


def reading(moments: Moments, device: str | torch.device | None = None) -> Regression:
    """Of a module's old input from its new input; not centred, since weights act on what is.

    On `device`; None: where the moments are.
    """
    assert moments.gram_new is not None
    return Regression(moments.cross.to(device), moments.gram_new.to(device), moments.square_old)


def writing(moments: Moments, device: str | torch.device | None = None) -> Regression:
    """Of a module's new output from its old output; centred, which takes biases out."""
    assert moments.gram_old is not None
    x, y, count = moments.sum_old.to(device), moments.sum_new.to(device), max(1, moments.count)
    return Regression(
        moments.cross.to(device).T - torch.outer(y, x) / count,
        moments.gram_old.to(device) - torch.outer(x, x) / count,
        moments.square_new - float(y @ y) / count,
    )


def polar(matrix: torch.Tensor) -> torch.Tensor:
    """The partial isometry `U Vᵀ` (m, n) of a matrix U S Vᵀ, without its null directions."""
    if on_gpu(matrix):
        return polar_by_steps(matrix)
    u, _, vh = _singular(matrix)
    return u @ vh


def on_gpu(values: torch.Tensor) -> bool:
    """Whether products are so much cheaper than decompositions that fits go by those."""
    return values.is_cuda


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
    if on_gpu(regression.cross):
        q = polar_by_steps(regression.cross)
        above = _inner(q, regression.cross)
    else:
        u, s, vh = _singular(regression.cross)
        q, above = u @ vh, s.sum()
    below = _form(q, regression.gram)
    return q * torch.where(below > 0, above / below.clamp(min=torch.finfo(q.dtype).tiny), 0.0)


def _inner(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """`tr(A Bᵀ)` of two (t, s), some rows at a time."""
    parts = [(one[rows] * other[rows]).sum() for rows in chunks(len(one), ROWS_AT_ONCE)]
    return torch.stack(parts).sum()


def _form(matrix: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """`tr(M G Mᵀ)` of M (t, s), some rows at a time."""
    rows = [matrix[rows] for rows in chunks(len(matrix), ROWS_AT_ONCE)]
    return torch.stack([((each @ gram) * each).sum() for each in rows]).sum()


@dataclass(frozen=True)
class Fit:
    """A fitted map.

    Attributes
    ----------
    matrix : (t, s) float64
    ridge : λ as a fraction of the mean diagonal
    error : Σ‖y − M x‖² / Σ‖y‖² on the held-out part, of the map fitted without it; 1 is what a map
        of zero has
    rank : numerical rank of Σ x xᵀ, at a cut of RANK_CUT of its largest eigenvalue
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

    def rank(self) -> int:
        """Of the Gram."""
        return int((self.values > RANK_CUT * self.values[-1]).sum())

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


class Factored:
    """The same solutions by a Cholesky factor for each ridge, O(s³ + t s²), and no eigenvector.

    Beside the regression and the prior it holds one (s, s) matrix and two (t, s).
    """

    def __init__(self, regression: Regression, prior: torch.Tensor | None):
        self._regression, self._prior = regression, prior
        self.unit = float(regression.gram.diagonal().mean())

    def matrix(self, ridge: float) -> torch.Tensor:
        """M(ridge · mean diagonal), (t, s)."""
        weight, gram = ridge * self.unit, self._regression.gram
        diagonal = gram.diagonal().clone()
        gram.diagonal().add_(weight)  # in its place: it may be as large as memory allows
        factor, failed = torch.linalg.cholesky_ex(gram)
        gram.diagonal().copy_(diagonal)
        if failed:
            return Path(self._regression, self._prior).matrix(ridge)
        above = self._regression.cross
        if self._prior is not None:
            above = torch.add(above, self._prior, alpha=weight)
        half = torch.linalg.solve_triangular(factor.T, above, upper=True, left=False)
        del above
        return torch.linalg.solve_triangular(factor, half, upper=False, left=False)

    def rank(self) -> int:
        """Of the Gram: by the signs of the pivots of `G − cut · I` (Sylvester), where the cut is of
        the largest eigenvalue by power iteration; a few off at most where pivots are tiny.
        """
        gram = self._regression.gram
        vector = gram.diagonal().clone()
        for _ in range(30):
            vector = gram @ (vector / vector.norm().clamp(min=torch.finfo(gram.dtype).tiny))
        shifted = gram.clone()
        shifted.diagonal().sub_(RANK_CUT * vector.norm())
        if not shifted.is_cuda:  # where there are no pivots in their own order
            return int((torch.linalg.eigvalsh(shifted) > 0).sum())
        triangle, _, _ = torch.linalg.lu_factor_ex(shifted, pivot=False)
        return int((triangle.diagonal() > 0).sum())

    def errors(self, held: Regression, ridges: Sequence[float]) -> list[float]:
        """Σ‖y − M x‖² / Σ‖y‖² on held-out sums, for each ridge."""
        if held.square <= 0:
            return [1.0] * len(ridges)
        fitted = []
        for ridge in ridges:
            matrix = self.matrix(ridge)
            fitted.append(_form(matrix, held.gram) - 2 * _inner(matrix, held.cross))
            del matrix  # the next one takes as much
        return [1 + each / held.square for each in torch.stack(fitted).tolist()]


def _solutions(regression: Regression, prior: str) -> Path | Factored:
    """All ridge solutions, drawn to a prior by its name."""
    towards = procrustes(regression) if prior == "procrustes" else None
    kind = Factored if on_gpu(regression.gram) else Path
    return kind(regression, towards)


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
    ridges = RIDGE_GRID if ridge == "auto" else (float(ridge), SLIGHT_RIDGE)
    errors = _solutions(part, prior).errors(held, ridges)
    if ridge == "auto":
        best = min(range(len(ridges)), key=errors.__getitem__)
    else:
        best = int(spare_exact and errors[1] < EXACT_ERROR)
    whole = Regression(part.cross + held.cross, part.gram + held.gram, part.square + held.square)
    del part, held  # which may have been made for this fit alone
    path = _solutions(whole, prior)
    return Fit(path.matrix(ridges[best]), ridges[best], errors[best], path.rank())


def fit_parts(
    side: Callable[..., Regression],
    parts: tuple[Moments, Moments],
    ridge: float | str,
    prior: str,
    spare_exact: bool = False,
    device: str | torch.device | None = None,
) -> Fit:
    """The ridge map of one side, `reading` or `writing`, of both parts' moments, on `device`; None:
    where the moments are.
    """
    return fit(side(parts[0], device), side(parts[1], device), ridge, prior, spare_exact)


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
