"""Least squares and pseudo-inverses in float64: cheap where the problem allows, safe elsewhere."""

from collections.abc import Callable, Iterable, Iterator

import torch

TRUSTED_CONDITION = 1e6  # beyond it normal equations lose more digits than float64 has to spare


def pinv(matrix: torch.Tensor) -> torch.Tensor:
    """Moore–Penrose inverse, (n, m) for (m, n), float64.

    By Cholesky on the Gram of the shorter side, `O(max·min²)`; checked by multiplying back, and
    done again by SVD where that fails (rank-deficient or badly conditioned).
    """
    matrix = matrix.double()
    if matrix.shape[0] < matrix.shape[1]:
        return pinv(matrix.T).T
    gram = matrix.T @ matrix
    factor, failed = torch.linalg.cholesky_ex(gram)
    if not failed:
        inverse = torch.cholesky_solve(matrix.T.contiguous(), factor)
        error = inverse @ matrix
        error.diagonal().sub_(1)
        if error.abs().max() < 1e-8:
            return inverse
    return torch.linalg.pinv(matrix)


def gram_inverse(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """`(MᵀM)⁻¹` and `MᵀM`, (n, n) float64, of a tall matrix; `M⁺ = (MᵀM)⁻¹ Mᵀ`.

    None where M has not full rank or is badly conditioned, as far as multiplying back shows.
    """
    matrix = matrix.double()
    gram = matrix.T @ matrix
    factor, failed = torch.linalg.cholesky_ex(gram)
    if failed:
        return None
    inverse = torch.cholesky_inverse(factor)
    error = inverse @ gram
    error.diagonal().sub_(1)
    return (inverse, gram) if error.abs().max() < 1e-8 else None


Blocks = Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]]


def least_squares(blocks: Blocks) -> tuple[torch.Tensor, float, float]:
    """`pinv(E) F` for tall matrices that come in blocks of rows.

    Parameters
    ----------
    blocks : gives, each time it is called, the rows of E (m, d) and F (m, e), float64, in blocks

    Returns
    -------
    solution (d, e), condition number of E, relative residual ‖E W − F‖ / ‖F‖

    Notes
    -----
    Normal equations with the eigenvalue cut-off d·eps·λ_max, `O(m d (d + e))` time and `O(d (d +
    e))` memory; where the condition number exceeds 1e6, a second pass reduces E by QR instead.
    """
    gram = cross = None
    square = 0.0
    for left, right in blocks():
        gram = left.T @ left if gram is None else gram.addmm_(left.T, left)
        cross = left.T @ right if cross is None else cross.addmm_(left.T, right)
        square += float(right.square().sum())
    if gram is None or cross is None:
        raise ValueError("no rows")
    values, vectors = torch.linalg.eigh(gram)
    cut = len(values) * torch.finfo(torch.float64).eps * values[-1]
    kept = values > cut
    condition = float((values[-1] / values[kept][0]).sqrt()) if kept.any() else float("inf")
    if kept.all() and condition <= TRUSTED_CONDITION:
        solution = vectors @ ((vectors.T @ cross) / values[:, None])
    else:
        solution, condition = _by_qr(blocks())
    fitted = (solution * (gram @ solution)).sum() - 2 * (solution * cross).sum()
    residual = (max(0.0, square + float(fitted)) / square) ** 0.5 if square else 0.0
    return solution, condition, residual


def _by_qr(blocks: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, float]:
    """`pinv(E) F` by QR of one block of rows after another, then an SVD of the triangle."""
    triangle = target = None
    rows = 0
    for left, right in blocks:
        rows += len(left)
        if triangle is not None and target is not None:
            left, right = torch.cat([triangle, left]), torch.cat([target, right])
        basis, triangle = torch.linalg.qr(left)
        target = basis.T @ right
    assert triangle is not None and target is not None
    u, s, vh = torch.linalg.svd(triangle, full_matrices=False)
    kept = s > max(rows, triangle.shape[1]) * torch.finfo(torch.float64).eps * s[0]
    inverse = torch.where(kept, 1 / s.clamp(min=torch.finfo(torch.float64).tiny), 0)
    solution = vh.T @ (inverse[:, None] * (u.T @ target))
    return solution, float(s[0] / s[kept][-1]) if kept.any() else float("inf")


def chunks(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` that cover `range(count)`."""
    for first in range(0, count, size):
        yield slice(first, min(first + size, count))
