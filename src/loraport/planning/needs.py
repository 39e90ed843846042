"""What each rule will need: memory and time from the models' dimensions, before anything runs."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from ..models.families import FEED_FORWARD, ROLES, Dimensions

MIB = 1 << 20
BASE_MIB = 600  # Python with torch and transformers imported
# less or more where a rule imports less, or frees what it used late; measured at hidden sizes of
# 1024 and 2048 (benchmarks/results/plans.md)
BASES = {"spec": 100, "transferred": 120, "model_merged": 120, "cka": 330, "layers": 330,
         "embedding": 330, "heads": 450, "maps": 1000}  # fmt: skip
CUDA_MIB = 400  # more, where CUDA is used
# of a job that runs models on a GPU: libraries, CUDA, and weights on their way. Measured: 2.9 GiB
# by activations (1.8B and 3B), 4.4 by moments and by evaluations (0.5B and 1.5B), of whole models
GPU_HOST_MIB = 4600
GPU_WALK_MIB = 2900  # the same where models are streamed: weights on their way are planned
STREAMS_BYTES = (
    8 << 30
)  # of a model's streams between blocks; more lie on disk (calibration.streams)
MARGIN = 1.3  # of what is planned over what is held
DOUBLE_BYTES, SINGLE_BYTES, HALF_BYTES = 8, 4, 2
FIT_FLOPS = 2e10  # float64 a second that a small CPU job can count on
TEXTS = 512  # for calibration
READ_TOKENS = TEXTS * 256  # that a model reads
BATCH_TOKENS = 16 * 256  # at a time
FORWARD_FLOPS = 1e12  # a second while it reads
WRITTEN_TOKENS = 512 * 128  # of the answers that a model writes
WRITING_FLOPS = 1e11  # a second while it writes
PAIRED_TOKENS = 50_000  # of those that are read, the ones that enter second moments
RANK = 32  # of an adapter
GAINS, ANSWERS = 7, 50  # that a gain is chosen from, and on (evaluation.gain)
# of a carried table of the vocabulary: as it is made, of the new base beside it, as it is written.
# Measured: 3.2 (tables of 60,000 × 512)
TABLE_COPIES = 3.5


def parameters(dims: Dimensions) -> int:
    """Weights of all linear modules and of both embeddings, a close upper bound."""
    blocks = sum(block_parameters(dims.at(layer)) for layer in range(dims.layers))
    return blocks + dims.vocabulary * dims.hidden + around_blocks(dims)


def around_blocks(dims: Dimensions) -> int:
    """Weights that stay while blocks are streamed: the input embedding, and that of the layers'
    own inputs.
    """
    return dims.vocabulary * (dims.hidden + dims.layers * dims.per_layer_input)


def kept_widths(dims: Dimensions) -> int:
    """Numbers a token that are kept between blocks: the stream, and of two layer types the keys and
    values that later layers read.
    """
    borrow = any(dims.at(layer).borrows >= 0 for layer in range(dims.layers))
    return dims.hidden + (4 * dims.kv_heads * dims.head_dim if borrow else 0)


def block_parameters(dims: Dimensions) -> int:
    """Weights of the linear modules of one block."""
    held = [role for role in ROLES if role not in dims.lacks]
    sizes = {role: math.prod(dims.shape(role)) for role in held}
    feed_forward = sum(size for role, size in sizes.items() if role in FEED_FORWARD)
    return sum(sizes.values()) + (dims.experts - 1) * feed_forward


def _held(dims: Dimensions) -> list[str]:
    """Roles that a model of these sizes may have."""
    return [role for role in ROLES if all(dims.shape(role))]


def _spec(*models: Dimensions) -> tuple[float, float]:
    """The largest matrix, in float32."""
    largest = max(
        max(d.intermediate * d.hidden, d.vocabulary * max(d.hidden, d.layers * d.per_layer_input))
        for d in models
    )
    return SINGLE_BYTES * largest, sum(parameters(d) for d in models) * SINGLE_BYTES / 2e8


class Walked(NamedTuple):
    """Bytes of a rule that walks models block by block, and seconds.

    Attributes
    ----------
    computing : where it computes: a block and what is around it, a batch inside, sums
    beside : in the machine's memory: the next block, streams of all texts, what is written
    """

    computing: float
    beside: float
    seconds: float


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
    weights = sum(parameters(d) for d in models)
    seconds = 600 + weights * SINGLE_BYTES / 2e8 + 2 * weights * READ_TOKENS / FORWARD_FLOPS
    return Walked(sum(c for c, _ in held), features + sum(b for _, b in held), seconds)


def _embedding(old: Dimensions, new: Dimensions) -> tuple[float, float]:
    square = old.hidden * (old.hidden + new.hidden) * DOUBLE_BYTES
    work = 2 * old.vocabulary * old.hidden * (old.hidden + new.hidden) + 30 * old.hidden**3
    rows = 8192 * (old.hidden + new.hidden) * DOUBLE_BYTES
    return 6 * square + new.vocabulary * new.hidden * SINGLE_BYTES + rows, work / FIT_FLOPS


def _features(old: Dimensions, new: Dimensions) -> tuple[float, float]:
    """Both models' features in float64."""
    return TEXTS * sum(d.layers * d.hidden for d in (old, new)) * DOUBLE_BYTES, 120


def _heads(old: Dimensions, new: Dimensions) -> tuple[float, float]:
    wide = old.heads * old.head_dim, new.heads * new.head_dim
    held = (
        4 * wide[0] * (old.hidden + new.hidden) + 4 * wide[1] * new.hidden + 5 * wide[0] * wide[1]
    )
    work = 8 * wide[0] * new.hidden * (old.hidden + wide[1]) * min(old.layers, new.layers)
    # not all of it at a time
    return 0.5 * (held + 2 * old.hidden * new.hidden) * DOUBLE_BYTES, work / FIT_FLOPS


def _maps(old: Dimensions, new: Dimensions) -> tuple[float, float]:
    waist = old.intermediate * old.hidden + new.intermediate * new.hidden
    work = 4 * waist * (old.hidden + new.hidden) * 3 * min(old.layers, new.layers)
    return 2.3 * waist * DOUBLE_BYTES, work / FIT_FLOPS


def fit_bytes(old: Dimensions, new: Dimensions) -> float:
    """Memory while a layer's maps are fitted to second moments: both parts' sums at the widest
    site, the eigenvectors and what they are made with, and the layer's maps.
    """
    o, n = (max(d.intermediate, d.hidden, d.heads * d.head_dim) for d in (old, new))
    return 12 * (o * o + o * n + n * n) * DOUBLE_BYTES


def layers_at_once(
    mib: float, threads: int, old: Dimensions, new: Dimensions, in_turn: bool = False
) -> int:
    """How many layers a job of so much memory fits side by side, a thread each; `in_turn` where
    their moments are summed meanwhile, beside both models.
    """
    one, beside = fit_bytes(old, new), 0.0
    if in_turn:
        walked = _moments(old, new)
        one, beside = one + _site_sums(old, new), walked.computing + walked.beside
    return max(1, min(threads, int(((mib - BASE_MIB) * MIB - beside) / one)))


def workers(
    snakemake: Any, device: str, old: Dimensions, new: Dimensions, in_turn: bool = False
) -> int:
    """How many layers' maps a rule's job makes side by side: one on a GPU, on a CPU one a thread,
    as far as the memory reaches that it asked for and that the machine has left.
    """
    if device != "cpu":
        return 1
    left = psutil.virtual_memory().available / MIB
    asked = getattr(getattr(snakemake, "resources", None), "mem_mb", left)
    return layers_at_once(min(asked, left), snakemake.threads, old, new, in_turn)


def _fitted_maps(old: Dimensions, new: Dimensions) -> tuple[float, float]:
    one = fit_bytes(old, new)
    size = max(one, min(8 * one, 16 << 30))
    cubes = sum(
        d.intermediate**3 + 7 * max(d.hidden, d.heads * d.head_dim) ** 3 for d in (old, new)
    )
    return size, 40 * cubes * min(old.layers, new.layers) / FIT_FLOPS * one / size


def _maps_in_turn(
    old: Dimensions, new: Dimensions, number: int = SINGLE_BYTES, whole: bool = False
) -> Walked:
    """Moments, and a fit to those of a layer pair while the next ones are summed."""
    walked, (size, seconds) = _moments(old, new, number), _fitted_maps(old, new)
    if number == HALF_BYTES:  # on a GPU one layer is fitted, and none is summed meanwhile
        size = fit_bytes(old, new) - _site_sums(old, new) / 2
    else:
        size += size / fit_bytes(old, new) * _site_sums(old, new)
    return Walked(walked.computing + max(0, size), walked.beside, walked.seconds + seconds)


def _output_maps(old: Dimensions, new: Dimensions) -> tuple[float, float]:
    size, seconds = _fitted_maps(old, new)  # of which they are one side
    return size, seconds / 2


def _transferred(old: Dimensions, new: Dimensions) -> tuple[float, float]:
    """The adapter, what it becomes (twice while it is written), and a block of a map; a method that
    adds a matrix of weights has one of those as well.
    """
    sides = [d.layers * sum(sum(d.shape(role)) for role in _held(d)) for d in (old, new)]
    factors = RANK * SINGLE_BYTES * (sides[0] + 2 * sides[1])
    return factors + new.intermediate * new.hidden * DOUBLE_BYTES, 60


def _model_merged(new: Dimensions) -> tuple[float, float]:
    rows = (1 << 24) + new.hidden  # a block of rows, several times in float64
    return 6 * rows * DOUBLE_BYTES, parameters(new) * SINGLE_BYTES / 1e8


def _moments(
    old: Dimensions, new: Dimensions, number: int = SINGLE_BYTES, whole: bool = False
) -> Walked:
    """Both models, the sums of one layer pair, and what a batch passes through its sites: as it is,
    and the widest ones in float64, once more squared. A matrix is written as its triangle. On a GPU
    are the sums of one part of the texts.
    """
    held = [_walk(d, number, whole) for d in (old, new)]
    sums = _site_sums(old, new)
    there, kept = (sums / 2, sums) if number == HALF_BYTES else (sums, 0.0)
    widths = sum(sum(_read_widths(d)) + 4 * d.hidden for d in (old, new))
    wide = [max(_read_widths(d)) for d in (old, new)]
    caught = BATCH_TOKENS * (widths * number + 2 * sum(wide) * DOUBLE_BYTES)
    written = 0.5 * max(wide) ** 2 * DOUBLE_BYTES
    layers = min(old.layers, new.layers)
    return Walked(
        sum(computing for computing, _ in held) + there + caught,
        sum(beside for _, beside in held) + kept + written,
        600 + 2 * PAIRED_TOKENS * sums * layers / DOUBLE_BYTES / 2 / FIT_FLOPS,
    )


def _experts(
    old: Dimensions, new: Dimensions, number: int = SINGLE_BYTES, whole: bool = False
) -> Walked:
    """What moments take, and of one layer the rows of gate and up of all experts of both models;
    cosines of the neurons of each pair of experts.
    """
    walked = _moments(old, new, number, whole)
    rows = sum(2 * d.experts * d.intermediate * d.hidden for d in (old, new)) * SINGLE_BYTES
    layers = min(old.layers, new.layers)
    cosines = 4 * new.experts * new.intermediate**2 * new.hidden * layers
    return Walked(walked.computing + rows, walked.beside, walked.seconds + cosines / FIT_FLOPS)


def _gradients(old: Dimensions, new: Dimensions, number: int = SINGLE_BYTES) -> tuple[float, float]:
    """By a backward pass of four texts: what it keeps, and the scores four times."""
    wide = [(d.heads + 2 * d.kv_heads) * d.head_dim + 2 * d.intermediate for d in (old, new)]
    sums = 2 * DOUBLE_BYTES * wide[1] * sum(wide) * min(old.layers, new.layers)
    models = [parameters(d) for d in (old, new)]
    kept = [d.layers * (16 * d.hidden + 6 * d.intermediate) for d in (old, new)]
    kept = [each + 4 * d.vocabulary for each, d in zip(kept, (old, new), strict=True)]
    size = (sum(models) + 1024 * max(kept)) * number + min(sums, 8 << 30)
    passes = 3 * 2 * sum(models) * READ_TOKENS / FORWARD_FLOPS
    seconds = 600 + passes + 2 * PAIRED_TOKENS * sums / DOUBLE_BYTES / 2 / FIT_FLOPS
    return size, seconds


def _site_sums(old: Dimensions, new: Dimensions) -> float:
    """Bytes of one layer pair's moments, of both parts of the texts, for all modules."""
    total = 0
    for o, n in zip(_read_widths(old), _read_widths(new), strict=True):  # Σ x yᵀ and Σ y yᵀ
        total += o * n + n * n
    total += old.intermediate**2  # down's input is what gate and up write
    both = old.hidden**2 + old.hidden * new.hidden
    total += 2 * (both + new.hidden**2)  # the stream behind o and behind down
    linear = (old.linear_values, new.linear_values)
    if all(linear):  # what linear attention reads, and its output
        for o, n in ((old.hidden, new.hidden), linear):
            total += o * n + n * n
    written = [role for role in _held(old) if role in _held(new) and role not in ("gate", "up")]
    for role in written:  # Σ x yᵀ and Σ x xᵀ
        o, n = old.shape(role)[0], new.shape(role)[0]
        total += o * n + o * o
    return 2 * DOUBLE_BYTES * total


def _read_widths(dims: Dimensions) -> tuple[int, int, int, int]:
    """Of what attention, o, gate with up, and down read."""
    return dims.hidden, dims.heads * dims.head_dim, dims.hidden, dims.intermediate


def walk_widths(old: Dimensions, new: Dimensions) -> tuple[int, int]:
    """Numbers that a walk of four models keeps of each token: streams, and what passed a block."""
    old_sites = sum(_read_widths(old)) + 4 * old.hidden  # and the streams there, and their change
    new_sites = new.intermediate + 4 * new.hidden
    return 2 * (old.hidden + new.hidden), old_sites + new_sites


def _adapter_maps(
    old: Dimensions, new: Dimensions, number: int = SINGLE_BYTES, whole: bool = False
) -> Walked:
    """By two copies of each base. Blocks of the old one and of the bare new one run once; of the
    one with updates up to each reader and once more, which adds up to three times.

    Streamed ones are in float32 everywhere; before that the old one is there whole, to write
    answers.
    """
    read = list(zip(_read_widths(old), _read_widths(new), strict=True))
    bases = [parameters(d) for d in (old, new)]
    streams, passed = (READ_TOKENS * width * SINGLE_BYTES for width in walk_widths(old, new))
    fit = 12 * max(o * n + n * n for o, n in read) * DOUBLE_BYTES  # a site's sums and their fit
    if whole:
        size, beside = 2 * sum(bases) * number + passed + fit, float(streams)
    else:
        blocks = [block_parameters(d) for d in (old, new)]
        held = 2 * (sum(map(around_blocks, (old, new))) + sum(blocks))
        inside = max(BATCH_TOKENS * (8 * d.hidden + 3 * d.intermediate) for d in (old, new))
        size = max(bases[0] * SINGLE_BYTES, (held + inside) * SINGLE_BYTES + passed + fit)
        beside = streams + 2 * sum(blocks) * SINGLE_BYTES
    runs = (
        2 * READ_TOKENS * (2 * bases[0] + 4 * bases[1]) / FORWARD_FLOPS
        + 2 * WRITTEN_TOKENS * bases[0] / WRITING_FLOPS
    )
    sums = sum(o * n + n * n for o, n in read)
    sums += sum((new.hidden + n) * n for _, n in read[1::2])  # of what the stream lacks
    fits = 20 * sum(o**3 + n**3 for o, n in read)
    seconds = (2 * PAIRED_TOKENS * sums + fits) * min(old.layers, new.layers) / FIT_FLOPS
    times = 1 if whole else 2  # that weights are read
    return Walked(size, beside, 600 + times * sum(bases) * SINGLE_BYTES / 2e8 + runs + seconds)


def _gain(new: Dimensions, batch: int, cutoff: int, number: int) -> Walked:
    """A model with its head and an adapter, and the streams of all answers under each gain. Behind
    the last block are the scores of a batch, in float32, thrice.
    """
    around = around_blocks(new) + new.vocabulary * new.hidden
    block, tokens = block_parameters(new), batch * cutoff
    adapter = RANK * new.layers * sum(sum(new.shape(role)) for role in _held(new))
    inside = block + tokens * (8 * new.hidden + 3 * new.intermediate)
    scores = 3 * tokens * new.vocabulary * SINGLE_BYTES
    read, weights = GAINS * ANSWERS * cutoff, parameters(new)
    return Walked(
        around * number + adapter * SINGLE_BYTES + max(inside * number, scores),
        block * number + min(STREAMS_BYTES, read * kept_widths(new) * number),
        600 + weights * SINGLE_BYTES / 2e8 + 2 * weights * read / FORWARD_FLOPS,
    )


WALKED: dict[str, Callable[..., Walked]] = {
    "activations": _activations,
    "moments": _moments,
    "experts": _experts,
    "maps_in_turn": _maps_in_turn,
    "adapter_maps": _adapter_maps,
}
RULES: dict[str, Callable[..., tuple[float, float]]] = {
    "spec": _spec,
    "embedding": _embedding,
    "cka": _features,
    "layers": lambda *models: (0.0, 10.0),
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


ON_CPU = ("spec", "cka", "layers", "transferred", "model_merged")  # whatever there is


class Need(NamedTuple):
    """What a rule may use: of a machine's memory on a CPU, minutes, and on a GPU both memories."""

    mib: int
    minutes: int
    host_mib: int  # of the machine's memory where a GPU computes; 0 for a rule that uses none
    gpu_mib: int


def need(rule: str, *models: Dimensions, whole: bool = False) -> Need:
    """Memory in MiB, MARGIN over what the rule holds, and wall time in minutes, generous by a
    factor of two.

    Parameters
    ----------
    models : the one model of a per-model rule, or the old and the new one of a pair's
    whole : whether models that could be streamed are held whole
    """
    if rule in WALKED:
        return _need_of_walk(rule, *models, whole=whole)
    size, seconds = RULES[rule](*models)
    memory = BASES.get(rule, BASE_MIB) + _planned(size)
    minutes = _minutes(seconds)
    if rule in ON_CPU:
        return Need(memory, minutes, 0, 0)
    if rule == "gradients":
        old, new = models
        on_gpu, _ = _gradients(old, new, HALF_BYTES)
        return Need(memory, minutes, GPU_HOST_MIB, _planned(on_gpu))
    return Need(memory, minutes, memory + CUDA_MIB, _planned(size))


def streamed_gain(new: Dimensions, batch: int, cutoff: int) -> Need:
    """The same of the choice of a gain on a model that is streamed.

    Parameters
    ----------
    batch : examples in a forward pass
    cutoff : tokens of an example, at most
    """
    on_cpu, on_gpu = (_gain(new, batch, cutoff, number) for number in (SINGLE_BYTES, HALF_BYTES))
    return _need_of_walked(on_cpu, on_gpu, GPU_WALK_MIB)


def with_tables(asked: Need, held: int, carried: int) -> Need:
    """What a transfer needs whose adapter holds whole tables of its vocabulary.

    Parameters
    ----------
    held : numbers of the adapter's tables
    carried : numbers of those that are written for the new model
    """
    more = _planned(SINGLE_BYTES * (held + TABLE_COPIES * carried))
    return asked._replace(mib=asked.mib + more)


def _need_of_walk(rule: str, *models: Dimensions, whole: bool) -> Need:
    on_cpu, on_gpu = (
        WALKED[rule](*models, number=number, whole=whole) for number in (SINGLE_BYTES, HALF_BYTES)
    )
    host = GPU_HOST_MIB if whole else GPU_WALK_MIB
    if rule == "adapter_maps":  # weights on their way. Measured: 12 GiB for 0.5B and 1.5B, whole
        on_way = models if whole else models[:1]  # the old one, in float32, writes answers
        host = GPU_HOST_MIB + int(sum(map(parameters, on_way)) * SINGLE_BYTES / MIB)
    return _need_of_walked(on_cpu, on_gpu, host)


def _need_of_walked(on_cpu: Walked, on_gpu: Walked, host: int) -> Need:
    """`host`: MiB of the machine's memory where a GPU computes, without what is beside it."""
    return Need(
        BASE_MIB + _planned(on_cpu.computing + on_cpu.beside),
        _minutes(on_cpu.seconds),
        host + _planned(on_gpu.beside),
        _planned(on_gpu.computing),
    )


def _minutes(seconds: float) -> int:
    return 5 + int(2 * seconds / 60)


def _planned(size: float) -> int:
    return int(MARGIN * size / MIB)


class Row(NamedTuple):
    """A rule of the plan, and what it needs."""

    rule: str
    mib: int
    minutes: int
    host_mib: int
    gpu_mib: int


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
