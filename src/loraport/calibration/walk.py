"""A model run one decoder block at a time, so that a block can be changed before the next one runs.

The residual stream of every text is kept between blocks: O(tokens · d) memory. What else a block is
called with (masks, rotary angles) is caught beforehand, in one pass that runs the first one alone.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch

from ..models.spec import Model
from .batches import Batch
from .sites import SITES, caught_sites, written

Caught = dict[str, torch.Tensor]  # site -> (tokens, width), of the paired tokens


class _Enough(Exception):
    """Raised behind the last module of a block that is wanted."""


class Walk:
    """The residual stream of some texts, at the input of one block after the other.

    Attributes
    ----------
    base : the model as it runs; its weights may be changed while walking
    layer : the block that comes next
    residual : what o's and down's outputs are multiplied by on their way into the stream
    """

    def __init__(self, model: Model, base: Any, batches: Sequence[Batch], side: int):
        self.base, self.layer = base, 0
        self.residual = model.residual
        self._model, self._batches, self._side = model, batches, side
        self._modules = dict(base.named_modules())
        names = (model.architecture.block.format(layer=n) for n in range(model.dims.layers))
        self._blocks = [self._modules[name] for name in names]
        self._streams: list[torch.Tensor] = []
        self._calls: list[list[tuple[tuple, dict[str, Any]]]] = []
        for batch in batches:
            self._start(batch)

    @torch.no_grad()
    def _start(self, batch: Batch) -> None:
        """Catch the stream at the first block, and what every block is called with."""
        calls: list[tuple[tuple, dict[str, Any]]] = []

        def catch(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            if not calls:
                self._streams.append(args[0] if args else kwargs["hidden_states"])
            kept = {key: value for key, value in kwargs.items() if key != "hidden_states"}
            calls.append((args[1:], kept))

        first: list[Any] = []

        def keep(module: Any, inputs: Any, output: Any) -> None:
            first.append(output)

        handles = [
            block.register_forward_pre_hook(catch, with_kwargs=True) for block in self._blocks
        ]
        handles.append(self._blocks[0].register_forward_hook(keep))
        for block in self._blocks[1:]:
            block.forward = lambda *args, **kwargs: first[0]
        inputs = {
            key: value.to(self.base.device) for key, value in batch.inputs[self._side].items()
        }
        try:
            self.base.base_model(**inputs, use_cache=False)  # without the head
        finally:
            for block in self._blocks[1:]:
                del block.forward
            for handle in handles:
                handle.remove()
        self._calls.append(calls)

    def seen(self, site: str) -> Iterator[Caught]:
        """Run the next block on one batch after the other, as far as the modules that read `site`:
        what passes the sites until there, with what the stream is behind them where they write into
        it. The streams stay where they are.
        """
        family, role = self._model.architecture, SITES[site][0]
        module = family.output_norms.get(role, family.module_of(role))
        last = self._modules[family.path(self.layer, module)]

        def stop(module: Any, inputs: Any, output: Any) -> None:
            if role != "down":  # the block's last one
                raise _Enough

        for number, caught in self._catching():
            handle = last.register_forward_hook(stop)
            try:
                self._run(number)
            except _Enough:
                pass
            finally:
                handle.remove()
            if role == "o":
                text, place = self._batches[number].rows[self._side].to(caught["o"].device)
                stream = self._streams[number][text, place]
                caught["middle"] = stream + written(caught, "middle")
            yield dict(caught)

    def cross(self, sites: Collection[str]) -> list[Caught]:
        """Run the next block on all batches and move on behind it: what passed some sites of it."""
        passed = []
        for number, caught in self._catching():
            self._streams[number] = self._run(number)
            passed.append({site: caught[site] for site in sites if site in caught})
        self.layer += 1
        return passed

    def step(self, layer: int) -> None:
        """Move the streams on to the input of a block."""
        while self.layer < layer:
            self._streams = [self._run(batch) for batch in range(len(self._batches))]
            self.layer += 1

    def _catching(self) -> Iterator[tuple[int, Caught]]:
        number = 0
        with caught_sites(
            self.base, self._model, self.layer, lambda: self._batches[number].rows[self._side]
        ) as caught:
            for number in range(len(self._batches)):
                yield number, caught

    @torch.no_grad()
    def _run(self, batch: int) -> torch.Tensor:
        more, named = self._calls[batch][self.layer]
        output = self._blocks[self.layer](self._streams[batch], *more, **named)
        return output[0] if isinstance(output, tuple) else output
