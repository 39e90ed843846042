"""Aligned transfer: maps learnt from what the modules do, in closed form, on unlabelled text.

For matched layers, with rows of paired tokens X (inputs) and Y (outputs, centred) of a module,

    R = (X_oᵀX_n + λ R₀)(X_nᵀX_n + λ I)⁻¹      old input from new input:  A_n = A_o R
    L = (Y_nᵀY_o + λ L₀)(Y_oᵀY_o + λ I)⁻¹      new output from old output: B_n = L B_o

with λ a fraction of the mean diagonal and a prior R₀, L₀ that is zero or a scaled rotation
(orthogonal Procrustes; compare arXiv 2602.12952). gate and up write what down reads: their L is
fitted there. o and down write into the residual stream, which every later layer reads; by `writes:
stream` their L is what those readers understand: with M the ridge map of the old stream from the
new one behind the module, `L = Mᵀ(M Mᵀ + λ I)⁻¹`. Where a norm `N(y) = w ∘ y / rms(y)` stands on
what they write (Gemma 2 and 3, OLMo 2), the stream takes in `D ΔW x` to first order, with D the
diagonal of w by the mean of rms: M becomes `M D_n`, and L is multiplied by D_o. A ridge map
that predicts a share of its target's variance carries too little: the R of a layer are multiplied
by `γ = s^(-3/4)`, s the mean of their shares on held-out texts over the sites that `modules` read,
1 where both models have one function (docs/aligned.md). No head is matched, and the rank of the
update stays. O(width³) a site.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from statistics import fmean as mean

import torch

from ..calibration.moments import LayerMoments, Moments
from ..calibration.ridge import Fit, as_stored, fit_parts, reading, right_inverse, writing
from ..calibration.sites import READS, STREAM, WRITES
from ..errors import LoraportError
from ..mapping.pair import Pair
from ..numerics.parallel import in_order
from ..transfer.maps import Dense, ModuleMap, Term
from ._weights import base_norms, norm_factor, roles

NEEDS = ("models", "layers", "moments")
SETTINGS = ("ridge", "prior", "writes")
BY_LAYER = True
# Where the ridge is `auto`. An output map is not chosen by held-out error: what predicts outputs
# best magnifies directions that outputs seldom take, and an adapter takes those (docs/aligned.md)
OUTPUT_RIDGE = 1.0
STREAM_RIDGE = 1e-3  # of the map that reads the stream, and of its inverse
GAIN_EXPONENT = 0.75  # γ = s^-GAIN_EXPONENT, s the mean share of inputs that a layer's R predict


def maps(pair: Pair) -> Iterator[ModuleMap]:
    """Yield the map of each role of each matched layer.

    Settings: `ridge` is a fraction of the mean diagonal for all maps, or `auto`: R by held-out
    error, each by itself, and the output maps by the constants above, or next to none where the
    new model is the old one rewritten; `prior` is `zero` or `procrustes`; `writes` is `stream` or
    `module`. The weights of both models are read for their norms alone. Layers are fitted side by
    side, `pair.workers` at a time: O(width²) memory each, of the widest site, and the layer's maps.
    A map that was yielded is the caller's alone: what lets go of it makes room for the next ones.
    """
    norms = base_norms(pair)
    fitted = in_order(partial(_layer, pair), pair.summed(), pair.workers)
    for (old_layer, layer), modules in fitted:
        for role in list(modules):
            term, notes = modules.pop(role)
            yield ModuleMap(
                layer, role, old_layer, (term,), **norms(old_layer, layer, role), notes=notes
            )
            del term


def _layer(
    pair: Pair, summed: tuple[tuple[int, int], LayerMoments]
) -> tuple[tuple[int, int], dict[str, tuple[Term, dict[str, float]]]]:
    """The layers, and role -> its pair of maps and figures about how they were made, of a layer
    pair's moments.
    """
    layers, moments = summed
    layer, settings, mapped = layers[1], pair.settings, roles(pair, layers[1])
    if not mapped:
        return layers, {}
    right: dict[str, Fit] = {}
    left: dict[str, Fit] = {}
    tokens: dict[str, int] = {}
    for site in dict.fromkeys(READS[role] for role in mapped):
        parts = moments[site]
        how = settings["ridge"], settings["prior"]
        right[site] = fit_parts(reading, parts, *how, device=pair.device, ranked=False)
        tokens[site] = sum(part.count for part in parts)
    gain = mean(fit.share for fit in right.values()) ** -GAIN_EXPONENT
    right = {
        site: replace(fit, matrix=as_stored(gain * fit.matrix, fit.error))
        for site, fit in right.items()
    }
    modules = {}
    for role in mapped:
        read, write = READS[role], _written(role, pair)
        if write not in left:
            fit = _output(moments[write], write, pair, layers)
            left[write] = replace(fit, matrix=as_stored(fit.matrix, fit.error))
        term = Term(
            (Dense(left[write].matrix, f"layer_{layer}_{write}_left"),),
            (Dense(right[read].matrix, f"layer_{layer}_{read}_right"),),
        )
        notes = {
            "ridge_left": left[write].ridge,
            "ridge_right": right[read].ridge,
            "error_left": left[write].error,
            "error_right": right[read].error,
            "rank_left": left[write].rank,
            "gain": gain,
            "tokens": tokens[read],
            **_sizes(moments[write]),
        }
        modules[role] = (term, notes)
    return layers, modules


def _written(role: str, pair: Pair) -> str:
    """The site that a role's output map is fitted at."""
    return (STREAM if pair.settings["writes"] == "stream" else WRITES).get(role, WRITES[role])


def _output(parts: tuple[Moments, Moments], site: str, pair: Pair, layers: tuple[int, int]) -> Fit:
    """L of a site: new output from old output, or what the stream's readers understand."""
    asked, auto = pair.settings["ridge"], pair.settings["ridge"] == "auto"
    if site not in STREAM.values():
        ridge = OUTPUT_RIDGE if auto else asked
        return fit_parts(writing, parts, ridge, pair.settings["prior"], auto, pair.device)
    ridge = STREAM_RIDGE if auto else asked
    read = fit_parts(reading, parts, ridge, "zero", auto, pair.device)
    before, after = (each.to(read.matrix) for each in _norms(parts, site, pair, layers))
    return replace(read, matrix=right_inverse(read.matrix * after, read.ridge) * before)


def _norms(
    parts: tuple[Moments, Moments], site: str, pair: Pair, layers: tuple[int, int]
) -> list[torch.Tensor]:
    """What a change of o's or down's output is multiplied by on its way into the stream, entry by
    entry: of the old model (d_o,) and of the new one (d_n,), float64; without a norm the family's
    factor of the residual stream, or one.

    To first order `N(y + δ) − N(y) = w ∘ δ / rms(y)`, but for the part of δ along y, which the norm
    takes out. Of means over tokens, that of rms comes closest to the factor that predicts best: on
    Gemma 3 270M it gives −7 to 17 % more than that one, the mean of 1/rms −4 to 26 %.
    """
    sizes, like = _sizes(parts), parts[0].cross
    role = next(role for role, behind in STREAM.items() if behind == site)
    sides = zip((pair.old, pair.new), layers, ("rms_old", "rms_new"), strict=True)
    factors = []
    for model, layer, name in sides:
        factor = norm_factor(model, layer, role)
        if factor is None:
            factors.append(model.residual * torch.ones(1).to(like))
            continue
        if name not in sizes:
            raise LoraportError(
                f"the pair's moments do not say how large {role}'s outputs are in layer {layer}",
                got="moments.h5 of an older loraport, or outputs that are all zero",
                expected=f"the mean of their rms, since a norm stands on {role} in family "
                f"{model.architecture.name}",
                todo="delete the pair's moments.h5 and run the workflow again",
            )
        factors.append(factor.to(like) / sizes[name])
    return factors


def _sizes(parts: tuple[Moments, Moments]) -> dict[str, float]:
    """`rms_old` and `rms_new`: mean rms of what a module writes, of the sides with a norm on it."""
    count = sum(part.count for part in parts)
    totals = {name: sum(getattr(part, name) for part in parts) for name in ("rms_old", "rms_new")}
    return {name: total / count for name, total in totals.items() if total > 0}
