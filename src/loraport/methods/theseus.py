"""Theseus (arXiv 2602.12952), a training-free baseline: task vectors carried by two rotations.

Both models read the same texts. With rows of paired tokens X (inputs) and Y (outputs) of a module,

    Q_in = polar(X_oᵀ X_n)    Q_out = polar(Y_oᵀ Y_n)    ΔW_n = Q_outᵀ ΔW_o Q_in

so that `B_n = Q_outᵀ B_o`, `A_n = A_o Q_in`. polar of a matrix `U S Vᵀ` is `U Vᵀ`: the orthogonal
Procrustes solution, a partial isometry where the two widths differ. Nothing is centred or scaled,
as in the authors' code (github.com/apanariello4/merge-and-rebase); what remains is a factor for the
update (`transfer.scale`). Our reading: tokens of two tokenizers are paired by the characters that
they end on and layers by the path, where the authors interpolate positions and take equal depth.
gate and up write in a space of the hidden size: their `Y_oᵀ Y_n` is `W_o X_oᵀ X_n W_nᵀ`, without
biases, and its null directions, arbitrary in the authors' code, are left out.
"""

from collections.abc import Iterator
from itertools import groupby

import torch

from ..calibration.moments import LayerMoments
from ..calibration.ridge import polar
from ..calibration.sites import READS, WRITES
from ..mapping.pair import Pair
from ..transfer.maps import Dense, Factor, ModuleMap, Term
from ._weights import Weights, weights

NEEDS = ("models", "layers", "moments")
SETTINGS = ()


def maps(pair: Pair) -> Iterator[ModuleMap]:
    """Yield the map of each role of each matched layer.

    O(d_o d_n min(d_o, d_n)) a site, of its two widths. Both models' weights are read. The sums of
    both parts of the texts are used: nothing is chosen on those held out.
    """
    for layer, modules in groupby(weights(pair), key=lambda each: each.layer):
        moments = pair.moments(layer)
        right: dict[str, Dense] = {}
        for each in modules:
            site = READS[each.role]
            if site not in right:
                right[site] = Dense(
                    polar(_cross(moments, site, pair.device)), f"layer_{layer}_{site}_right"
                )
            yield each.module_map(Term(_left(each, moments, pair.device), (right[site],)))


def _left(each: Weights, moments: LayerMoments, device: str) -> tuple[Factor, ...]:
    """Q_outᵀ (d_n, d_o), as a product where it is of a lower rank."""
    site = WRITES[each.role]
    if site != WRITES["up"]:
        return (Dense(polar(_cross(moments, site, device).T)),)
    (turned_old, old), (turned_new, new) = torch.linalg.qr(each.old), torch.linalg.qr(each.new)
    small = polar(new @ _cross(moments, READS[each.role], device).T @ old.T)
    return Dense(turned_new @ small), Dense(turned_old.T)


def _cross(moments: LayerMoments, site: str, device: str) -> torch.Tensor:
    """Σ x yᵀ (d_o, d_n) of both parts of the texts."""
    fit, held = moments[site]
    return (fit.cross + held.cross).to(device)
