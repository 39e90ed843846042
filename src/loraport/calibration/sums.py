"""Sums over two models that are walked side by side, of one layer pair at a time."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch

from ..models.families import ROLES
from ..models.spec import Model, shared_roles
from .batches import PARTS, Batch
from .moments import LayerMoments, Moments
from .sites import needed, rms, width
from .walk import Walk, side_by_side


class Keeper(Protocol):
    """Keeps what two walks have come to while they last (`resume.KeptMoments`)."""

    def load(self, walks: tuple[Walk, Walk]) -> list[LayerMoments]: ...

    def save_if_due(self, walks: tuple[Walk, Walk], done: int) -> None: ...


def layer_moments(
    models: tuple[Model, Model],
    walks: tuple[Walk, Walk],
    batches: Sequence[Batch],
    pairs: Sequence[tuple[int, int]],
    device: str,
    progress: Callable[[int], Any] = lambda count: None,
    roles: Collection[str] = ROLES,
    kept: Keeper | None = None,
    room: int = 0,
) -> Iterator[LayerMoments]:
    """Moments at the sites of one layer pair after the other, in one pass over the texts.

    Parameters
    ----------
    models, walks : old and new
    batches : that both walk over
    pairs : (old, new) layers, new ones rising, old ones not falling
    device : where the sums are
    progress : is told how many texts have passed a layer pair
    roles : whose maps are to be fitted
    kept : where walks that were cut off left what they had come to, and these leave it. Batches are
        added in the same order, in float64: with the same threads the sums end with the same bytes
    room : bytes of the sums of a layer pair that may be left on `device`; more go to the CPU

    Yields
    ------
    for each layer pair, site -> moments of the texts to fit on, and of those held out, on the CPU,
    or on `device` where there is `room`. They are let go here before the next ones begin: so should
    the caller

    Notes
    -----
    O(tokens · Σ width²) beside the two forward passes. Memory: the sums of a layer pair, on
    `device` those of one part of the texts, or of both where there is `room`; a batch in two
    blocks; the streams of all texts.
    """
    done = kept.load(walks) if kept else []
    for sums in done:
        progress(sum(len(batch.inputs[0]["input_ids"]) for batch in batches))
        yield sums
    for place, (pair, passing) in enumerate(side_by_side(walks, pairs, len(done)), len(done)):
        sums = _empty_layer(models, pair, roles)
        stay, part = _bytes(sums) <= room, -1
        for batch, old, new in zip(batches, *passing, strict=True):
            if part != PARTS.index(batch.part):
                if part >= 0:
                    _end_part(sums, part, stay)
                part = PARTS.index(batch.part)
                _begin_part(device, sums, part)
            _add(sums, part, old, new)
            old.clear()  # room for the next
            new.clear()
            progress(len(batch.inputs[0]["input_ids"]))
        _end_part(sums, part, stay)
        yield sums
        del sums
        if kept and pair is not pairs[-1]:
            kept.save_if_due(walks, place + 1)


def _add(sums: LayerMoments, part: int, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Take in a batch of one part of the texts: what passed the sites of both layers."""
    for site, parts in sums.items():
        sizes = (side.get(rms(site)) for side in (old, new))
        parts[part].add(old[site], new[site], *sizes)


def _empty_layer(
    models: tuple[Model, Model], layers: tuple[int, int], roles: Collection[str]
) -> dict[str, tuple[Moments, Moments]]:
    """Sums of no token yet, at the sites of the roles that both layers have."""
    sums = {}
    both = [role for role in shared_roles(models, layers) if role in roles]
    sides = [model.dims.at(layer) for model, layer in zip(models, layers, strict=True)]
    for site in needed(both):
        old, new = (width(dims, site) for dims in sides)
        fit, held = (Moments.empty(site, old, new, "cpu", both) for _ in PARTS)
        sums[site] = (fit, held)
    return sums


def _bytes(sums: LayerMoments) -> int:
    """What the matrices of a layer pair's sums take."""
    each = (m for parts in sums.values() for m in parts)
    there = [x for m in each for x in (m.cross, m.gram_old, m.gram_new) if x is not None]
    return sum(values.nbytes for values in there)


def _begin_part(device: str, sums: LayerMoments, part: int) -> None:
    """Have the sums of one part of the texts on a device; on a GPU by triangles."""
    for parts in sums.values():
        parts[part].move(device)
        parts[part].lower = device != "cpu"


def _end_part(sums: LayerMoments, part: int, stay: bool) -> None:
    """Make the sums of a part whole, and put them on the CPU unless they stay."""
    for parts in sums.values():
        parts[part].mirror()
        if not stay:
            parts[part].move("cpu")


class InTurn:
    """Function of a new layer: its moments, asked for once each, in the order of the layer path.

    Parameters
    ----------
    found : of `layer_moments`; it goes on in the thread that asks, with as many threads of torch's
        as there are now: one who fits maps may have set fewer
    """

    def __init__(self, found: Iterator[LayerMoments]):
        self._found, self._threads = found, torch.get_num_threads()

    def __call__(self, layer: int) -> LayerMoments:
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            return next(self._found)
        finally:
            torch.set_num_threads(before)
