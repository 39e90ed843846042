"""Sequential alignment: each module is fitted on the new model with the earlier updates in place.

As in `aligned`, `A_n = A_o R` and `B_n = L B_o`, but the maps are an adapter's own. R is the ridge
map of the *adapted* old model's input from the input that the new model has by then. The modules
that write into the residual stream, o and down, also make up for what the ones before them missed:
with h the stream behind the block and L_s the ridge map of the new stream from the old one,

    e = h_new + γ L_s (h_adapted − h_old) − h_placed
    B_n = Σ e zᵀ (Σ z zᵀ + λ I)⁻¹,  z = A_n x

e is what the new model's stream still lacks. Where a norm N(y) = w ∘ y / r stands on what the
module writes (Gemma 2 and 3, OLMo 2), B_n is that of the least
`Σ‖e' − w ∘ (B_n z) / r‖² + λ‖B_n‖²`, with r and e' as `mapping.four_models` has them. A ridge map
that predicts a share of the stream's variance shrinks what it carries: γ is the share^(-3/4), on
held-out texts (docs/aligned.md). By default the texts are the app's prompts with the answers that
the adapted old model writes: no label is needed.
"""

from collections.abc import Iterator, Mapping

import torch

from ..adapters.lora_weights import LoraWeights
from ..calibration.ridge import Fit, fit_parts, reading, solve, writing
from ..calibration.sites import READS, STREAM, WRITES
from ..calibration.solutions import Regression
from ..errors import LoraportError
from ..mapping.four_models import Walks, Wanted, open_walks, place
from ..mapping.pair import Pair
from ..numerics.linalg import pinv
from ..transfer.maps import Dense, ModuleMap, Term
from ._weights import base_norms, norm_factor, roles

NEEDS = ("models", "layers", "outputs", "adapter")
SETTINGS = ("ridge", "prior", "calibrate_on", "prompts")
OUTPUT_SETTINGS = ("ridge", "prior")
OFFERED = False  # it did harm on real pairs (docs/methods.md)
OUTPUT_RIDGE = 1.0  # of the output maps, as in aligned
STREAM_RIDGE = 1e-2  # of L_s
TARGET_RIDGE = 1e-2  # of B_n
NORMED_RIDGE = 1e-1  # of B_n in front of a norm, which a large update leaves the first order of
GAIN_EXPONENT = 0.75  # γ = s^-GAIN_EXPONENT, s the share of the stream that L_s predicts


def maps(pair: Pair) -> Iterator[ModuleMap]:
    """Yield the map of each role that the adapter has, in the order of the forward pass.

    Settings: `ridge`, as a fraction of the mean diagonal for all maps, or `auto`: R by held-out
    error, the others by the constants above, or next to none where the new model is the old one
    rewritten; `prior` of R and of q's, k's, v's, gate's and up's L.
    """
    if pair.adapter is None:
        raise LoraportError(
            "aligned_sequential makes maps of one adapter, and a pair's maps have none",
            expected="maps of one adapter: {pair}/{app}/maps/aligned_sequential.h5",
            todo="ask for {app}/aligned_sequential/lora_transferred",
        )
    held = pair.adapter.weights
    _refuse_more_than_factors(held)
    asked, prior = pair.settings["ridge"], pair.settings["prior"]
    walks, norms = open_walks(pair, pair.adapter), base_norms(pair)
    for old_layer, layer in pair.path:
        walks.step(old_layer, layer)
        adapted = [
            role
            for role in roles(pair, layer)
            if (old_layer, pair.old.architecture.module_of(role)) in held
        ]
        left = pair.outputs(layer)
        for site in dict.fromkeys(READS.values()):
            readers = [role for role in adapted if READS[role] == site]
            if not readers:
                continue
            right = fit_parts(reading, walks.reading(site), asked, prior)
            for role in readers:
                module = pair.old.architecture.module_of(role)
                rows = pair.old.architecture.rows(role, pair.old.dims.at(old_layer))
                weights = held[old_layer, module].rows(rows)
                a = _tensor(weights.a, right.matrix) @ right.matrix
                b = _output(pair, walks, role, layer, a, weights, left[_written(role)])
                new = pair.new.architecture
                place(walks.placed.base, new.path(layer, new.module_of(role)),
                      new.rows(role, pair.new.dims.at(layer)), weights.scale * b @ a)  # fmt: skip
                yield ModuleMap(
                    layer,
                    role,
                    old_layer,
                    (_thin(weights, b, a, f"layer_{layer}_{site}_{module}"),),
                    **norms(old_layer, layer, role),
                    notes={"ridge_right": right.ridge, "error_right": right.error},
                )


def outputs(pair: Pair, layer: int) -> dict[str, Fit]:
    """L of the sites that the roles write to, and L_s of those in the residual stream."""
    asked, moments = pair.settings["ridge"], pair.moments(layer)
    auto = asked == "auto"
    fits: dict[str, Fit] = {}
    for site in dict.fromkeys(_written(role) for role in roles(pair, layer)):
        ridge, prior = OUTPUT_RIDGE, pair.settings["prior"]
        if site in STREAM.values():
            ridge, prior = STREAM_RIDGE, "zero"
        fits[site] = fit_parts(
            writing, moments[site], ridge if auto else asked, prior, auto, pair.device
        )
    return fits


def _written(role: str) -> str:
    """The site that a role's output map is fitted at."""
    return STREAM.get(role, WRITES[role])


def _output(
    pair: Pair,
    walks: Walks,
    role: str,
    layer: int,
    a: torch.Tensor,
    weights: LoraWeights,
    left: Fit,
) -> torch.Tensor:
    """B_n (d_n, r) of a role whose A_n is `a`; `left` is the map of the site that it writes to."""
    if role not in STREAM:
        return left.matrix @ _tensor(weights.b, a)
    asked = pair.settings["ridge"]
    auto = asked == "auto"
    lack = walks.missing(READS[role], STREAM[role], Wanted(left.matrix, left.share**-GAIN_EXPONENT))
    thin = Regression(lack.cross @ a.T, a @ lack.gram @ a.T, lack.square)
    factor = norm_factor(pair.new, layer, role)
    ridge = TARGET_RIDGE if factor is None else NORMED_RIDGE
    return solve(thin, ridge if auto else float(asked), auto, factor) / weights.scale


def _refuse_more_than_factors(held: Mapping[tuple[int, str], LoraWeights]) -> None:
    """Maps of rank r keep B and A whole, but not what else a module may hold."""
    for (layer, module), weights in held.items():
        if weights.magnitude is not None or weights.bias is not None:
            what = "a magnitude (DoRA)" if weights.bias is None else "a bias"
            raise LoraportError(
                "aligned_sequential carries the factors of LoRA alone",
                got=f"{what} at layer {layer}, {module}",
                expected="LoRA, rsLoRA or AdaLoRA without biases",
                todo="carry this adapter by aligned or lorasuite",
            )


def _tensor(values: object, like: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(values).to(like)


def _thin(weights: LoraWeights, b: torch.Tensor, a: torch.Tensor, name: str) -> Term:
    """Maps of rank r that carry these factors to B_n and A_n: `L = B_n B_o⁺`, `R = A_o⁺ A_n`."""
    right = Dense(pinv(_tensor(weights.a, a)), f"{name}_out"), Dense(a, f"{name}_in")
    return Term((Dense(b), Dense(pinv(_tensor(weights.b, b)))), right)
