"""What each rule will need: memory and time from the models' dimensions, before anything runs."""

import json
import sys
from collections.abc import Callable, Collection, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from ..models.families import FEED_FORWARD, ROLES, Dimensions
from . import times
from .sizes import (
    DOUBLE_BYTES,
    HALF_BYTES,
    SINGLE_BYTES,
    FitShape,
    around_blocks,
    block_parameters,
    fits,
    held_roles,
    input_fits,
    kept_widths,
    output_fits,
    parameters,
    read_sites,
    read_widths,
    site_sums,
)

MIB = 1 << 20
BASE_MIB = 600  # Python with torch and transformers imported
# less or more where a rule imports less, or frees what it used late; measured at hidden sizes of
# 1024 and 2048 (benchmarks/results/plans.md)
BASES = {"spec": 100, "transferred": 120, "model_merged": 120, "cka": 330, "layers": 100,
         "embedding": 330, "heads": 450, "maps": 1000,
         "maps of attention": 360}  # fmt: skip
WITHOUT_TORCH = ("spec", "layers", "transferred", "model_merged")
CUDA_BUILD_MIB = 300  # more, where torch is one that can use a GPU, whether there is one or not
CUDA_MIB = 400  # more, where CUDA is used, with the libraries of such a build
# of a job that runs models on a GPU: libraries, CUDA, and weights on their way. Measured: 2.9 GiB
# by activations (1.8B and 3B), 4.4 by moments and by evaluations (0.5B and 1.5B), of whole models
GPU_HOST_MIB = 4600
# the same where models are streamed: weights on their way are planned. Measured: 1.4 to 1.7 GiB by
# activations and by maps (1.8B and 3B), up to 2.4 (70B) where streams of half the tokens are
GPU_WALK_MIB = 2200
GPU_GAIN_MIB = 2900  # the same of the choice of a gain, of which nothing was measured
STREAMS_BYTES = (
    8 << 30
)  # of a model's streams between blocks; more lie on disk (calibration.streams)
MARGIN = 1.3  # of what is planned over what is held
TEXTS = 512  # for calibration
READ_TOKENS = TEXTS * 256  # that a model reads
BATCH_TOKENS = 16 * 256  # at a time
RANK = 32  # of an adapter
ROWS_AT_ONCE = 2048  # of embeddings, and of a map that is solved for on a GPU
# of a carried table of the vocabulary: as it is made, of the new base beside it, as it is written.
# Measured: 3.2 (tables of 60,000 × 512)
TABLE_COPIES = 3.5


def _spec(*models: Dimensions) -> float:
    """The largest matrix, in float32."""
    largest = max(
        max(d.intermediate * d.hidden, d.vocabulary * max(d.hidden, d.layers * d.per_layer_input))
        for d in models
    )
    return SINGLE_BYTES * largest


class Walked(NamedTuple):
    """Bytes of a rule that walks models block by block.

    Attributes
    ----------
    computing : where it computes: a block and what is around it, a batch inside, sums
    beside : in the machine's memory: the next block, streams of all texts, what is written
    """

    computing: float
    beside: float


def _walk(dims: Dimensions, number: int, whole: bool) -> tuple[float, float]:
    """Of one model, with the input embedding around its blocks; `number` bytes each."""
    around, block = around_blocks(dims), block_parameters(dims)
    weights = parameters(dims) if whole else around + block
    inside = BATCH_TOKENS * (8 * dims.hidden + 3 * dims.intermediate)
    streams = min(STREAMS_BYTES, READ_TOKENS * kept_widths(dims) * number)
    return (weights + inside) * number, streams + (0 if whole else block * number)


def _activations(*models: Dimensions, number: int = SINGLE_BYTES, whole: bool = False) -> Walked:
    """A model, and pooled features."""
    held = [_walk(d, number, whole) for d in models]
    features = sum(d.layers * d.hidden * TEXTS * SINGLE_BYTES for d in models)
    return Walked(sum(c for c, _ in held), features + sum(b for _, b in held))


def _embedding(old: Dimensions, new: Dimensions) -> float:
    """The sums and what is solved with them, rows in float64, and the new model's table."""
    return _solved(old, new) + new.vocabulary * new.hidden * SINGLE_BYTES


def _solved(old: Dimensions, new: Dimensions) -> float:
    """Of an embedding's map, what is on a GPU."""
    square, rows = old.hidden * (old.hidden + new.hidden), ROWS_AT_ONCE * (old.hidden + new.hidden)
    return (3.5 * square + rows) * DOUBLE_BYTES


def _features(old: Dimensions, new: Dimensions) -> float:
    """Both models' features in float64."""
    return TEXTS * sum(d.layers * d.hidden for d in (old, new)) * DOUBLE_BYTES


def _heads(old: Dimensions, new: Dimensions) -> float:
    wide = old.heads * old.head_dim, new.heads * new.head_dim
    held = (
        4 * wide[0] * (old.hidden + new.hidden) + 4 * wide[1] * new.hidden + 5 * wide[0] * wide[1]
    )
    return 0.5 * (held + 2 * old.hidden * new.hidden) * DOUBLE_BYTES  # not all of it at a time


def _maps(old: Dimensions, new: Dimensions, roles: Collection[str] = ROLES) -> float:
    """Weights of a feed-forward module of both models; of attention alone, W_h, its inverse, and
    weights as large.
    """
    if not set(FEED_FORWARD) & set(roles):
        return 7 * max(old.hidden, new.hidden) ** 2 * DOUBLE_BYTES
    waist = old.intermediate * old.hidden + new.intermediate * new.hidden
    return 2.3 * waist * DOUBLE_BYTES


def fit_bytes(old: Dimensions, new: Dimensions, roles: Collection[str] = ROLES) -> float:
    """Memory on a CPU while a layer's maps are fitted to second moments: both parts' sums at the
    widest site, the eigenvectors and what they are made with, and the layer's maps.
    """
    forward = bool(set(FEED_FORWARD) & set(roles))
    o, n = (max(d.hidden, d.heads * d.head_dim, forward * d.intermediate) for d in (old, new))
    return 12 * (o * o + o * n + n * n) * DOUBLE_BYTES


def fit_bytes_on_gpu(made: Sequence[FitShape], sums: float = 0) -> float:
    """The same on a GPU, of the fit that takes most. Sums of both parts, a factor, the prior and
    the map; or those of one part, and what a rotation takes by polar steps (numerics.polar): two
    matrices of the map's shape, and eight squares of its thinner side.

    Parameters
    ----------
    made : of a layer pair, in their order
    sums : bytes of all sums of the layer pair, where they are there already
    """
    most, kept = 0.0, 0.0
    for fit in made:
        shape, square = fit.targets * fit.sources, min(fit.targets, fit.sources) ** 2
        steps = fit.prior * (fit.sums + 2 * shape + 8 * square)
        held = max(2 * fit.sums + shape if sums else 3 * fit.sums, steps)
        rows = 4 * min(ROWS_AT_ONCE, fit.targets) * fit.sources
        most = max(most, kept + held + rows)
        kept += shape if fit.kept else 0
    return most * DOUBLE_BYTES + sums


def layers_at_once(
    mib: float,
    threads: int,
    old: Dimensions,
    new: Dimensions,
    in_turn: bool = False,
    roles: Collection[str] = ROLES,
) -> int:
    """How many layers a job of so much memory fits side by side, a thread each; `in_turn` where
    their moments are summed meanwhile, beside both models.
    """
    one, beside = fit_bytes(old, new, roles), 0.0
    if in_turn:
        walked = _moments(old, new, roles=roles)
        one, beside = one + site_sums(old, new, roles), walked.computing + walked.beside
    return max(1, min(threads, int(((mib - BASE_MIB) * MIB - beside) / one)))


def workers(
    snakemake: Any,
    device: str,
    old: Dimensions,
    new: Dimensions,
    in_turn: bool = False,
    roles: Collection[str] = ROLES,
) -> int:
    """How many layers' maps a rule's job makes side by side: one on a GPU, on a CPU one a thread,
    as far as the memory reaches that it asked for and that the machine has left.
    """
    if device != "cpu":
        return 1
    left = psutil.virtual_memory().available / MIB
    asked = getattr(getattr(snakemake, "resources", None), "mem_mb", left)
    return layers_at_once(min(asked, left), snakemake.threads, old, new, in_turn, roles)


def _fitted_maps(old: Dimensions, new: Dimensions, roles: Collection[str] = ROLES) -> float:
    one = fit_bytes(old, new, roles)
    return max(one, min(8 * one, 16 << 30))


def _fitted_beside(old: Dimensions, new: Dimensions, roles: Collection[str]) -> float:
    """Of fits on a GPU, in the machine's memory: a layer pair's sums, and the maps of two."""
    return site_sums(old, new, roles) + 2 * _maps_bytes(old, new, roles)


def _maps_bytes(old: Dimensions, new: Dimensions, roles: Collection[str]) -> float:
    """Of a layer pair's finished maps, at most: those that are rounded take half of it, and what
    writes them some of the rest.
    """
    return SINGLE_BYTES * sum(each.targets * each.sources for each in fits(old, new, roles))


def _maps_in_turn(
    old: Dimensions,
    new: Dimensions,
    number: int = SINGLE_BYTES,
    whole: bool = False,
    roles: Collection[str] = ROLES,
) -> Walked:
    """Moments, and a fit to those of a layer pair. On a CPU while the next ones are summed; on a
    GPU beside both embeddings, and beside the sums of both parts where they are few. The machine's
    memory then holds the others' sums, the maps of this layer pair, and those of the one before,
    which may wait to be written.
    """
    walked, sums = _moments(old, new, number, roles=roles), site_sums(old, new, roles)
    if number == SINGLE_BYTES:
        size, one = _fitted_maps(old, new, roles), fit_bytes(old, new, roles)
        return walked._replace(computing=walked.computing + size + size / one * sums)
    there = sums if sums <= times.SUMS_ROOM_BYTES else 0.0
    around = number * (around_blocks(old) + around_blocks(new))
    fitting = around + fit_bytes_on_gpu(fits(old, new, roles), there)
    read = sum(_walk(each, number, whole)[1] for each in (old, new))
    beside = read + (0.0 if there else sums) + 2 * _maps_bytes(old, new, roles)
    return Walked(max(walked.computing + there / 2, fitting), beside)


def _output_maps(old: Dimensions, new: Dimensions, roles: Collection[str] = ROLES) -> float:
    return _fitted_maps(old, new, roles)  # of which they are one side


def _transferred(old: Dimensions, new: Dimensions) -> float:
    """The adapter, what it becomes (twice while it is written), and a block of a map; a method that
    adds a matrix of weights has one of those as well.
    """
    sides = [d.layers * sum(sum(d.shape(role)) for role in held_roles(d)) for d in (old, new)]
    factors = RANK * SINGLE_BYTES * (sides[0] + 2 * sides[1])
    return factors + new.intermediate * new.hidden * DOUBLE_BYTES


def _model_merged(new: Dimensions) -> float:
    rows = (1 << 24) + new.hidden  # a block of rows, several times in float64
    return 6 * rows * DOUBLE_BYTES


def _moments(
    old: Dimensions,
    new: Dimensions,
    number: int = SINGLE_BYTES,
    whole: bool = False,
    roles: Collection[str] = ROLES,
) -> Walked:
    """Both models, the sums of one layer pair, and what a batch passes through its sites: as it is,
    and the widest ones in float64, once more squared. A matrix is written as its triangle. On a GPU
    are the sums of one part of the texts.
    """
    held = [_walk(d, number, whole) for d in (old, new)]
    sums = site_sums(old, new, roles)
    there, kept = (sums / 2, sums) if number == HALF_BYTES else (sums, 0.0)
    read = [*zip(*read_sites(old, new, roles).values(), strict=True)] or [(0,), (0,)]
    widths = sum(sum(each) + 4 * d.hidden for each, d in zip(read, (old, new), strict=True))
    wide = [max(each) for each in read]
    caught = BATCH_TOKENS * (widths * number + 2 * sum(wide) * DOUBLE_BYTES)
    written = 0.5 * max(wide) ** 2 * DOUBLE_BYTES
    return Walked(
        sum(computing for computing, _ in held) + there + caught,
        sum(beside for _, beside in held) + kept + written,
    )


def _experts(
    old: Dimensions, new: Dimensions, number: int = SINGLE_BYTES, whole: bool = False
) -> Walked:
    """What moments take, and of one layer the rows of gate and up of all experts of both models."""
    walked = _moments(old, new, number, whole)
    rows = sum(2 * d.experts * d.intermediate * d.hidden for d in (old, new)) * SINGLE_BYTES
    return walked._replace(computing=walked.computing + rows)


def _gradients(old: Dimensions, new: Dimensions, number: int = SINGLE_BYTES) -> float:
    """By a backward pass of four texts: what it keeps, and the scores four times."""
    wide = [(d.heads + 2 * d.kv_heads) * d.head_dim + 2 * d.intermediate for d in (old, new)]
    sums = 2 * DOUBLE_BYTES * wide[1] * sum(wide) * min(old.layers, new.layers)
    models = [parameters(d) for d in (old, new)]
    kept = [d.layers * (16 * d.hidden + 6 * d.intermediate) for d in (old, new)]
    kept = [each + 4 * d.vocabulary for each, d in zip(kept, (old, new), strict=True)]
    return (sum(models) + 1024 * max(kept)) * number + min(sums, 8 << 30)


def walk_widths(old: Dimensions, new: Dimensions) -> tuple[int, int]:
    """Numbers that a walk of four models keeps of each token: streams, and what passed a block."""
    old_sites = sum(read_widths(old)) + 4 * old.hidden  # and the streams there, and their change
    new_sites = new.intermediate + 4 * new.hidden
    return 2 * (old.hidden + new.hidden), old_sites + new_sites


def _adapter_maps(
    old: Dimensions, new: Dimensions, number: int = SINGLE_BYTES, whole: bool = False
) -> Walked:
    """By two copies of each base. Streamed ones are in float32 everywhere and share what is around
    their blocks, and of all one block is in place; before that the old one is there whole, to write
    answers.
    """
    read = list(zip(read_widths(old), read_widths(new), strict=True))
    bases = [parameters(d) for d in (old, new)]
    streams, passed = (READ_TOKENS * width * SINGLE_BYTES for width in walk_widths(old, new))
    if number == HALF_BYTES:  # a site's sums and their fit
        fit = fit_bytes_on_gpu(input_fits(old, new))
    else:
        fit = 12.0 * max(o * n + n * n for o, n in read) * DOUBLE_BYTES
    if whole:
        size, beside = 2 * sum(bases) * number + passed + fit, float(streams)
    else:
        blocks = [block_parameters(d) for d in (old, new)]
        held = sum(map(around_blocks, (old, new))) + max(blocks)
        inside = max(BATCH_TOKENS * (8 * d.hidden + 3 * d.intermediate) for d in (old, new))
        size = max(bases[0] * SINGLE_BYTES, (held + inside) * SINGLE_BYTES + passed + fit)
        beside = streams + sum(blocks) * SINGLE_BYTES
    return Walked(size, beside)


def _gain(new: Dimensions, batch: int, cutoff: int, number: int) -> Walked:
    """A model with its head and an adapter, and the streams of all answers under each gain. Behind
    the last block are the scores of a batch, in float32, thrice.
    """
    around = around_blocks(new) + new.vocabulary * new.hidden
    block, tokens = block_parameters(new), batch * cutoff
    adapter = RANK * new.layers * sum(sum(new.shape(role)) for role in held_roles(new))
    inside = block + tokens * (8 * new.hidden + 3 * new.intermediate)
    scores = 3 * tokens * new.vocabulary * SINGLE_BYTES
    read = times.GAINS * times.ANSWERS * cutoff
    return Walked(
        around * number + adapter * SINGLE_BYTES + max(inside * number, scores),
        block * number + min(STREAMS_BYTES, read * kept_widths(new) * number),
    )


WALKED: dict[str, Callable[..., Walked]] = {
    "activations": _activations,
    "moments": _moments,
    "experts": _experts,
    "maps_in_turn": _maps_in_turn,
    "adapter_maps": _adapter_maps,
}
RULES: dict[str, Callable[..., float]] = {
    "spec": _spec,
    "embedding": _embedding,
    "cka": _features,
    "layers": lambda *models: 0.0,
    "heads": _heads,
    "gradients": _gradients,
    "maps": _maps,
    "fitted_maps": _fitted_maps,
    "output_maps": _output_maps,
    "transferred": _transferred,
    "model_merged": _model_merged,
}
ORDER = ("spec", "activations", "embedding", "cka", "layers", "heads", "moments", "gradients",
         "experts", "maps", "fitted_maps", "maps_in_turn", "output_maps", "adapter_maps",
         "transferred", "model_merged")  # fmt: skip
SIDES_OF = {"spec": ("old", "new"), "activations": ("old", "new"), "model_merged": ("new",)}


# whose needs follow the modules that maps are made for
BY_ROLES = ("moments", "maps", "fitted_maps", "maps_in_turn", "output_maps")
ON_CPU = ("spec", "cka", "layers", "transferred", "model_merged")  # whatever there is


class Need(NamedTuple):
    """What a rule may use of a machine, and how long it takes by estimate.

    Attributes
    ----------
    mib : of the machine's memory, where its CPU computes
    seconds : on one core
    host_mib : of the machine's memory where a GPU computes; 0 for a rule that uses none
    gpu_mib : of the GPU, as torch allocates it: without CUDA's own context, 0.8 GiB of an H100, and
        without what torch keeps of memory that it has let go
    gpu_seconds : where a GPU computes
    """

    mib: int
    seconds: float
    host_mib: int
    gpu_mib: int
    gpu_seconds: float


def need(
    rule: str, *models: Dimensions, whole: bool = False, roles: Collection[str] = ROLES
) -> Need:
    """Memory in MiB, MARGIN over what the rule holds, and seconds as they are estimated: what a
    scheduler is asked for is `times.limit_minutes` of them.

    Parameters
    ----------
    models : the one model of a per-model rule, or the old and the new one of a pair's
    whole : whether models that could be streamed are held whole
    roles : whose maps are fitted, or whose moments are summed
    """
    served: dict[str, Any] = {"roles": roles} if rule in BY_ROLES else {}
    seconds = [times.RULES[rule](*models, rates=r, **served) for r in (times.CORE, times.GPU)]
    if rule in WALKED:
        return _need_of_walk(rule, *models, seconds=seconds, whole=whole, **served)
    size = RULES[rule](*models, **served)
    named = rule
    if rule == "maps" and not set(FEED_FORWARD) & set(roles):
        named = "maps of attention"
    memory = _base(named) + _planned(size)
    if rule in ON_CPU:
        return Need(memory, seconds[0], 0, 0, 0.0)
    beside = BASES.get(named, BASE_MIB) + CUDA_MIB
    host, on_gpu = beside + _planned(size), size
    if rule == "embedding":
        on_gpu = _solved(models[0], models[1])
    elif rule == "gradients":
        host, on_gpu = GPU_HOST_MIB, _gradients(models[0], models[1], HALF_BYTES)
    elif rule in ("fitted_maps", "output_maps"):
        old, new = models
        made = output_fits if rule == "output_maps" else fits
        on_gpu = fit_bytes_on_gpu(made(old, new, roles))
        host = beside + _planned(_fitted_beside(old, new, roles))
    return Need(memory, seconds[0], host, _planned(on_gpu), seconds[1])


@cache
def is_cuda_build() -> bool:
    """Whether torch is a build for GPUs, whose libraries are large where none is used too."""
    try:
        return sys.platform == "linux" and "+cpu" not in version("torch")
    except PackageNotFoundError:
        return False


def _base(rule: str) -> int:
    """MiB of a rule's process without what it holds."""
    libraries = CUDA_BUILD_MIB if is_cuda_build() and rule not in WITHOUT_TORCH else 0
    return BASES.get(rule, BASE_MIB) + libraries


def streamed_gain(new: Dimensions, batch: int, cutoff: int) -> Need:
    """The same of the choice of a gain on a model that is streamed.

    Parameters
    ----------
    batch : examples in a forward pass
    cutoff : tokens of an example, at most
    """
    on_cpu, on_gpu = (_gain(new, batch, cutoff, number) for number in (SINGLE_BYTES, HALF_BYTES))
    seconds = [times.gain(new, cutoff, rates) for rates in (times.CORE, times.GPU)]
    return _need_of_walked(on_cpu, on_gpu, GPU_GAIN_MIB, seconds)


def with_tables(asked: Need, held: int, carried: int) -> Need:
    """What a transfer needs whose adapter holds whole tables of its vocabulary.

    Parameters
    ----------
    held : numbers of the adapter's tables
    carried : numbers of those that are written for the new model
    """
    more = _planned(SINGLE_BYTES * (held + TABLE_COPIES * carried))
    return asked._replace(mib=asked.mib + more)


def _need_of_walk(rule: str, *models: Dimensions, seconds: Sequence[float], **how: Any) -> Need:
    on_cpu, on_gpu = (
        WALKED[rule](*models, number=number, **how) for number in (SINGLE_BYTES, HALF_BYTES)
    )
    whole = how["whole"]
    host = GPU_HOST_MIB if whole else GPU_WALK_MIB
    if rule == "adapter_maps":  # weights on their way. Measured: 12 GiB for 0.5B and 1.5B, whole
        on_way = models if whole else models[:1]  # the old one, in float32, writes answers
        host = GPU_HOST_MIB + int(sum(map(parameters, on_way)) * SINGLE_BYTES / MIB)
    return _need_of_walked(on_cpu, on_gpu, host, seconds)


def _need_of_walked(on_cpu: Walked, on_gpu: Walked, host: int, seconds: Sequence[float]) -> Need:
    """`host`: MiB of the machine's memory where a GPU computes, without what is beside it."""
    return Need(
        _base("") + _planned(on_cpu.computing + on_cpu.beside),
        seconds[0],
        host + _planned(on_gpu.beside),
        _planned(on_gpu.computing),
        seconds[1],
    )


def _planned(size: float) -> int:
    return int(MARGIN * size / MIB)


class Row(NamedTuple):
    """A rule of the plan, and what it needs."""

    rule: str
    mib: int
    seconds: float
    host_mib: int
    gpu_mib: int
    gpu_seconds: float


def table(old: Dimensions, new: Dimensions) -> list[Row]:
    """Each rule with what it needs; rules of one model for each."""
    rows = []
    models = {"old": old, "new": new}
    for rule in ORDER:
        if rule == "experts" and min(old.experts, new.experts) == 1:
            continue
        sides = SIDES_OF.get(rule)
        if sides is None:
            rows.append(Row(rule, *need(rule, old, new)))
        else:
            rows += [Row(f"{rule} {side}", *need(rule, models[side])) for side in sides]
    return rows


def read_sizes(spec: str | Path) -> Dimensions:
    """Dimensions from a spec.json."""
    return Dimensions.of(json.loads(Path(spec).read_text())["dimensions"])


def read(inputs: Any) -> list[Dimensions]:
    """Dimensions from the specs among a rule's named inputs, the old model's first.

    Raises FileNotFoundError while a spec is still to be made: Snakemake then asks again.
    """
    names = [name for name in ("spec", "old_spec", "new_spec") if hasattr(inputs, name)]
    return [read_sizes(getattr(inputs, name)) for name in names]
