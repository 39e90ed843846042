"""ProLoRA (arXiv 2506.04244): the update split into what lies in the old weight's subspace and not.

With `P = U Uᵀ` and `P' = V Vᵀ` of the singular vectors up to the effective rank, and `P⊥ = I − P`,

    ΔW_n = Pⁿ (Pᵒ ΔW_o Pᵒ') Pⁿ' + P⊥ⁿ (P⊥ᵒ ΔW_o P⊥ᵒ') P⊥ⁿ'        rank ≤ 2r, then truncated

The effective rank is the exponential of the entropy of the normalised singular values (Roy and
Vetterli 2007). `cross_terms: drop` is the formula as printed; it leaves out `Pᵒ ΔW_o P⊥ᵒ'` and its
twin, which the printed `ΔW = ΔW∥ + ΔW⊥` says are not there. `keep` carries them as well: then the
whole is `(Pⁿ Pᵒ + P⊥ⁿ P⊥ᵒ) ΔW_o (Pᵒ' Pⁿ' + P⊥ᵒ' P⊥ⁿ')`, of rank r. Equal shapes. O(d³) a module.
"""

from collections.abc import Iterator
from typing import Any

import torch

from ..mapping.pair import Pair
from ..models.families import Dimensions
from ..transfer.maps import Dense, ModuleMap, Term
from ._weights import require_equal, weights

NEEDS = ("models",)
SETTINGS = ("cross_terms",)


def check(old: Dimensions, new: Dimensions, settings: dict[str, Any]) -> None:
    """Equal depth and shapes."""
    require_equal("prolora", old, new, settings)


def maps(pair: Pair) -> Iterator[ModuleMap]:
    """Yield the products of projections for each role of each layer; notes: effective ranks."""
    for each in weights(pair):
        sides_old, rank_old = projections(each.old)
        sides_new, rank_new = projections(each.new)
        left = [new @ old for old, new in zip(sides_old[0], sides_new[0], strict=True)]
        right = [old @ new for old, new in zip(sides_old[1], sides_new[1], strict=True)]
        if pair.settings["cross_terms"] == "keep":
            left, right = [left[0] + left[1]], [right[0] + right[1]]
        terms = tuple(Term((Dense(a),), (Dense(b),)) for a, b in zip(left, right, strict=True))
        notes = {"effective_rank_old": rank_old, "effective_rank_new": rank_new}
        yield each.module_map(*terms, notes=notes)


Sides = tuple[list[torch.Tensor], list[torch.Tensor]]


def projections(weight: torch.Tensor) -> tuple[Sides, int]:
    """`[P, P⊥]` (d_out, d_out) and `[P', P⊥']` (d_in, d_in) of a weight, and its effective rank."""
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    rank = effective_rank(s)
    sides = []
    for vectors in (u[:, :rank], vh[:rank].T):
        inside = vectors @ vectors.T
        outside = -inside
        outside.diagonal().add_(1)
        sides.append([inside, outside])
    return (sides[0], sides[1]), rank


def effective_rank(singular: torch.Tensor) -> int:
    """exp of the entropy of the normalised singular values, rounded; at least 1."""
    share = singular / singular.sum().clamp(min=torch.finfo(singular.dtype).tiny)
    entropy = -(share * share.clamp(min=torch.finfo(share.dtype).tiny).log()).sum()
    return min(len(singular), max(1, round(float(entropy.exp()))))
