"""Aligned transfer whose output maps are fitted to output gradients.

R, and the L of o and down, are those of `aligned`. What q, k, v, gate and up write is read by their
block alone, and their L is fitted so that the new model's loss answers to the carried update as the
old one's does to the update, to first order: with rows of paired tokens G of gradients of the next
token's loss by a module's output,

    M = (G_oᵀG_n + λ M₀)(G_nᵀG_n + λ I)⁻¹     old gradient from new gradient
    L = Mᵀ                                     since g_nᵀ L B_o z = (M g_n)ᵀ B_o z ≈ g_oᵀ B_o z

`aligned` fits L to outputs, which seldom lie where B does; B is a sum of gradients (BiCo, arXiv
2605.28444). BiCo itself turns B_o by the rotation from old to new gradients. That is the same where
outputs differ by a rotation; where they differ by any other `y_n = T y_o`, gradients go by the
inverse transpose of T, and L has to be T: Mᵀ is. gate and up have an L each, of full rank. λ and M₀
are as in `aligned`. A ridge map gets small where two models' gradients have little in common.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from ..calibration.gradients import INNER
from ..calibration.ridge import Fit, fit
from ..mapping.pair import Pair
from ..numerics.parallel import in_order
from ..transfer.maps import Dense, ModuleMap, Term
from . import aligned
from ._weights import roles, served

NEEDS = ("models", "layers", "moments", "gradients")
SETTINGS = ("ridge", "prior", "writes")


def maps(pair: Pair) -> Iterator[ModuleMap]:
    """Yield the map of each role of each matched layer.

    Settings: as those of `aligned`; `ridge: auto` takes the held-out error of M here. The output
    maps cost O(d_n³) a role beside what `aligned` takes.
    """
    layers = [layer for _, layer in served(pair)]
    lefts = in_order(partial(_outputs, pair), layers, pair.workers)
    layer, left = -1, dict[str, Fit]()
    for each in aligned.maps(pair):
        if each.layer != layer:
            layer, left = each.layer, next(lefts)
        yield _with_left(each, left.pop(each.role)) if each.role in left else each
        del each  # as `aligned` keeps no map that it has yielded


def _outputs(pair: Pair, layer: int) -> dict[str, Fit]:
    """M of each role that writes what its block alone reads."""
    ridge, prior = pair.settings["ridge"], pair.settings["prior"]
    return {
        role: fit(*pair.gradients(layer, role), ridge, prior)
        for role in roles(pair, layer)
        if role in INNER
    }


def _with_left(each: ModuleMap, left: Fit) -> ModuleMap:
    """The map with `L = Mᵀ`."""
    notes = {"ridge_left": left.ridge, "error_left": left.error, "rank_left": left.rank}
    term = Term((Dense(left.matrix.T),), each.terms[0].right)
    return replace(each, terms=(term,), notes={**each.notes, **notes})
