"""Bytes of rules that walk models block by block, by the rules' names."""

from collections.abc import Callable, Collection
from typing import NamedTuple

from ..models.families import ROLES, Dimensions
from . import times
from .memory import RANK, fit_bytes, fit_bytes_on_gpu, fitted_maps, maps_bytes
from .sizes import (
    DOUBLE_BYTES,
    HALF_BYTES,
    SINGLE_BYTES,
    around_blocks,
    block_parameters,
    fits,
    held_roles,
    input_fits,
    kept_widths,
    parameters,
    read_sites,
    read_widths,
    site_sums,
)

# of a model's streams between blocks; more lie on disk (calibration.streams)
STREAMS_BYTES = 8 << 30
LONGEST = 256  # tokens of a text that a model reads
BATCH_TOKENS = 16 * LONGEST  # at a time


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
    streams = min(STREAMS_BYTES, times.TEXTS * LONGEST * kept_widths(dims) * number)
    return (weights + inside) * number, streams + (0 if whole else block * number)


def activations(*models: Dimensions, number: int = SINGLE_BYTES, whole: bool = False) -> Walked:
    """A model, and pooled features."""
    held = [_walk(d, number, whole) for d in models]
    features = sum(d.layers * d.hidden * times.TEXTS * SINGLE_BYTES for d in models)
    return Walked(sum(c for c, _ in held), features + sum(b for _, b in held))


def moments(
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


def experts(
    old: Dimensions, new: Dimensions, number: int = SINGLE_BYTES, whole: bool = False
) -> Walked:
    """What moments take, and of one layer the rows of gate and up of all experts of both models."""
    walked = moments(old, new, number, whole)
    rows = sum(2 * d.experts * d.intermediate * d.hidden for d in (old, new)) * SINGLE_BYTES
    return walked._replace(computing=walked.computing + rows)


def maps_in_turn(
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
    walked, sums = moments(old, new, number, roles=roles), site_sums(old, new, roles)
    if number == SINGLE_BYTES:
        size, one = fitted_maps(old, new, roles), fit_bytes(old, new, roles)
        return walked._replace(computing=walked.computing + size + size / one * sums)
    there = sums if sums <= times.SUMS_ROOM_BYTES else 0.0
    around = number * (around_blocks(old) + around_blocks(new))
    fitting = around + fit_bytes_on_gpu(fits(old, new, roles), there)
    read = sum(_walk(each, number, whole)[1] for each in (old, new))
    beside = read + (0.0 if there else sums) + 2 * maps_bytes(old, new, roles)
    return Walked(max(walked.computing + there / 2, fitting), beside)


def walk_widths(old: Dimensions, new: Dimensions) -> tuple[int, int]:
    """Numbers that a walk of four models keeps of each token: streams, and what passed a block."""
    old_sites = sum(read_widths(old)) + 4 * old.hidden  # and the streams there, and their change
    new_sites = new.intermediate + 4 * new.hidden
    return 2 * (old.hidden + new.hidden), old_sites + new_sites


def adapter_maps(
    old: Dimensions, new: Dimensions, number: int = SINGLE_BYTES, whole: bool = False
) -> Walked:
    """By two copies of each base. Streamed ones are in float32 everywhere and share what is around
    their blocks, and of all one block is in place; before that the old one is there whole, to write
    answers.
    """
    read = list(zip(read_widths(old), read_widths(new), strict=True))
    bases = [parameters(d) for d in (old, new)]
    read_tokens = times.TEXTS * LONGEST
    streams, passed = (read_tokens * width * SINGLE_BYTES for width in walk_widths(old, new))
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


def gain(new: Dimensions, batch: int, cutoff: int, number: int) -> Walked:
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
    each.__name__: each for each in (activations, moments, experts, maps_in_turn, adapter_maps)
}
