"""Which experts of two models do the same: by what their routers choose on the same texts, and then
neuron by neuron.

Experts: for each pair of matched layers the correlation of the routers' probabilities, token by
token, and the assignment of greatest sum. A match is clear where its correlation is at least
MIN_CORRELATION, and MIN_MARGIN above any other of its row and its column. Neurons: an expert's
neuron is what it reads, its rows of gate and up. With R the ridge map of the old input from the new
one, the old rows are W R in the new model's terms, and cosines decide; their median over a layer
must be at least MIN_COSINE.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from ..calibration.batches import PARTS, Batch
from ..calibration.moments import Moments
from ..calibration.ridge import fit_parts, reading, right_inverse
from ..calibration.sites import EXPERTS
from ..calibration.walk import Walk, side_by_side
from ..errors import LoraportError
from ..models.parameters import has_parameter, read_parameter
from ..models.spec import Model
from ..transfer.experts_file import LayerExperts

MIN_CORRELATION, MIN_MARGIN, MIN_COSINE = 0.5, 0.1, 0.5
STREAM_RIDGE, GAIN_EXPONENT = 1e-3, 0.75  # as in aligned
Parts = tuple[Moments, Moments]
Router = tuple[torch.Tensor, torch.Tensor]  # weight (E, d) and bias (E,)


@dataclass
class _Sums:
    """Of one layer pair: what experts read, the stream behind the block, what routers say."""

    read: Parts
    stream: Parts
    chosen: Moments


def match_layers(
    models: tuple[Model, Model],
    walks: tuple[Walk, Walk],
    batches: Sequence[Batch],
    pairs: Sequence[tuple[int, int]],
    device: str,
    progress: Callable[[int], Any] = lambda count: None,
) -> Iterator[tuple[int, LayerExperts]]:
    """Yield each new layer, of those that have experts in both models, with its match.

    Raises
    ------
    LoraportError
        If a model has no experts; where those of a layer don't match one to one, or their neurons
        don't.

    Notes
    -----
    O(tokens · d²) and O(experts · f² · d) a layer.
    """
    for model in models:
        if not model.architecture.routed:
            raise LoraportError(
                "experts can't be matched",
                got=f"{model.directory} of the family {model.architecture.name} without any",
                expected="two mixtures of experts",
                todo="carry the adapter without this match: attention goes through the maps",
            )
    for pair, passing in side_by_side(walks, pairs):
        routers = _router(models[0], pair[0]), _router(models[1], pair[1])
        sums = _empty(models, device)
        for batch, old, new in zip(batches, *passing, strict=True):
            if routers[0] is not None and routers[1] is not None:
                part = PARTS.index(batch.part)
                sums.read[part].add(old[EXPERTS], new[EXPERTS])
                sums.stream[part].add(old["stream"], new["stream"])
                sums.chosen.add(
                    _probabilities(old[EXPERTS], routers[0], device),
                    _probabilities(new[EXPERTS], routers[1], device),
                )
            progress(len(batch.inputs[0]["input_ids"]))
        if sums.chosen.count:
            yield pair[1], _matched(models, pair, sums)


def _matched(models: tuple[Model, Model], pair: tuple[int, int], sums: _Sums) -> LayerExperts:
    correlation = _correlation(sums.chosen)
    experts, about = assign_experts(correlation, pair)
    read = fit_parts(reading, sums.read, "auto", "procrustes")
    neurons, cosine = _neurons(models, pair, experts, read.matrix.float())
    if cosine < MIN_COSINE:
        raise LoraportError(
            f"the experts of layer {pair[1]} are chosen alike, and their neurons do not correspond",
            got=f"a median cosine of {cosine:.2f} with the experts of the old layer {pair[0]}",
            expected=f"at least {MIN_COSINE}, as between versions of one model",
            todo="train the experts' adapter anew, and carry the one of attention",
        )
    stream = fit_parts(reading, sums.stream, STREAM_RIDGE, "zero", True)
    behind = right_inverse(stream.matrix * models[1].residual, stream.ridge) * models[0].residual
    gain = read.share**-GAIN_EXPONENT
    return LayerExperts(
        pair[0],
        experts,
        neurons,
        behind.cpu().numpy(),
        (gain * read.matrix).cpu().numpy(),
        {**about, "cosine": cosine, "gain": gain},
    )


def assign_experts(
    correlation: np.ndarray, pair: tuple[int, int]
) -> tuple[np.ndarray, dict[str, float]]:
    """Old expert of each new one, (E,), and how clear the match is.

    Parameters
    ----------
    correlation : (E, E), old by new
    pair : (old, new) layer, named in the error
    """
    old, new = linear_sum_assignment(correlation, maximize=True)
    matched = correlation[old, new]
    others = correlation.copy()
    others[old, new] = -np.inf
    rivals = np.maximum(others.max(axis=1)[old], others.max(axis=0)[new])
    margins = matched - rivals
    clear = (matched >= MIN_CORRELATION) & (margins >= MIN_MARGIN)
    if not clear.all():
        raise LoraportError(
            f"the experts of layer {pair[1]} can't be matched with those of the old layer "
            f"{pair[0]} one to one",
            got=f"{int((~clear).sum())} of {len(clear)} without a clear match; the worst "
            f"correlates by {matched.min():.2f}, another one by {(matched - margins).max():.2f}",
            expected=f"a correlation of the routers' choices of at least {MIN_CORRELATION}, "
            f"{MIN_MARGIN} above any other, as between versions of one model",
            todo="train the experts' adapter anew, and carry the one of attention",
        )
    order = np.empty(len(new), np.int64)
    order[new] = old
    return order, {"correlation": float(matched.min()), "margin": float(margins.min())}


def _correlation(sums: Moments) -> np.ndarray:
    """Of the routers' probabilities, (E_o, E_n); 0 of an expert whose probability is constant."""
    assert sums.gram_old is not None and sums.gram_new is not None
    means = sums.sum_old / sums.count, sums.sum_new / sums.count
    cross = sums.cross / sums.count - torch.outer(*means)
    spread = [
        (gram.diagonal() / sums.count - mean**2).clamp(min=0).sqrt()
        for gram, mean in zip((sums.gram_old, sums.gram_new), means, strict=True)
    ]
    scale = torch.outer(*spread)
    return torch.where(scale > 0, cross / scale, 0.0).cpu().numpy()


def _neurons(
    models: tuple[Model, Model], pair: tuple[int, int], experts: np.ndarray, right: torch.Tensor
) -> tuple[np.ndarray, float]:
    """Old neuron of each new one in each new expert, (E, f), and the median cosine of the pairs, in
    float32 where `right` is.
    """
    old, new = (_gate_up(model, layer) for model, layer in zip(models, pair, strict=True))
    orders, cosines = [], []
    for number, expert in enumerate(experts):
        turned = (old[expert].to(right) @ right).flatten(1)
        own = new[number].to(right).flatten(1)
        cosine = _cosines(own, turned).cpu().numpy()
        best = cosine.argmax(axis=1)
        if len(set(best)) < len(best):  # else each has its own best one, which is the assignment
            best = linear_sum_assignment(cosine, maximize=True)[1]
        orders.append(best)
        cosines.append(cosine[np.arange(len(best)), best])
    return np.array(orders), float(np.median(cosines))


def _cosines(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Of all rows with all rows."""
    unit = torch.nn.functional.normalize
    return unit(left, dim=1) @ unit(right, dim=1).T


def _gate_up(model: Model, layer: int) -> torch.Tensor:
    """Rows of gate and up of each neuron of each expert, (E, f, 2, d) float32."""
    family, dims = model.architecture, model.dims
    name = f"{family.routed['experts']}.gate_up_proj"
    values = read_parameter(model, layer, name)
    if family.routed["axes"] == "in_out":
        values = values.transpose(1, 2)
    if family.routed["rows"] == "interleaved":
        return values.unflatten(1, (dims.intermediate, 2))
    return values.unflatten(1, (2, dims.intermediate)).transpose(1, 2)


def _router(model: Model, layer: int) -> Router | None:
    """A layer's router; None for a layer without experts."""
    weight, bias = (f"{model.architecture.routed['router']}.{end}" for end in ("weight", "bias"))
    if not has_parameter(model, layer, weight):
        return None
    biased = has_parameter(model, layer, bias)
    read = read_parameter(model, layer, weight)
    return read, read_parameter(model, layer, bias) if biased else torch.zeros(len(read))


def _probabilities(inputs: torch.Tensor, router: Router, device: str) -> torch.Tensor:
    """What a router says of each token, (t, E)."""
    weight, bias = (each.to(device, torch.float64) for each in router)
    logits = torch.nn.functional.linear(inputs.to(device, torch.float64), weight, bias)
    return torch.softmax(logits, dim=-1)


def _empty(models: tuple[Model, Model], device: str) -> _Sums:
    """Sums of no token yet for one layer pair, float64."""

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(*shape, dtype=torch.float64, device=device)

    def moments(old: int, new: int) -> Moments:
        return Moments(zeros(old, new), None, zeros(new, new), zeros(old), zeros(new))

    (o, n), (e_o, e_n) = ([getattr(m.dims, key) for m in models] for key in ("hidden", "experts"))
    chosen = replace(moments(e_o, e_n), gram_old=zeros(e_o, e_o))
    read, stream = ((moments(o, n), moments(o, n)) for _ in range(2))
    return _Sums(read, stream, chosen)
