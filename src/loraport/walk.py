"""A model run one decoder block at a time, so that a block can be changed before the next one runs.

The residual stream of every text is kept between blocks: O(tokens · d) memory, and a whole walk
costs about one forward pass for each time that a block is run. What else a block is called with
(masks, rotary angles) is caught in one forward pass beforehand.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from .moments import Batch, caught_sites
from .spec import Model


class Walk:
    """The residual stream of some texts, at the input of one block after the other.

    Attributes
    ----------
    base : the model as it runs; its weights may be changed while walking
    layer : the block that comes next
    """

    def __init__(self, model: Model, base: Any, batches: Sequence[Batch], side: int):
        self.base, self.layer = base, 0
        self._model, self._batches, self._side = model, batches, side
        modules = dict(base.named_modules())
        names = (model.architecture.block.format(layer=n) for n in range(model.dims.layers))
        self._blocks = [modules[name] for name in names]
        self._streams: list[torch.Tensor] = []
        self._calls: list[list[tuple[tuple, dict[str, Any]]]] = []
        for batch in batches:
            self._start(batch)

    @torch.no_grad()
    def _start(self, batch: Batch) -> None:
        calls: list[tuple[tuple, dict[str, Any]]] = []

        def catch(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            if not calls:
                self._streams.append(args[0] if args else kwargs["hidden_states"])
            kept = {key: value for key, value in kwargs.items() if key != "hidden_states"}
            calls.append((args[1:], kept))

        handles = [
            block.register_forward_pre_hook(catch, with_kwargs=True) for block in self._blocks
        ]
        inputs = {
            key: value.to(self.base.device) for key, value in batch.inputs[self._side].items()
        }
        self.base(**inputs, use_cache=False)
        for handle in handles:
            handle.remove()
        self._calls.append(calls)

    def seen(self) -> Iterator[dict[str, torch.Tensor]]:
        """Run the next block on one batch after the other: site -> (tokens, width), paired tokens.

        The stream stays where it is.
        """
        batch = 0
        with caught_sites(
            self.base, self._model, self.layer, lambda: self._batches[batch].rows[self._side]
        ) as caught:
            for batch in range(len(self._batches)):
                self._run(batch)
                yield dict(caught)

    def step(self, layer: int) -> None:
        """Move the streams on to the input of a block."""
        while self.layer < layer:
            self._streams = [self._run(batch) for batch in range(len(self._batches))]
            self.layer += 1

    @torch.no_grad()
    def _run(self, batch: int) -> torch.Tensor:
        more, named = self._calls[batch][self.layer]
        output = self._blocks[self.layer](self._streams[batch], *more, **named)
        return output[0] if isinstance(output, tuple) else output
