"""The orthogonal factor of a matrix without its singular vectors: by matrix products and QR alone.

QDWH (Nakatsukasa, Bai and Gygi 2010): singular values in [l, 1] go to 1 by rational steps
`x (a + b x²) / (1 + c x²)`, some six of them for l = 1e-12. On a GPU this takes a small part of
the time of a singular value decomposition in float64.
"""

import torch

BY_QR = 100.0  # a step with a larger c is taken by QR: normal equations would lose digits
STEEP = 32.0  # about how many times less than the least value that is sure to go to 1 goes to ½
SHARPENED = 4  # times that values below 0.8 are then moved towards 0, and those above to 1
BOUND = 1.1  # that the estimate of the largest singular value is taken times


def polar_by_steps(matrix: torch.Tensor) -> torch.Tensor:
    """`U Vᵀ` (m, n) float64 of U S Vᵀ, where singular values of at most `max(m, n)·eps` of the
    largest one count as null directions: those, and the few close above, are taken out.

    O(m n min(m, n)) time; memory of two (m, n) and some eight (k, k), k = min(m, n).
    """
    if matrix.shape[0] < matrix.shape[1]:
        return polar_by_steps(matrix.T).T
    largest = _largest(matrix)
    if largest == 0:
        return torch.zeros_like(matrix)
    basis, x = torch.linalg.qr(matrix)
    cut = max(matrix.shape) * torch.finfo(matrix.dtype).eps / BOUND
    x = _stepped(x / (BOUND * largest), min(STEEP * cut, 0.5))
    for _ in range(SHARPENED):  # p(x) = (5 x³ − 3 x⁵) / 2
        square = x.T @ x
        x = 0.5 * (x @ square) @ (5 * _eye(square) - 3 * square)
    return basis @ x


def _largest(matrix: torch.Tensor) -> float:
    """Largest singular value, to a few per cent, by power iteration from a seeded start."""
    start = torch.Generator().manual_seed(0)
    vector = torch.randn(matrix.shape[1], generator=start, dtype=torch.float64).to(matrix)
    size = vector.norm()
    for _ in range(30):
        vector = matrix.T @ (matrix @ (vector / size))
        size = vector.norm().clamp(min=torch.finfo(matrix.dtype).tiny)
    return float(size.sqrt()) if float(size) > 1e-300 else 0.0


def _eye(like: torch.Tensor) -> torch.Tensor:
    return torch.eye(len(like), dtype=like.dtype, device=like.device)


def _stepped(x: torch.Tensor, least: float) -> torch.Tensor:
    """Polar steps of a square matrix whose singular values are at most 1, from `least` on to 1."""
    while abs(1 - least) > 1e-15:
        square = least * least
        d = (4 * (1 - square) / square**2) ** (1 / 3)
        root = (1 + d) ** 0.5
        a = root + 0.5 * (8 - 4 * d + 8 * (2 - square) / (square * root)) ** 0.5
        b = (a - 1) ** 2 / 4
        c = a + b - 1
        if c > BY_QR:
            basis, _ = torch.linalg.qr(torch.cat([c**0.5 * x, _eye(x)]))
            x = b / c * x + (a - b / c) / c**0.5 * basis[: len(x)] @ basis[len(x) :].T
            del basis
        else:
            gram = (c * (x.T @ x)).add_(_eye(x))
            solved = torch.cholesky_solve(x.T.contiguous(), torch.linalg.cholesky(gram)).T
            x = b / c * x + (a - b / c) * solved
        following = least * (a + b * square) / (1 + c * square)
        least = min(1.0, max(following, least))
        if a < 3 + 1e-9:  # the last step was Halley's own
            break
    return x
