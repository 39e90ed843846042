"""A model run one decoder block at a time over all texts, so that it need not be in memory whole,
and that a block can be changed before the next one runs.

The residual stream of every text is kept between blocks: O(tokens · d). What else a block is called
with (masks, rotary angles) is what the model's own code hands it: that code runs up to the block,
through the ones before it as through open doors. Keys and values that later blocks read as well
(Gemma 4) are kept beside the streams.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..models.blocks import Blocks, open_blocks
from ..models.spec import Model
from .batches import Batch, make_batches
from .sites import SITES, STREAM, caught_sites, written
from .streams import Streams

Caught = dict[str, torch.Tensor]  # site -> (tokens, width), of the paired tokens
# argument of a block, by transformers' name: layer type -> keys and values, (b, heads, t, h) each,
# which the type's last block that has its own leaves there for those behind it
LENT = "shared_kv_states"


@dataclass(frozen=True)
class Reached:
    """Where a walk has come to.

    Attributes
    ----------
    layer : the block that comes next
    gives_tuple : whether the model's blocks give back tuples
    streams : by batch
    lent : layer type -> keys and values that later blocks read, two a batch
    """

    layer: int
    gives_tuple: bool
    streams: Streams
    lent: dict[str, Streams]


class _Enough(Exception):
    """Raised where a forward pass has shown what was wanted of it."""


class Walk:
    """The residual stream of some texts, at the input of one block after the other.

    Attributes
    ----------
    base : the model as it runs; its weights may be changed while walking
    layer : the block that comes next
    residual : what o's and down's outputs are multiplied by on their way into the stream
    """

    def __init__(self, model: Model, blocks: Blocks, batches: Sequence[Batch], side: int):
        self.base, self.layer, self.residual = blocks.base, 0, model.residual
        self.streams = Streams()
        self._lent: dict[str, Streams] = {}  # layer type -> keys and values, two a batch
        self._model, self._blocks, self._batches, self._side = model, blocks, batches, side
        self._modules = dict(self.base.named_modules())
        names = (model.architecture.block.format(layer=n) for n in range(model.dims.layers))
        self._layers = [self._modules[name] for name in names]
        self._gives_tuple = False  # the model's blocks: as the first one has shown
        self._is_there = False  # the next block
        self._entering = torch.empty(0)  # the stream in front of the block that ran last

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
            if STREAM.get(role) == "middle":
                text, place = self._batches[number].rows[self._side].to(caught[role].device)
                caught["middle"] = self._entering[text, place] + written(caught, "middle")
            yield dict(caught)

    def through(self, *, move: bool) -> Iterator[Caught]:
        """Run the next block on one batch after the other: what passes its sites. To `move` on
        behind it, go through all batches.
        """
        for number, caught in self._catching():
            behind = self._run(number)
            if move:
                self.streams[number] = behind
            yield dict(caught)
        if move:
            self._leave()

    def outputs(self, ready: Callable[[int], None] = lambda number: None) -> Iterator[torch.Tensor]:
        """Run the next block on one batch after the other and move on: its outputs, (b, t, d).

        Parameters
        ----------
        ready : called with a batch's number before it is run, when the block is there
        """
        for number in range(len(self._batches)):
            self._enter()
            ready(number)
            behind = self._run(number)
            self.streams[number] = behind
            yield behind
        self._leave()

    @torch.no_grad()
    def given(
        self,
        ready: Callable[[int], None] = lambda number: None,
        asked: Callable[[int], Mapping[str, Any]] = lambda number: {},
    ) -> Iterator[Any]:
        """What the model gives for one batch after the other, behind its last block: its logits
        among that, by its own norm and head.

        Parameters
        ----------
        ready : as for `outputs`
        asked : what else the model is called with for a batch, from its number
        """
        for number in range(len(self._batches)):
            ready(number)
            stream = self.streams[number].to(self._blocks.device)
            output = (stream,) if self._gives_tuple else stream
            with self._opened():
                self._layers[-1].forward = lambda *args, output=output, **kwargs: output
                given = self.base(**self._inputs(number), **asked(number), use_cache=False)
            yield given

    def cross(self, sites: Collection[str]) -> list[Caught]:
        """Run the next block on all batches and move on behind it: what passed some sites of it."""
        return [
            {site: caught[site] for site in sites if site in caught}
            for caught in self.through(move=True)
        ]

    def step(self, layer: int) -> None:
        """Move the streams on to the input of a block."""
        while self.layer < layer:
            for _ in self.outputs():
                pass

    def reached(self) -> Reached:
        """What a walk needs that is to go on from here: `resume` takes it."""
        return Reached(self.layer, self._gives_tuple, self.streams, dict(self._lent))

    def resume(self, reached: Reached) -> None:
        """Go on where another walk of the same model and texts had come to."""
        self.layer, self._gives_tuple = reached.layer, reached.gives_tuple
        self.streams = reached.streams
        self._lent = dict(reached.lent)

    def _enter(self) -> None:
        if not self._is_there:
            self._blocks.take(self.layer)
            self._is_there = True

    def _leave(self) -> None:
        self._blocks.leave(self.layer)
        self.layer, self._is_there = self.layer + 1, False

    def _catching(self) -> Iterator[tuple[int, Caught]]:
        number = 0
        with caught_sites(
            self.base, self._model, self.layer, lambda: self._batches[number].rows[self._side]
        ) as caught:
            for number in range(len(self._batches)):
                yield number, caught
                caught.clear()  # room for the next

    @torch.no_grad()
    def _run(self, number: int) -> torch.Tensor:
        """The next block's output on a batch, (b, t, d)."""
        self._enter()
        stream, more, named = self._call(number)
        if self.layer:
            stream = self.streams[number].to(self._blocks.device)
        self._entering = stream
        before = self._borrowed(number)
        lent = {} if named.get(LENT) is None else named[LENT]
        lent.update(before)
        output = self._layers[self.layer](stream, *more, **named)
        for kind, both in lent.items():
            if both is not before.get(kind):
                self._lend(number, kind, both)
        self._gives_tuple = isinstance(output, tuple)
        return output[0] if self._gives_tuple else output

    def _borrowed(self, number: int) -> dict[str, tuple[torch.Tensor, ...]]:
        """Keys and values of a batch that the next block may read, if it has none of its own."""
        if self._model.dims.at(self.layer).borrows < 0:
            return {}
        device = self._blocks.device
        return {
            kind: tuple(states[2 * number + n].to(device) for n in range(2))
            for kind, states in self._lent.items()
        }

    def _lend(self, number: int, kind: str, both: tuple[torch.Tensor, ...]) -> None:
        states = self._lent.setdefault(kind, Streams())
        for n, values in enumerate(both):
            states[2 * number + n] = values

    def _call(self, number: int) -> tuple[torch.Tensor, tuple, dict[str, Any]]:
        """What the model's code calls the next block with, the stream first; that is right in front
        of the first block alone.
        """
        calls: list[tuple[tuple, dict[str, Any]]] = []

        def catch(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            """Note what the block is called with, and end the model's pass there."""
            calls.append((args, dict(kwargs)))
            raise _Enough

        handle = self._layers[self.layer].register_forward_pre_hook(catch, with_kwargs=True)
        try:
            with self._opened():
                self.base.base_model(**self._inputs(number), use_cache=False)  # without the head
        except _Enough:
            pass
        finally:
            handle.remove()
        args, named = calls[0]
        if args:
            return args[0], args[1:], named
        return named.pop("hidden_states"), (), named

    def _inputs(self, number: int) -> dict[str, torch.Tensor]:
        inputs = self._batches[number].inputs[self._side]
        return {name: values.to(self._blocks.device) for name, values in inputs.items()}

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """The blocks in front of the next one give back what they are given."""
        before = [block.__dict__.get("forward") for block in self._layers[: self.layer]]

        def passed(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            """The stream as it came, in the form that a block of this model returns."""
            return (hidden_states,) if self._gives_tuple else hidden_states

        try:
            for block in self._layers[: self.layer]:
                block.forward = passed
            yield
        finally:
            for block, own in zip(self._layers, before, strict=False):
                if own is None:
                    del block.forward
                else:
                    block.forward = own


def open_walks(
    models: tuple[Model, Model],
    texts: Sequence[str],
    settings: Mapping[str, Any],
    remote_code: Sequence[bool],
) -> tuple[tuple[Walk, Walk], list[Batch]]:
    """Walks of a pair's models side by side over texts, and the batches of them.

    Parameters
    ----------
    settings : of calibration: `stream`, `device`, `max_tokens`, `batch_size`
    remote_code : whether the old and the new model's own code may run
    """
    opened = [
        open_blocks(model, settings, own) for model, own in zip(models, remote_code, strict=True)
    ]
    blocks, tokenizers = zip(*opened, strict=True)
    batches = make_batches(tokenizers, texts, settings["max_tokens"], settings["batch_size"])
    old, new = (Walk(model, blocks[side], batches, side) for side, model in enumerate(models))
    return (old, new), batches


def side_by_side(
    walks: tuple[Walk, Walk], pairs: Sequence[tuple[int, int]], done: int = 0
) -> Iterator[tuple[tuple[int, int], list[Iterator[Caught]]]]:
    """Bring two walks to one layer pair after the other: the pair, and for each side what passes
    its block, batch by batch.

    Parameters
    ----------
    pairs : (old, new) layers, neither falling: a block may be run again for the next pair
    done : pairs that are left out: the walks are behind them
    """
    for place, pair in enumerate(pairs[done:], done):
        following = pairs[place + 1] if place + 1 < len(pairs) else pair
        passing = []
        for walk, layer, after in zip(walks, pair, following, strict=True):
            walk.step(layer)
            passing.append(walk.through(move=after != layer))
        yield pair, passing
