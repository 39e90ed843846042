"""Sums for sequential alignment: four models walked side by side, block by block.

The old model with and without its adapter, the new model without one and with what has been placed
in it so far. What a later module is to do depends on what the earlier ones made of theirs. Each may
be streamed: updates go into a block's weights while it is there, and no earlier block is run again.
The two of a base then share what stands around the blocks, and a block goes from the bare one to
the changed one: a base is read once, and one block is in a GPU's memory at a time.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from ..adapters.attach import attach
from ..adapters.streamed import Merged
from ..calibration.batches import PARTS, Batch, make_batches
from ..calibration.moments import Moments
from ..calibration.sites import READS, STREAM, normed, rms
from ..calibration.solutions import Regression
from ..calibration.walk import Caught, Walk
from ..models.blocks import Blocks, Streamed, Whole
from ..models.loading import load_base
from ..models.spec import Model
from .pair import Adapted, Pair


@dataclass(frozen=True)
class Wanted:
    """What the new model's stream should be, from the streams of all four models.

    Attributes
    ----------
    left : L (d_n, d_o), a change of the new stream from one of the old stream
    gain : γ, by which that is multiplied
    """

    left: torch.Tensor
    gain: float

    def less(self, new: torch.Tensor, change: torch.Tensor, placed: torch.Tensor) -> torch.Tensor:
        """`h_new + γ L (h_adapted − h_old) − h_placed`, (tokens, d_n); `change` is of the old."""
        new, change, placed = (each.to(self.left) for each in (new, change, placed))
        return new - placed + self.gain * change @ self.left.T


@dataclass
class Walks:
    """The four models at the same matched block.

    Attributes
    ----------
    old, adapted : the old model, bare and with its adapter merged into its weights
    new, placed : the new model, bare and with the updates placed so far
    """

    old: Walk
    adapted: Walk
    new: Walk
    placed: Walk
    batches: Sequence[Batch]
    # per batch, of the block that was reached: O(tokens · width)
    _inputs: list[Caught] = field(default_factory=list)  # of the adapted old model's modules
    _changes: list[Caught] = field(default_factory=list)  # h_adapted − h_old
    _new: list[Caught] = field(default_factory=list)
    _placed: list[Caught] = field(default_factory=list)

    def step(self, old_layer: int, layer: int) -> None:
        """Move all four on to a layer pair; the block of the first three runs here, and once.

        An old layer may serve several new ones.
        """
        self._new, self._placed = [], []  # room for the next
        # first the new side, whose placed model still has a block
        for bare, changed, to in (
            (self.new, self.placed, layer),
            (self.old, self.adapted, old_layer),
        ):
            for reached in range(changed.layer + 1, to + 1):
                bare.step(reached)
                changed.step(reached)  # takes each block over before the bare one leaves another
        targets = {name for site in STREAM.values() for name in (site, rms(site))}
        if self.old.layer == old_layer:
            self._inputs, self._changes = [], []
            old = self.old.cross(targets)
            self._inputs = self.adapted.cross(targets.union(READS.values()))
            self._changes = [_change(*both) for both in zip(old, self._inputs, strict=True)]
        self._new = self.new.cross(targets)

    def reading(self, site: str) -> tuple[Moments, Moments]:
        """Moments of the adapted old model's input and the new one's as it now is; both parts."""
        walked = zip(self.placed.seen(site), self._new, self._changes, strict=True)
        self._placed = [_kept(site, *each) for each in walked]
        sums: dict[str, Moments] = {}
        for batch, x, y in zip(self.batches, self._inputs, self._placed, strict=True):
            if batch.part not in sums:
                sums[batch.part] = _empty(x[site], y[site])
            sums[batch.part].add(x[site], y[site])
        return sums[PARTS[0]], sums[PARTS[1]]

    def missing(self, site: str, target: str, wanted: "Wanted") -> Regression:
        """Of what the new model's stream lacks at `target`, from its input at `site`, as `reading`
        of that site has just seen them.

        Where a norm stands between, what is lacking is `w ∘ (B x) / r`: the sums are of x / r, and
        w is left to the one who solves for B. A factor of the stream is multiplied into x.
        """
        total: list[torch.Tensor] = []
        for new, change, placed in zip(self._new, self._changes, self._placed, strict=True):
            error = wanted.less(new[target], change[target], placed[target])
            x = self.placed.residual * placed[site].to(error)
            if rms(target) in placed:
                x = x / placed[rms(target)].to(error)
            sums = [error.T @ x, x.T @ x, error.square().sum()]
            total = [a + b for a, b in zip(total, sums, strict=True)] if total else sums
        return Regression(total[0], total[1], float(total[2]))


def _change(old: Caught, adapted: Caught) -> Caught:
    """What the adapter does to the old model's stream, and by what it multiplies its rms."""
    sites = {site: adapted[site] - old[site] for site in STREAM.values()}
    sizes = {name: adapted[name] / old[name]
              for name in map(rms, STREAM.values()) if name in old}  # fmt: skip
    return {**sites, **sizes}


def _kept(site: str, placed: Caught, new: Caught, change: Caught) -> Caught:
    """What passes `site` and the streams of the placed model.

    Where N(y) = w ∘ y / rms(y) stands on what a module writes, a stream that lacks e wants
    `w ∘ (y + δ) / r = N(y) + e` with r the rms that y + δ is to have, so that
    `w ∘ δ / r = e + N(y) (1 − rms(y) / r)`: the last part is taken off the stream here, and r is
    kept. r is the bare new model's rms times what the adapter multiplies the old one's by; where
    the old model has no such norm, it is rms(y).
    """
    kept = {name: placed[name] for name in (site, *STREAM.values()) if name in placed}
    for target in dict.fromkeys(STREAM.values()):
        name = rms(target)
        if name in placed and target in placed:
            kept[name] = new[name] * change[name] if name in change else placed[name]
            off = placed[normed(target)] * (1 - placed[name] / kept[name])
            kept[target] = placed[target] - off
    return kept


def _empty(x: torch.Tensor, y: torch.Tensor) -> Moments:
    """Moments of no token yet, of the widths of `x` and `y`."""

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(*shape, dtype=torch.float64, device=x.device)

    old, new = x.shape[1], y.shape[1]
    return Moments(zeros(old, new), None, zeros(new, new), zeros(old), zeros(new))


def open_walks(pair: Pair, adapted: Adapted) -> Walks:
    """Open both models, and again what becomes of them, and make the texts ready.

    Where the old model writes answers, it is whole for that time, also one that is then streamed.
    """
    sides = zip((pair.old, pair.new), adapted.remote_code, adapted.streamed, strict=True)
    (old, old_tokenizer), (new, new_tokenizer) = (_open(*side, pair.device) for side in sides)
    merged: Blocks
    if isinstance(old, Streamed):
        whole = partial(_open, pair.old, adapted.remote_code[0], False, pair.device)
        texts = adapted.texts(lambda: _merged(whole()[0], adapted), old_tokenizer)
        merged = Merged(old.follower(), adapted.directory)
    else:
        merged = Whole(_merged(Whole(deepcopy(old.base)), adapted))
        texts = adapted.texts(lambda: merged.base, old_tokenizer)
    placed = new.follower() if isinstance(new, Streamed) else Whole(deepcopy(new.base))
    batches = make_batches(
        (old_tokenizer, new_tokenizer), texts, adapted.max_tokens, adapted.batch_size
    )
    return Walks(
        old=Walk(pair.old, old, batches, 0),
        adapted=Walk(pair.old, merged, batches, 0),
        new=Walk(pair.new, new, batches, 1),
        placed=Walk(pair.new, placed, batches, 1),
        batches=batches,
    )


def _merged(whole: Whole, adapted: Adapted) -> Any:
    """A model with the adapter in its weights."""
    return attach(whole.base, adapted.directory).merge_and_unload()


def _open(model: Model, remote: bool, streamed: bool, device: str) -> tuple[Any, Any]:
    """The blocks of a model in float32, and its tokenizer."""
    how: dict[str, Any] = {"device": device, "dtype": "float32", "trust_remote_code": remote}
    if streamed:
        blocks = Streamed(model, **how)
        return blocks, blocks.tokenizer
    base, tokenizer = load_base(model.directory, **how)
    return Whole(base), tokenizer


def place(base: Any, path: str, rows: Any, update: torch.Tensor) -> None:
    """Add an update (d_out, d_in) to the weight of a linear module, or to some of its rows.

    Of a streamed model the module's block is there: what it is added to goes with it.
    """
    weight = base.get_submodule(path).weight.data
    where = slice(None) if rows is None else torch.as_tensor(rows, device=weight.device)
    weight[where] += update.to(weight)
