"""Tokens that two vocabularies do not share, as sparse sums of tokens that they do.

The embedding of a new token is approximated by few shared tokens' embeddings, by orthogonal
matching pursuit in the new model's space; the same sum of what the shared tokens' rows are in
another table stands for the token's row there (mergekit-tokensurgeon, arXiv 2506.06607). A carried
adapter of the vocabulary reaches unshared tokens that way: `b_new[t] = Σ c_i b_old[s_i]`.
"""

from dataclasses import dataclass

import numpy as np
import torch

from ..models.spec import Model
from ..models.tokens import read_vocabulary
from ..numerics.linalg import chunks

ATOMS = 64  # shared tokens a sum has at most, as published
MAX_RESIDUAL = 1e-6  # share of a row's norm that may be left
PRODUCTS_AT_ONCE = 1 << 24  # inner products held at a time


@dataclass(frozen=True)
class Unshared:
    """New tokens without a counterpart, as sums of shared ones.

    Attributes
    ----------
    ids : (m,) their ids in the new vocabulary
    picks : (m, k) places in the list of shared tokens
    coefficients : (m, k) float64; 0 where fewer than k are needed
    residual : ‖E − Ê‖ / ‖E‖ over all of them
    """

    ids: np.ndarray
    picks: np.ndarray
    coefficients: np.ndarray
    residual: float


def approximate_unshared(
    new: Model, shared: np.ndarray, device: str = "cpu", count: int = ATOMS
) -> Unshared:
    """Each token that the new tokenizer writes and `shared` (n,) lacks, by at most `count` of them.

    O(m n d k) for m tokens of width d. A large vocabulary of which little is shared takes minutes
    on a GPU and hours on a CPU. Memory: E_n twice in single precision.
    """
    name = f"{new.architecture.embedding}.weight"
    table = new.checkpoint().read(name)
    written = np.unique(list(read_vocabulary(new.directory).raw.values())).astype(np.int64)
    ids = np.setdiff1d(written[written < len(table)], shared)
    atoms = torch.from_numpy(table[shared].astype(np.float32)).to(device)
    picks, coefficients = [], []
    above = below = 0.0
    for span in chunks(len(ids), max(1, PRODUCTS_AT_ONCE // max(1, len(shared)))):
        rows = torch.from_numpy(table[ids[span]].astype(np.float64)).to(device)
        places, values, left = matching_pursuit(rows, atoms, count)
        picks.append(places.cpu().numpy())
        coefficients.append(values.cpu().numpy())
        above += float(left.square().sum())
        below += float(rows.square().sum())
    none = np.empty((0, min(count, *atoms.shape)))
    return Unshared(
        ids,
        np.concatenate([none.astype(np.int64), *picks]),
        np.concatenate([none, *coefficients]),
        (above / below) ** 0.5 if below else 0.0,
    )


def matching_pursuit(
    targets: torch.Tensor, atoms: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Orthogonal matching pursuit: `targets ≈ Σ coefficients · atoms[picks]`, row by row.

    Each step takes the atom of the largest cosine with what is left, and fits all that are taken by
    least squares: an orthonormal basis Q of them is grown, `Qᵀ = R⁻ᵀ atoms`, and R c = Q t.

    Parameters
    ----------
    targets : (m, d) float64
    atoms : (n, d); cosines are taken in their precision, sums in float64
    count : atoms a row at most; never more than n or d

    Returns
    -------
    picks (m, k), coefficients (m, k) float64, and what is left of the targets (m, d)
    """
    k, (m, d) = min(count, *atoms.shape), targets.shape
    unit = atoms / atoms.norm(dim=1, keepdim=True).clamp(min=torch.finfo(atoms.dtype).tiny)
    basis = targets.new_zeros(m, k, d)
    upper = torch.eye(k, dtype=targets.dtype, device=targets.device).repeat(m, 1, 1)
    picks = torch.zeros(m, k, dtype=torch.int64, device=targets.device)
    left, rows = targets.clone(), torch.arange(m, device=targets.device)
    taken = torch.zeros(m, len(atoms), dtype=torch.bool, device=targets.device)
    enough = MAX_RESIDUAL * targets.norm(dim=1)
    for step in range(k):
        cosines = (left.to(unit.dtype) @ unit.T).abs().masked_fill(taken, -1.0)
        picks[:, step] = cosines.argmax(dim=1)
        taken[rows, picks[:, step]] = True
        atom = atoms[picks[:, step]].to(targets.dtype)
        along = (basis @ atom[:, :, None])[:, :, 0]
        rest = atom - (along[:, None] @ basis)[:, 0]
        again = (basis @ rest[:, :, None])[:, :, 0]  # a second time, against rounding
        rest, along = rest - (again[:, None] @ basis)[:, 0], along + again
        length = rest.norm(dim=1)
        used = (left.norm(dim=1) > enough) & (length > MAX_RESIDUAL * atom.norm(dim=1))
        basis[:, step] = torch.where(used[:, None], rest / length[:, None], 0.0)
        upper[:, :step, step] = torch.where(used[:, None], along[:, :step], 0.0)
        upper[:, step, step] = torch.where(used, length, 1.0)
        left = left - (left[:, None] @ basis[:, step, :, None])[:, 0] * basis[:, step]
    inner = basis @ targets[:, :, None]
    return picks, torch.linalg.solve_triangular(upper, inner, upper=True)[:, :, 0], left
