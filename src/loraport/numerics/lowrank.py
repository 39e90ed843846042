"""Low-rank factors: balanced ones, and the best stand-in for a matrix plus a low-rank one.

numpy alone, as the transfer is.
"""

import numpy as np

EXTRA_COLUMNS, POWER_PASSES = 10, 4  # columns beyond the rank, and passes that sharpen the spectrum
SEED = 0
SAFE_CONDITION = 1e10  # of a Gram: beyond it the basis is taken by QR


def balance(b: np.ndarray, a: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Factors of the best rank-`rank` approximation of `b @ a`, half of the singular values each.

    Parameters
    ----------
    b, a : (d_out, k) and (k, d_in) float64

    Returns
    -------
    b (d_out, rank), a (rank, d_in), share of ‖b a‖² kept (1.0 where k ≤ rank)

    Notes
    -----
    O((d_out + d_in) k²). Signs are fixed: the largest entry of each column of b is positive.
    """
    left, inner_left, core_left = _thin_basis(b)
    right, inner_right, core_right = _thin_basis(a.T)
    u, s, vh = np.linalg.svd(core_left @ core_right.T, full_matrices=False)
    root = np.sqrt(s[:rank])
    b_new = left @ (inner_left @ (u[:, :rank] * root))
    a_new = ((inner_right @ (vh[:rank].T * root)).T) @ right.T
    signs = np.where(-b_new.min(axis=0) > b_new.max(axis=0), -1.0, 1.0)
    b_new *= signs
    a_new *= signs[:, None]
    if missing := rank - len(root):
        b_new, a_new = np.pad(b_new, ((0, 0), (0, missing))), np.pad(a_new, ((0, missing), (0, 0)))
    total = float(np.sum(s**2))
    return b_new, a_new, float(np.sum(s[:rank] ** 2)) / total if total else 1.0


def _thin_basis(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`x = (outer @ inner) @ core` with orthonormal `outer @ inner`; x is (d, k).

    From the k×k Gram, so that x itself is only multiplied; by QR where the Gram is nearly singular.
    """
    values, vectors = np.linalg.eigh(x.T @ x)
    if values[0] * SAFE_CONDITION > values[-1] > 0:
        root = np.sqrt(values)
        return x, vectors / root, root[:, None] * vectors.T
    basis, core = np.linalg.qr(x)
    return basis, np.eye(basis.shape[1]), core


def truncated_sum(
    constant: np.ndarray, b: np.ndarray, a: np.ndarray, rank: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Balanced factors of the truncated SVD of `constant + b @ a`.

    Parameters
    ----------
    constant : (d_out, d_in)
    b, a : (d_out, k) and (k, d_in) float64

    Returns
    -------
    b (d_out, rank), a (rank, d_in), share of ‖constant + b a‖² kept

    Notes
    -----
    Randomised SVD with power iterations (Halko, Martinsson and Tropp, arXiv 0909.4061), O(d_out
    d_in rank); seeded, so that the same input gives the same result. Signs are fixed: the largest
    entry of each column of b is positive.
    """
    matrix = constant + b @ a
    width = min(rank + EXTRA_COLUMNS, *matrix.shape)
    start = np.random.default_rng(SEED).standard_normal((matrix.shape[1], width))
    basis, _ = np.linalg.qr(matrix @ start)
    for _ in range(POWER_PASSES):
        back, _ = np.linalg.qr(matrix.T @ basis)
        basis, _ = np.linalg.qr(matrix @ back)
    u, s, vh = np.linalg.svd(basis.T @ matrix, full_matrices=False)
    u = basis @ u[:, :rank]
    signs = np.sign(u[np.abs(u).argmax(axis=0), np.arange(u.shape[1])])
    signs[signs == 0] = 1
    root = np.sqrt(s[:rank]) * signs
    missing = rank - len(root)
    total = float(np.sum(matrix**2))
    return (
        np.pad(u * root, ((0, 0), (0, missing))),
        np.pad(root[:, None] * vh[:rank], ((0, missing), (0, 0))),
        float(np.sum(s[:rank] ** 2)) / total if total else 1.0,
    )
