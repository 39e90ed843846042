"""Aligned transfer: maps learnt from what the modules do, in closed form, on unlabelled text.

For matched layers, with rows of paired tokens X (inputs) and Y (outputs, centred) of a module,

    R = (X_oᵀX_n + λ R₀)(X_nᵀX_n + λ I)⁻¹      old input from new input:  A_n = A_o R
    L = (Y_nᵀY_o + λ L₀)(Y_oᵀY_o + λ I)⁻¹      new output from old output: B_n = L B_o

with λ a fraction of the mean diagonal and a prior R₀, L₀ that is zero or a scaled rotation
(orthogonal Procrustes; compare arXiv 2602.12952). gate and up write what down reads: their L is
fitted there. No head is matched, and the rank of the update stays. O(width³) a site.
"""

from collections.abc import Callable, Iterator

from ..maps import Dense, ModuleMap, Term
from ..moments import READS, WRITES, Moments
from ..ridge import Fit, Regression, fit, reading, writing
from . import Pair
from ._weights import base_norms, roles

NEEDS = ("models", "layers", "moments")
SETTINGS = ("ridge", "prior")


def maps(pair: Pair) -> Iterator[ModuleMap]:
    """Yield the map of each role of each matched layer.

    Settings: `ridge` is `auto` (by held-out error, for each map by itself) or a fraction of the
    mean diagonal; `prior` is `zero` or `procrustes`. The weights of both models are read for their
    norms alone.
    """
    settings = pair.settings["ridge"], pair.settings["prior"]
    norms = base_norms(pair)
    for old_layer, layer in pair.path:
        moments = pair.moments(layer)
        right: dict[str, Fit] = {}
        left: dict[str, Fit] = {}
        for role in roles(pair):
            read, write = READS[role], WRITES[role]
            if read not in right:
                right[read] = _fit(reading, moments[read], *settings)
            if write not in left:
                left[write] = _fit(writing, moments[write], *settings)
            term = Term(
                (Dense(left[write].matrix, f"layer_{layer}_{write}_left"),),
                (Dense(right[read].matrix, f"layer_{layer}_{read}_right"),),
            )
            notes = {
                "ridge_left": left[write].ridge,
                "ridge_right": right[read].ridge,
                "error_left": left[write].error,
                "error_right": right[read].error,
                "rank_old_output": left[write].rank,
                "tokens": sum(part.count for part in moments[read]),
            }
            yield ModuleMap(
                layer, role, old_layer, (term,), **norms(old_layer, layer, role), notes=notes
            )


def _fit(
    side: Callable[[Moments], Regression],
    parts: tuple[Moments, Moments],
    ridge: float | str,
    prior: str,
) -> Fit:
    part, held = (side(each) for each in parts)
    return fit(part, held, ridge, prior)
