"""All ridge solutions of one regression: by eigenvectors, or by a Cholesky factor for each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ..numerics.linalg import chunks

RANK_CUT = 1e-10  # of the largest eigenvalue: those above make a numerical rank
EVERY = 3  # of a grid of ridges, those that are tried first where each costs a factorisation
ROWS_AT_ONCE = 2048  # of a map, while it is solved for and its errors are summed


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

    def plus(self, other: "Regression", into: bool = False) -> "Regression":
        """The sums of both; `into` the place of these, which are lost."""
        add = torch.Tensor.add_ if into else torch.Tensor.add
        cross, gram = add(self.cross, other.cross), add(self.gram, other.gram)
        return Regression(cross, gram, self.square + other.square)


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

    def best(self, held: Regression, ridges: Sequence[float]) -> tuple[int, float]:
        """Place of the ridge with the least error, and that error."""
        errors = self.errors(held, ridges)
        place = min(range(len(ridges)), key=errors.__getitem__)
        return place, errors[place]


class Factored:
    """The same solutions by a Cholesky factor for each ridge, O(s³ + t s²), and no eigenvector.

    Beside the regression and the prior it holds one (s, s) matrix, some rows of the map, and the
    (t, s) that it gives.
    """

    def __init__(self, regression: Regression, prior: torch.Tensor | None):
        self._regression, self._prior = regression, prior
        self.unit = float(regression.gram.diagonal().mean())

    def matrix(self, ridge: float) -> torch.Tensor:
        """M(ridge · mean diagonal), (t, s)."""
        matrix = torch.empty_like(self._regression.cross)
        for rows, solved in self._rows(ridge):
            matrix[rows] = solved
        return matrix

    def _rows(self, ridge: float) -> Iterator[tuple[slice, torch.Tensor]]:
        """M(ridge · mean diagonal), some rows at a time."""
        weight, gram = ridge * self.unit, self._regression.gram
        diagonal = gram.diagonal().clone()
        gram.diagonal().add_(weight)  # in its place: it may be as large as memory allows
        factor, failed = torch.linalg.cholesky_ex(gram)
        gram.diagonal().copy_(diagonal)
        cross = self._regression.cross
        if failed:
            del factor
            yield slice(0, len(cross)), Path(self._regression, self._prior).matrix(ridge)
            return
        for rows in chunks(len(cross), ROWS_AT_ONCE):
            above = cross[rows]
            if self._prior is not None:
                above = torch.add(above, self._prior[rows], alpha=weight)
            half = torch.linalg.solve_triangular(factor.T, above, upper=True, left=False)
            yield rows, torch.linalg.solve_triangular(factor, half, upper=False, left=False)

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
        return [self._error(held, ridge) for ridge in ridges]

    def best(self, held: Regression, ridges: Sequence[float]) -> tuple[int, float]:
        """Place of the ridge with the least error, and that error: the best of each third ridge,
        and on from there as long as a neighbour is better. It is the best of all where the errors
        fall and then rise along the grid.
        """
        known: dict[int, float] = {}

        def error(place: int) -> float:
            if place not in known:
                known[place] = self._error(held, ridges[place])
            return known[place]

        place = min(range(EVERY // 2, len(ridges), EVERY), key=error)
        while place and error(place - 1) <= error(place):
            place -= 1
        while place + 1 < len(ridges) and error(place + 1) < error(place):
            place += 1
        return place, error(place)

    def _error(self, held: Regression, ridge: float) -> float:
        if held.square <= 0:
            return 1.0
        fitted = []
        for rows, solved in self._rows(ridge):
            fitted.append(((solved @ held.gram - 2 * held.cross[rows]) * solved).sum())
        return 1 + float(torch.stack(fitted).sum()) / held.square
