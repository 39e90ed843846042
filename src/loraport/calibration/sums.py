"""Sums over two models that are walked side by side, of one layer pair at a time."""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import torch

from ..models.families import ROLES
from ..models.spec import Model, shared_roles
from ..runtime.memory import let_go
from .batches import PARTS, Batch
from .host_buffers import HostBuffers
from .moments import LayerMoments, Moments
from .sites import needed, rms, width
from .walk import Caught, Walk, side_by_side


class Keeper(Protocol):
    """Keeps what two walks have come to while they last (`resume.KeptMoments`)."""

    def load(self, walks: tuple[Walk, Walk]) -> list[LayerMoments]:
        """Move the walks to where they were kept; the sums of the layer pairs behind them."""

    def save_if_due(self, walks: tuple[Walk, Walk], done: int) -> None:
        """Keep the walks and the sums of `done` layer pairs, if enough time has passed."""


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
    reuse: bool = False,
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
    reuse : whether sums that go from a GPU to the CPU may take the place of those of the layer pair
        before: for a caller that has done with those when it asks for the next

    Yields
    ------
    for each layer pair, site -> moments of the texts to fit on, and of those held out, on the CPU,
    or on `device` where there is `room`. They are let go here before the next ones begin: so should
    the caller, and with `reuse` the next ones overwrite them

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
    buffers = HostBuffers(device) if reuse and device != "cpu" else None
    try:
        for place, (pair, passing) in enumerate(side_by_side(walks, pairs, len(done)), len(done)):
            begin = partial(_begin_part, device, models, pair, roles)
            sums = _summed(zip(batches, *passing, strict=True), begin, room, buffers, progress)
            yield sums
            del sums
            if kept and pair is not pairs[-1]:
                kept.save_if_due(walks, place + 1)
    finally:
        if buffers:
            buffers.close()


Part = dict[str, Moments]  # site -> sums over one part of the texts


def _summed(
    passing: Iterator[tuple[Batch, Caught, Caught]],
    begin: Callable[[], Part],
    room: int,
    buffers: HostBuffers | None,
    progress: Callable[[int], Any],
) -> LayerMoments:
    """Moments of one layer pair, of what passes its sites batch by batch."""
    parts: dict[str, Part] = {}
    part = ""
    for batch, old, new in passing:
        if part != batch.part:
            if part:
                _end_part(parts[part], part, room, buffers)
            part = batch.part
            parts[part] = begin()
        _add(parts[part], old, new)
        old.clear()  # room for the next
        new.clear()
        progress(len(batch.inputs[0]["input_ids"]))
    if not _end_part(parts[part], part, room, buffers):
        let_go()  # what is fitted next asks for other sizes
    fit, held = (parts[part] for part in PARTS)
    return {site: (fit[site], held[site]) for site in fit}


def _add(sums: Part, old: Caught, new: Caught) -> None:
    """Take in a batch: what passed the sites of both layers."""
    for site, moments in sums.items():
        sizes = (side.get(rms(site)) for side in (old, new))
        moments.add(old[site], new[site], *sizes)


def _begin_part(
    device: str, models: tuple[Model, Model], layers: tuple[int, int], roles: Collection[str]
) -> Part:
    """Sums of no token yet, at the sites of the roles that both layers have; by triangles on
    a GPU.
    """
    sums = {}
    both = [role for role in shared_roles(models, layers) if role in roles]
    sides = [model.dims.at(layer) for model, layer in zip(models, layers, strict=True)]
    for site in needed(both):
        old, new = (width(dims, site) for dims in sides)
        sums[site] = Moments.empty(site, old, new, device, both)
        sums[site].lower = device != "cpu"
    return sums


def _end_part(sums: Part, part: str, room: int, buffers: HostBuffers | None) -> bool:
    """Make the sums of a part whole, and put them on the CPU unless there is room for both parts'
    where they are: whether there is.
    """
    stay = len(PARTS) * _bytes(sums) <= room
    for site, moments in sums.items():
        moments.mirror()
        if not stay:
            moments.leave(partial(_to_cpu, (site, part), buffers))
    return stay


def _to_cpu(
    place: tuple[str, str], buffers: HostBuffers | None, name: str, values: torch.Tensor
) -> torch.Tensor:
    return buffers.copied((*place, name), values) if buffers else values.cpu()


def _bytes(sums: Part) -> int:
    """What the matrices of the sums take."""
    there = (x for m in sums.values() for x in (m.cross, m.gram_old, m.gram_new) if x is not None)
    return sum(values.nbytes for values in there)


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
