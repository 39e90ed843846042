"""Ridge regression from second moments alone, towards zero or towards a scaled rotation.

On a CPU all ridges of a fit come from one eigendecomposition. On a GPU each is a Cholesky factor of
its own, and rotations come by polar steps: products and triangular solves, which a GPU does some
fifty times as fast as eigenvectors. Both are equal within rounding (tests/unit/calibration).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from ..numerics.linalg import chunks
from ..numerics.polar import polar_by_steps
from .moments import Moments
from .solutions import ROWS_AT_ONCE, Factored, Path, Regression

# λ as a fraction of the Gram's mean diagonal
RIDGE_GRID = tuple(10.0 ** (exponent / 2) for exponent in range(-12, 3))
# where a map with SLIGHT_RIDGE has a held-out error below EXACT_ERROR, one model is taken for the
# other one rewritten; between float32 activations of such models it is about 1e-12
SLIGHT_RIDGE, EXACT_ERROR = 1e-9, 1e-6
HALF_ROUNDING = 5e-4  # relative norm of what rounding to float16 changes, at most: it is 2.8e-4
COARSE_ERROR = 1e-3  # Σ‖y − M x‖² / Σ‖y‖² of a map that is stored in float16
MIN_SHARE = 0.1  # that a share is taken for


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


def as_stored(matrix: torch.Tensor, error: float) -> torch.Tensor:
    """A map with the numbers that are written; where a GPU made it, in the machine's memory and in
    as many bytes as in the file, which makes room for the next one.

    One whose own held-out error is far above that of float16 is rounded to that, which files hold
    in two bytes: its error grows by less than 1e-4 of itself. All others are float32 in files.
    """
    kind = torch.float32
    if error > COARSE_ERROR:
        half = matrix.half().to(matrix)
        if (half - matrix).norm() <= HALF_ROUNDING * matrix.norm():  # no number is out of its range
            matrix, kind = half, torch.float16
    return matrix.to(kind).cpu() if on_gpu(matrix) else matrix


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
    rank : numerical rank of Σ x xᵀ, at a cut of `solutions.RANK_CUT` of its largest eigenvalue; 0
        where it was not asked for
    """

    matrix: torch.Tensor
    ridge: float
    error: float
    rank: int

    @property
    def share(self) -> float:
        """Of its target's variance, what the map predicts on the held-out part."""
        return max(1 - self.error, MIN_SHARE)


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
    return _fit(part, lambda: held, ridge, prior, spare_exact, into=False, ranked=True)


def _fit(
    part: Regression,
    held: Callable[[], Regression],
    ridge: float | str,
    prior: str,
    spare_exact: bool,
    into: bool,
    ranked: bool,
) -> Fit:
    """As `fit`; the held-out sums are made when they are needed, and where `part` may be lost
    (`into`), the sum of both takes its place.
    """
    path, other = _solutions(part, prior), held()
    if ridge == "auto":
        best, error = path.best(other, RIDGE_GRID)
        chosen = RIDGE_GRID[best]
    else:
        chosen, others = float(ridge), [SLIGHT_RIDGE] if spare_exact else []
        error, *slight = path.errors(other, [chosen, *others])
        if slight and slight[0] < EXACT_ERROR:
            chosen, error = SLIGHT_RIDGE, slight[0]
    whole = part.plus(other, into)
    del part, other, path, held
    path = _solutions(whole, prior)
    return Fit(path.matrix(chosen), chosen, error, path.rank() if ranked else 0)


def fit_parts(
    side: Callable[..., Regression],
    parts: tuple[Moments, Moments],
    ridge: float | str,
    prior: str,
    spare_exact: bool = False,
    device: str | torch.device | None = None,
    ranked: bool = True,
) -> Fit:
    """The ridge map of one side, `reading` or `writing`, of both parts' moments, on `device`; None:
    where the moments are. `ranked`: whether the rank is asked for.
    """
    part = side(parts[0], device)
    into = part.gram is not parts[0].gram_old and part.gram is not parts[0].gram_new
    return _fit(part, partial(side, parts[1], device), ridge, prior, spare_exact, into, ranked)


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
        """M (t, s) by eigenvectors of the sources, at a ridge of `fraction` times the unit."""
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
