"""Bytes that each rule holds, by the rules' names; those that walk models are in `memory_walks`.

What a process takes without that, and the margin, are of `needs`.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial

from ..models.families import FEED_FORWARD, ROLES, Dimensions
from . import times
from .sizes import (
    DOUBLE_BYTES,
    HALF_BYTES,
    SINGLE_BYTES,
    FitShape,
    fits,
    held_roles,
    output_fits,
    parameters,
    site_sums,
)

RANK = 32  # of an adapter
ROWS_AT_ONCE = 2048  # of embeddings, and of a map that is solved for on a GPU


def spec(*models: Dimensions) -> float:
    """The largest matrix, in float32: one tensor at a time is read, as it is stored. Sizes do not
    tell the dtype of weights, of which bfloat16 takes half of this.
    """
    largest = max(
        max(d.intermediate * d.hidden, d.vocabulary * max(d.hidden, d.layers * d.per_layer_input))
        for d in models
    )
    return SINGLE_BYTES * largest


def embedding(old: Dimensions, new: Dimensions) -> float:
    """The sums and what is solved with them, rows in float64, and the new model's table."""
    return solved(old, new) + new.vocabulary * new.hidden * SINGLE_BYTES


def solved(old: Dimensions, new: Dimensions) -> float:
    """Of an embedding's map, what is on a GPU."""
    square, rows = old.hidden * (old.hidden + new.hidden), ROWS_AT_ONCE * (old.hidden + new.hidden)
    return (3.5 * square + rows) * DOUBLE_BYTES


def cka(old: Dimensions, new: Dimensions) -> float:
    """Both models' features in float64."""
    return times.TEXTS * sum(d.layers * d.hidden for d in (old, new)) * DOUBLE_BYTES


def layers(old: Dimensions, new: Dimensions) -> float:
    """A small table, whatever the models."""
    return 0.0


def heads(old: Dimensions, new: Dimensions) -> float:
    """Weights of attention and the cosines of all heads, of a layer pair."""
    wide = old.heads * old.head_dim, new.heads * new.head_dim
    held = (
        4 * wide[0] * (old.hidden + new.hidden) + 4 * wide[1] * new.hidden + 5 * wide[0] * wide[1]
    )
    return 0.5 * (held + 2 * old.hidden * new.hidden) * DOUBLE_BYTES  # not all of it at a time


def maps(old: Dimensions, new: Dimensions, roles: Collection[str] = ROLES) -> float:
    """Weights of a feed-forward module of both models; of attention alone, W_h, its inverse, and
    weights as large.
    """
    if not set(FEED_FORWARD) & set(roles):
        return 7 * max(old.hidden, new.hidden) ** 2 * DOUBLE_BYTES
    waist = old.intermediate * old.hidden + new.intermediate * new.hidden
    return 2.3 * waist * DOUBLE_BYTES


def gradients(old: Dimensions, new: Dimensions, number: int = SINGLE_BYTES) -> float:
    """By a backward pass of four texts: what it keeps, and the scores four times."""
    wide = [(d.heads + 2 * d.kv_heads) * d.head_dim + 2 * d.intermediate for d in (old, new)]
    sums = 2 * DOUBLE_BYTES * wide[1] * sum(wide) * min(old.layers, new.layers)
    models = [parameters(d) for d in (old, new)]
    kept = [d.layers * (16 * d.hidden + 6 * d.intermediate) for d in (old, new)]
    kept = [each + 4 * d.vocabulary for each, d in zip(kept, (old, new), strict=True)]
    return (sum(models) + 1024 * max(kept)) * number + min(sums, 8 << 30)


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


def fitted_maps(old: Dimensions, new: Dimensions, roles: Collection[str] = ROLES) -> float:
    """Fits of one layer, or of more side by side."""
    one = fit_bytes(old, new, roles)
    return max(one, min(8 * one, 16 << 30))


def beside_fits(old: Dimensions, new: Dimensions, roles: Collection[str]) -> float:
    """Of fits on a GPU, in the machine's memory: a layer pair's sums, and the maps of two."""
    return site_sums(old, new, roles) + 2 * maps_bytes(old, new, roles)


def maps_bytes(old: Dimensions, new: Dimensions, roles: Collection[str]) -> float:
    """Of a layer pair's finished maps, at most: those that are rounded take half of it, and what
    writes them some of the rest.
    """
    return SINGLE_BYTES * sum(each.targets * each.sources for each in fits(old, new, roles))


def _fitted_on_gpu(old: Dimensions, new: Dimensions, roles: Collection[str]) -> float:
    return fit_bytes_on_gpu(fits(old, new, roles))


def _outputs_on_gpu(old: Dimensions, new: Dimensions, roles: Collection[str]) -> float:
    return fit_bytes_on_gpu(output_fits(old, new, roles))


def transferred(old: Dimensions, new: Dimensions) -> float:
    """The adapter, what it becomes (twice while it is written), and a block of a map; a method that
    adds a matrix of weights has one of those as well.
    """
    sides = [d.layers * sum(sum(d.shape(role)) for role in held_roles(d)) for d in (old, new)]
    factors = RANK * SINGLE_BYTES * (sides[0] + 2 * sides[1])
    return factors + new.intermediate * new.hidden * DOUBLE_BYTES


def model_merged(new: Dimensions) -> float:
    """A block of rows, several times in float64."""
    rows = (1 << 24) + new.hidden
    return 6 * rows * DOUBLE_BYTES


RULES: dict[str, Callable[..., float]] = {
    each.__name__: each
    for each in (
        spec, embedding, cka, layers, heads, gradients, maps, fitted_maps, transferred,
        model_merged,
    )
}  # fmt: skip
RULES["output_maps"] = fitted_maps  # of which they are one side
# of a GPU, where it holds something else than a CPU's memory does
ON_GPU: dict[str, Callable[..., float]] = {
    "embedding": solved,
    "gradients": partial(gradients, number=HALF_BYTES),
    "fitted_maps": _fitted_on_gpu,
    "output_maps": _outputs_on_gpu,
}
