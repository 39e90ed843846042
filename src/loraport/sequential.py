"""Sums for sequential alignment: four models walked side by side, block by block.

The old model with and without its adapter, the new model without one and with what has been placed
in it so far. What a later module is to do depends on what the earlier ones made of theirs.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from .methods import Adapted, Pair
from .models import attach, load_base
from .moments import PARTS, Batch, Moments, make_batches
from .ridge import Regression
from .walk import Walk


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

    def less(
        self, old: torch.Tensor, adapted: torch.Tensor, new: torch.Tensor, placed: torch.Tensor
    ) -> torch.Tensor:
        """`h_new + γ L (h_adapted − h_old) − h_placed`, (tokens, d_n)."""
        old, adapted, new, placed = (each.to(self.left) for each in (old, adapted, new, placed))
        return new - placed + self.gain * (adapted - old) @ self.left.T


@dataclass
class Walks:
    """The four models at the input of the same matched block.

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

    def step(self, old_layer: int, layer: int) -> None:
        """Move all four on to a layer pair."""
        for walk, to in ((self.old, old_layer), (self.adapted, old_layer), (self.new, layer),
                         (self.placed, layer)):  # fmt: skip
            walk.step(to)

    def reading(self, site: str) -> tuple[Moments, Moments]:
        """Moments of the adapted old model's input and the new one's as it now is; both parts."""
        sums: dict[str, Moments] = {}
        seen = zip(self.batches, self.adapted.seen(), self.placed.seen(), strict=True)
        for batch, x, y in seen:
            if batch.part not in sums:
                sums[batch.part] = _empty(x[site], y[site])
            sums[batch.part].add(x[site], y[site])
        return sums[PARTS[0]], sums[PARTS[1]]

    def missing(self, site: str, target: str, wanted: "Wanted") -> Regression:
        """Of what the new model's stream lacks at `target`, from its input at `site`."""
        total: list[torch.Tensor] = []
        walks = zip(*(walk.seen() for walk in (self.old, self.adapted, self.new, self.placed)),
                    strict=True)  # fmt: skip
        for old, adapted, new, placed in walks:
            error = wanted.less(*(each[target] for each in (old, adapted, new, placed)))
            x = placed[site].to(error)
            found = [error.T @ x, x.T @ x, error.square().sum()]
            total = [a + b for a, b in zip(total, found, strict=True)] if total else found
        return Regression(total[0], total[1], float(total[2]))


def _empty(x: torch.Tensor, y: torch.Tensor) -> Moments:
    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(*shape, dtype=torch.float64, device=x.device)

    old, new = x.shape[1], y.shape[1]
    return Moments(zeros(old, new), None, zeros(new, new), zeros(old), zeros(new))


def open_walks(pair: Pair, adapted: Adapted) -> Walks:
    """Load both models, the old one's adapter merged into a copy, and make the texts ready."""
    loaded = [
        load_base(model.directory, device=pair.device, dtype="float32", trust_remote_code=remote)
        for model, remote in zip((pair.old, pair.new), adapted.remote_code, strict=True)
    ]
    (old, old_tokenizer), (new, new_tokenizer) = loaded
    merged = attach(deepcopy(old), adapted.directory).merge_and_unload()
    texts = adapted.texts(merged, old_tokenizer)
    batches = make_batches(
        (old_tokenizer, new_tokenizer), texts, adapted.max_tokens, adapted.batch_size
    )
    return Walks(
        old=Walk(pair.old, old, batches, 0),
        adapted=Walk(pair.old, merged, batches, 0),
        new=Walk(pair.new, new, batches, 1),
        placed=Walk(pair.new, deepcopy(new), batches, 1),
        batches=batches,
    )


def place(base: Any, path: str, rows: Any, update: torch.Tensor) -> None:
    """Add an update (d_out, d_in) to the weight of a linear module, or to some of its rows."""
    weight = base.get_submodule(path).weight.data
    where = slice(None) if rows is None else torch.as_tensor(rows, device=weight.device)
    weight[where] += update.to(weight)
