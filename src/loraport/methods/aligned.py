"""Aligned transfer: maps learnt from what the modules do, in closed form, on unlabelled text.

For matched layers, with rows of paired tokens X (inputs) and Y (outputs, centred) of a module,

    R = (X_oᵀX_n + λ R₀)(X_nᵀX_n + λ I)⁻¹      old input from new input:  A_n = A_o R
    L = (Y_nᵀY_o + λ L₀)(Y_oᵀY_o + λ I)⁻¹      new output from old output: B_n = L B_o

with λ a fraction of the mean diagonal and a prior R₀, L₀ that is zero or a scaled rotation
(orthogonal Procrustes; compare arXiv 2602.12952). gate and up write what down reads: their L is
fitted there. o and down write into the residual stream, which every later layer reads; by `writes:
stream` their L is what those readers understand: with M the ridge map of the old stream from the
new one behind the module, `L = Mᵀ(M Mᵀ + λ I)⁻¹`. A ridge map that predicts a share of its target's
variance carries too little: the R of a layer are multiplied by `γ = s^(-3/4)`, s the mean of their
shares on held-out texts over the sites that `modules` read, 1 where both models have one function
(docs/aligned.md). No head is matched, and the rank of the update stays. O(width³) a site.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from statistics import fmean as mean

from ..calibration.moments import READS, STREAM, WRITES, Moments
from ..calibration.ridge import Fit, fit_parts, reading, right_inverse, writing
from ..numerics.parallel import in_order
from ..transfer.maps import Dense, ModuleMap, Term
from . import Pair
from ._weights import base_norms, roles

NEEDS = ("models", "layers", "moments")
SETTINGS = ("ridge", "prior", "writes")
# Where the ridge is `auto`. An output map is not chosen by held-out error: what predicts outputs
# best magnifies directions that outputs seldom take, and an adapter takes those (docs/aligned.md)
OUTPUT_RIDGE = 1.0
STREAM_RIDGE = 1e-3  # of the map that reads the stream, and of its inverse
GAIN = 0.75  # γ is the mean share of their inputs that a layer's R predict, to the power of -GAIN


def maps(pair: Pair) -> Iterator[ModuleMap]:
    """Yield the map of each role of each matched layer.

    Settings: `ridge` is a fraction of the mean diagonal for all maps, or `auto`: R by held-out
    error, each by itself, and the output maps by the constants above, or next to none where the
    new model is the old one rewritten; `prior` is `zero` or `procrustes`; `writes` is `stream` or
    `module`. The weights of both models are read for their norms alone. Layers are fitted side by
    side, `pair.workers` at a time: O(width²) memory each, of the widest site, and the layer's maps.
    """
    norms = base_norms(pair)
    fitted = in_order(partial(_layer, pair), [layer for _, layer in pair.path], pair.workers)
    for (old_layer, layer), modules in zip(pair.path, fitted, strict=True):
        for role, (term, notes) in modules.items():
            yield ModuleMap(
                layer, role, old_layer, (term,), **norms(old_layer, layer, role), notes=notes
            )


def _layer(pair: Pair, layer: int) -> dict[str, tuple[Term, dict[str, float]]]:
    """Role -> its pair of maps, and figures about how they were made."""
    moments, settings, mapped = pair.moments(layer), pair.settings, roles(pair)
    right: dict[str, Fit] = {}
    left: dict[str, Fit] = {}
    tokens: dict[str, int] = {}
    for site in dict.fromkeys(READS[role] for role in mapped):
        parts = moments[site]
        right[site] = fit_parts(reading, parts, settings["ridge"], settings["prior"])
        tokens[site] = sum(part.count for part in parts)
    gain = mean(fit.share for fit in right.values()) ** -GAIN
    found = {}
    for role in mapped:
        read, write = READS[role], _written(role, pair)
        if write not in left:
            left[write] = _output(moments[write], write, pair)
        term = Term(
            (Dense(left[write].matrix, f"layer_{layer}_{write}_left"),),
            (Dense(gain * right[read].matrix, f"layer_{layer}_{read}_right"),),
        )
        notes = {
            "ridge_left": left[write].ridge,
            "ridge_right": right[read].ridge,
            "error_left": left[write].error,
            "error_right": right[read].error,
            "rank_left": left[write].rank,
            "gain": gain,
            "tokens": tokens[read],
        }
        found[role] = (term, notes)
    return found


def _written(role: str, pair: Pair) -> str:
    """The site that a role's output map is fitted at."""
    return (STREAM if pair.settings["writes"] == "stream" else WRITES).get(role, WRITES[role])


def _output(parts: tuple[Moments, Moments], site: str, pair: Pair) -> Fit:
    """L of a site: new output from old output, or what the stream's readers understand."""
    asked, auto = pair.settings["ridge"], pair.settings["ridge"] == "auto"
    if site not in STREAM.values():
        ridge = OUTPUT_RIDGE if auto else asked
        return fit_parts(writing, parts, ridge, pair.settings["prior"], auto)
    read = fit_parts(reading, parts, STREAM_RIDGE if auto else asked, "zero", auto)
    return replace(read, matrix=right_inverse(read.matrix, read.ridge))
