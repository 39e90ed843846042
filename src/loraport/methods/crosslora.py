"""Cross-LoRA: the update projected onto the top singular vectors of the new weight.

Equal shapes, as published: `ΔW_n = U_n U_nᵀ ΔW_o V_n V_nᵀ` with the top `singular` vectors of W_n;
of full rank and square that is SimpleCopy. Unequal shapes, our reading: `ΔW_n = U_n (U_oᵀ ΔW_o V_o)
V_nᵀ`, the i-th singular direction of the old weight onto the i-th of the new one. That is not
unique: a singular pair may change its sign, and pairs of close singular values their places. Signs
are fixed so that the largest entry of each column of U is positive. O(d³) a module.
"""

from collections.abc import Iterator

import torch

from ..mapping.pair import Pair
from ..transfer.maps import Dense, ModuleMap, Term
from ._weights import weights

NEEDS = ("models", "layers")
SETTINGS = ("singular",)


def maps(pair: Pair) -> Iterator[ModuleMap]:
    """Yield the projections for each role of each matched layer.

    Notes: the share of ‖W‖² that the kept vectors hold, and whether the map is unique.
    """
    for each in weights(pair):
        count = min(pair.settings["singular"], *each.old.shape, *each.new.shape)
        u_new, v_new, kept_new = top_vectors(each.new, count)
        notes = {"singular": count, "energy_kept_new": kept_new, "unique": 1.0}
        if each.old.shape == each.new.shape:
            u_old, v_old = u_new, v_new
        else:
            u_old, v_old, notes["energy_kept_old"] = top_vectors(each.old, count)
            notes["unique"] = 0.0
        term = Term((Dense(u_new), Dense(u_old.T)), (Dense(v_old), Dense(v_new.T)))
        yield each.module_map(term, notes=notes)


def top_vectors(weight: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Top singular vectors U (d_out, count), V (d_in, count), and the share of ‖W‖² they hold."""
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    u, v = u[:, :count], vh[:count].T
    signs = u.gather(0, u.abs().argmax(dim=0, keepdim=True)).sign()
    signs[signs == 0] = 1
    total = float(s.square().sum())
    return u * signs, v * signs, float(s[:count].square().sum()) / total if total else 1.0
