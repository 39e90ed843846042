"""How long each rule takes: on one core of a CPU, and where a GPU computes.

Seconds follow from what a rule reads, moves, writes and multiplies, at rates that fit what was
measured within a factor of two (benchmarks/results/plans.md): on cores of an AMD EPYC, and on one
H100 that had eight to 32 cores beside it. They are of a whole process, its imports included.
"""

import math
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from ..models.families import FEED_FORWARD, ROLES, Dimensions
from .sizes import (
    HALF_BYTES,
    SINGLE_BYTES,
    FitShape,
    block_parameters,
    fits,
    input_fits,
    output_fits,
    parameters,
    read_widths,
    shared_roles,
    site_sums,
)

TEXTS, TEXT_TOKENS = 512, 128  # for calibration, and of one; none is longer than 256
WRITTEN_TOKENS, WRITTEN_AT_ONCE = 128, 16  # of an answer that a model writes, and answers
LIGHT_START_S = 0.5  # of a rule that imports no torch
LAYERS_S = 0.4  # of rule layers, whose table is small: 0.2 to 0.7 with its start
HASHED = 6e8  # bytes a second of weights that are read for their digest and their ranges
STREAMED = 1e9  # of weights that are read block by block
HANDLED = 2.5e8  # of weights and maps that are read or written, and changed from type to type
CARRIED = 7e8  # of maps that an adapter passes through, which is written as float32
FEATURES = 5e8  # of features in float64
SUMS_ROOM_BYTES = 6 << 30  # of a layer pair, that stay on a GPU (mapping.in_turn)
NORMS = 6e8  # of weights that are read for their norms
MAP_BYTES = 3  # of a number of a fitted map: float16, and float32 where that is too coarse
# FLOPs by s³ of eigenvectors, and by k² m of singular vectors: at the rate of matrix products
EIGENVECTORS, SINGULAR_VECTORS = 7, 15
# of a rotation by polar steps (numerics.polar), by k³ and by k² m
POLAR_STEPS, POLAR_ENDS = 70, 6
GAINS, ANSWERS = 7, 50  # that a gain is chosen from, and on (evaluation.gain)
# What a scheduler is asked for is longer than the estimate, since a job that is killed for its time
# is lost: disks that are read through a network, slower processors, other jobs beside it
LIMIT_MARGIN, LIMIT_START_MINUTES = 4, 10
# of the work of a rule, what more cores are taken not to make faster; times LIMIT_MARGIN it is 1:
# a rule that gains nothing by them still ends within its limit
ALONE = 0.25


class Rates(NamedTuple):
    """What a job can count on, in FLOPs and bytes a second.

    Attributes
    ----------
    start : seconds of Python and its imports with torch, and of the device
    models : seconds more where a model runs: transformers, tokenizers, the first batch
    forward : FLOPs of a model that reads, float32 on a CPU and bfloat16 on a GPU
    products : FLOPs of products in float64
    taken, given : bytes that sums move from and to a GPU; 0 where there is none
    """

    start: float
    models: float
    forward: float
    products: float
    taken: float = 0
    given: float = 0


CORE = Rates(start=3, models=1.5, forward=5e10, products=3e10)
GPU = Rates(start=5, models=15, forward=1e14, products=4e13, taken=1.8e9, given=5e9)
DECODED_S = 7e-4  # of a GPU for a layer and a token of a batch that a model writes


def limit_minutes(seconds: float, cores: int = 1) -> int:
    """What a scheduler is asked for where a job on one core is estimated to take so long.

    Parameters
    ----------
    cores : of the job's CPU, where that computes
    """
    shared = seconds * (ALONE + (1 - ALONE) / max(1, cores))
    return LIMIT_START_MINUTES + math.ceil(LIMIT_MARGIN * shared / 60)


def limit_seconds(minutes: float) -> float:
    """The estimate whose limit is so many minutes: of rules whose data is not known."""
    return max(0.0, 60 * (minutes - LIMIT_START_MINUTES) / LIMIT_MARGIN)


def spec(*models: Dimensions, rates: Rates) -> float:
    """Each weight is read once."""
    return LIGHT_START_S + HALF_BYTES * sum(map(parameters, models)) / HASHED


def activations(*models: Dimensions, rates: Rates) -> float:
    """Weights are read once, and all texts pass all blocks."""
    weights, blocks = sum(map(parameters, models)), sum(map(_blocks, models))
    read = HALF_BYTES * weights / STREAMED + 2 * TEXTS * TEXT_TOKENS * blocks / rates.forward
    return rates.start + rates.models + read


def embedding(old: Dimensions, new: Dimensions, rates: Rates) -> float:
    """Least squares of two tables."""
    tables = old.vocabulary * old.hidden + new.vocabulary * new.hidden
    work = 2 * old.vocabulary * old.hidden * (old.hidden + new.hidden) + 30 * old.hidden**3
    return rates.start + HALF_BYTES * tables / HANDLED + work / rates.products


def cka(old: Dimensions, new: Dimensions, rates: Rates) -> float:
    """Features of all layers pass once."""
    numbers = TEXTS * sum(d.layers * d.hidden for d in (old, new))
    return rates.start + 8 * numbers / FEATURES


def layers(old: Dimensions, new: Dimensions, rates: Rates) -> float:
    """A small table, whatever the models."""
    return LAYERS_S


def heads(old: Dimensions, new: Dimensions, rates: Rates) -> float:
    """Weights of attention, and similarities of all heads of a layer pair in few products."""
    wide = old.heads * old.head_dim, new.heads * new.head_dim
    held = sum(math.prod(d.shape(role)) for d in (old, new) for role in ("q", "k", "v", "o"))
    work = 8 * wide[0] * new.hidden * (old.hidden + wide[1])
    each = HALF_BYTES * held / HANDLED + work / rates.products
    return rates.start + _pairs(old, new) * each


def maps(old: Dimensions, new: Dimensions, rates: Rates, roles: Collection[str] = ROLES) -> float:
    """Weights of the modules are read, and those of feed-forward networks lie in the maps."""
    forward = set(FEED_FORWARD) & set(roles)
    waist = old.intermediate * old.hidden
    one = old.hidden * (2 * waist + 12 * old.hidden * max(old.hidden, new.hidden))
    work, handled = len(forward) * one, 2 * HALF_BYTES * _weights(old, new, roles)
    return rates.start + _pairs(old, new) * (handled / HANDLED + work / rates.products)


def moments(
    old: Dimensions, new: Dimensions, rates: Rates, roles: Collection[str] = ROLES
) -> float:
    """Sums of all layer pairs for maps of some roles, which are written as triangles."""
    sums = site_sums(old, new, roles)
    each = _summed(sums, rates) + 0.6 * sums / HANDLED
    if rates.taken:
        each += sums / rates.taken
    return activations(old, new, rates=rates) + _pairs(old, new) * each


def gradients(old: Dimensions, new: Dimensions, rates: Rates) -> float:
    """A step back is twice a forward pass; sums of what modules write."""
    passes = 3 * 2 * TEXTS * TEXT_TOKENS * (_blocks(old) + _blocks(new)) / rates.forward
    wide = [(d.heads + 2 * d.kv_heads) * d.head_dim + 2 * d.intermediate for d in (old, new)]
    summed = 2 * TEXTS * TEXT_TOKENS * wide[1] * sum(wide) / rates.products
    return activations(old, new, rates=rates) + passes + _pairs(old, new) * summed


def experts(old: Dimensions, new: Dimensions, rates: Rates) -> float:
    """Moments, and cosines of the neurons of each pair of experts."""
    cosines = 4 * new.experts * new.intermediate**2 * new.hidden * _pairs(old, new)
    return moments(old, new, rates) + cosines / rates.products


def fitted_maps(
    old: Dimensions, new: Dimensions, rates: Rates, roles: Collection[str] = ROLES
) -> float:
    """Moments are read, and fitted."""
    sums = site_sums(old, new, roles)
    each = 0.6 * sums / FEATURES + _fitted(old, new, rates, roles)
    return rates.start + _pairs(old, new) * (each + _moved_back(sums, rates))


def maps_in_turn(
    old: Dimensions, new: Dimensions, rates: Rates, roles: Collection[str] = ROLES
) -> float:
    """Moments that are fitted as they are summed."""
    sums = site_sums(old, new, roles)
    each = _summed(sums, rates) + _fitted(old, new, rates, roles)
    if rates.taken and sums > SUMS_ROOM_BYTES:
        each += sums / rates.taken + _moved_back(sums, rates)
    return activations(old, new, rates=rates) + _pairs(old, new) * each


def output_maps(
    old: Dimensions, new: Dimensions, rates: Rates, roles: Collection[str] = ROLES
) -> float:
    """The output side of fitted maps."""
    sums, outputs = site_sums(old, new, roles), output_fits(old, new, roles)
    each = 0.3 * sums / FEATURES + _moved_back(sums / 2, rates)
    each += sum(_fit(one, rates) for one in outputs) + _written(outputs) / HANDLED
    return rates.start + _pairs(old, new) * each


def adapter_maps(old: Dimensions, new: Dimensions, rates: Rates) -> float:
    """Four models read the texts, of which the old one has written a part."""
    bases = [_blocks(d) for d in (old, new)]
    runs = 2 * TEXTS * TEXT_TOKENS * (2 * bases[0] + 4 * bases[1]) / rates.forward
    steps = WRITTEN_TOKENS * TEXTS / WRITTEN_AT_ONCE
    if rates.taken:
        runs += steps * DECODED_S * old.layers
    else:
        runs += 2 * steps * WRITTEN_AT_ONCE * bases[0] / rates.forward
    read = list(zip(read_widths(old), read_widths(new), strict=True))
    sums = sum(o * n + n * n for o, n in read)
    sums += sum((new.hidden + n) * n for _, n in read[1::2])  # of what the stream lacks
    each = 2 * TEXTS * TEXT_TOKENS * sums / rates.products
    each += sum(_fit(one, rates) for one in input_fits(old, new))
    weights = HALF_BYTES * (parameters(old) + parameters(new)) / STREAMED
    return rates.start + rates.models + weights + runs + _pairs(old, new) * each


def transferred(old: Dimensions, new: Dimensions, rates: Rates) -> float:
    """An adapter on all linear modules passes through LoRASuite's maps, which hold the weights of
    both models' feed-forward networks.
    """
    waists = sum(3 * d.intermediate * d.hidden for d in (old, new))
    squares = 3 * SINGLE_BYTES * old.hidden * new.hidden
    return LIGHT_START_S + _pairs(old, new) * (HALF_BYTES * waists + squares) / CARRIED


def model_merged(new: Dimensions, rates: Rates) -> float:
    """Each weight is read and written."""
    return LIGHT_START_S + 2 * HALF_BYTES * parameters(new) / HANDLED


def gain(new: Dimensions, cutoff: int, rates: Rates) -> float:
    """The new model reads all answers under each gain."""
    read = GAINS * ANSWERS * cutoff
    weights = HALF_BYTES * parameters(new) / STREAMED
    return rates.start + rates.models + weights + 2 * parameters(new) * read / rates.forward


def _pairs(old: Dimensions, new: Dimensions) -> int:
    return min(old.layers, new.layers)


def _blocks(dims: Dimensions) -> int:
    """Weights of all blocks."""
    return sum(block_parameters(dims.at(layer)) for layer in range(dims.layers))


def _summed(sums: float, rates: Rates) -> float:
    """Seconds until the sums of one layer pair are there, of so many bytes for both parts."""
    return 2 * TEXTS * TEXT_TOKENS * sums / 16 / rates.products


def _moved_back(sums: float, rates: Rates) -> float:
    return sums / rates.given if rates.given else 0.0


def _fitted(old: Dimensions, new: Dimensions, rates: Rates, roles: Collection[str]) -> float:
    """All maps of one layer pair, the norms of its weights, and its part of the file."""
    made = fits(old, new, roles)
    norms = HALF_BYTES * _weights(old, new, roles) / NORMS
    return norms + sum(_fit(one, rates) for one in made) + _written(made) / HANDLED


def _fit(one: FitShape, rates: Rates) -> float:
    """Of one map: on a CPU by eigenvectors, on a GPU by a factorisation for each ridge."""
    t, s = one.targets, one.sources
    k, m = sorted((t, s))
    if rates.taken:
        work = (one.tries + 1) * (s**3 / 3 + 4 * t * s * s)
        work += one.prior * 2 * (POLAR_STEPS * k**3 + POLAR_ENDS * m * k * k)
    else:
        work = 2 * EIGENVECTORS * s**3 + one.prior * 2 * SINGULAR_VECTORS * k * k * m
        work += 4 * s**3 + 18 * t * s * s
    return work / rates.products


def _weights(old: Dimensions, new: Dimensions, roles: Collection[str]) -> int:
    """Of the modules of a layer pair, of both models."""
    both = shared_roles(old, new, roles)
    return sum(math.prod(d.shape(role)) for d in (old, new) for role in both)


def _written(made: Iterable[FitShape]) -> float:
    return MAP_BYTES * sum(one.targets * one.sources for one in made)


RULES: dict[str, Callable[..., float]] = {  # in the order of the plan
    each.__name__: each
    for each in (
        spec, activations, embedding, cka, layers, heads, moments, gradients, experts, maps,
        fitted_maps, maps_in_turn, output_maps, adapter_maps, transferred, model_merged,
    )
}  # fmt: skip
