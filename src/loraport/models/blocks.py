"""A model's decoder blocks, all in memory or one at a time, for passes over fixed texts.

Where they are streamed, the model is built without weights. What stands around its blocks is read
once, and stays: the input embedding, and norms; the head is left out unless it is asked for. A
block is filled when its turn comes and let go behind it; a thread reads the next one while it runs,
so that two blocks are in memory, one of them beside the GPU where one computes. A second copy of a
model may follow the first: a block goes from the one to the other, and is read once for both.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy, deepcopy
from typing import Any, Protocol

import torch

from ..runtime.device import pick_device
from .loading import choose_dtype, load_base, load_empty
from .parameters import read_parts, read_tensor
from .spec import Model
from .streaming import is_streamed

Tensors = dict[str, torch.Tensor]


class Blocks(Protocol):
    """A model whose blocks are there between `take` and `leave`.

    Attributes
    ----------
    base : of transformers; none of its modules is ever exchanged
    device : where its inputs go
    """

    base: Any
    device: torch.device

    def take(self, layer: int) -> None:
        """See to it that a block's weights are in memory, before it runs."""

    def leave(self, layer: int) -> None:
        """The block has run, and its weights may go."""


class Whole:
    """A model that is in memory."""

    def __init__(self, base: Any):
        self.base, self.device = base, base.device

    def take(self, layer: int) -> None:
        """The block is there."""

    def leave(self, layer: int) -> None:
        """It stays."""


class Streamed:
    """A model of which one block is in memory at a time.

    Its modules may be wrapped once it is made, as PEFT wraps those that it adapts: a weight goes to
    the module that had its place from the start.

    Parameters
    ----------
    dtype : of its weights, as for `loading.load_base`
    head : whether the head is there as well, so that the model gives logits

    Attributes
    ----------
    tokenizer : with a pad token
    """

    def __init__(
        self,
        model: Model,
        *,
        dtype: str = "auto",
        device: str = "auto",
        trust_remote_code: bool = False,
        head: bool = False,
    ):
        self.device = torch.device(pick_device(device))
        kind = choose_dtype(dtype, self.device.type)
        self.base, self.tokenizer = load_empty(
            model.directory, kind, trust_remote_code=trust_remote_code
        )
        self._model, self._checkpoint = model, model.checkpoint()
        self._places = [_places(self.block(layer)) for layer in range(model.dims.layers)]
        self._empty: dict[int, Tensors] = {}  # of the blocks in use, what stood there before
        self._reader = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[Tensors]] | None = None
        self._ahead: Streamed | None = None  # whose blocks this one takes over
        self._followed = False
        self._left: tuple[int, Tensors] | None = None  # the block that was left last, if followed
        for module in self.base.modules():
            for name, values in module._buffers.items():
                module._buffers[name] = None if values is None else values.to(self.device)
        self._fill_around()
        if head:
            self._fill_head()

    def follower(self) -> "Streamed":
        """A copy of the model, which shares with this one what stands around the blocks, and takes
        over a block that this one has left.

        Each block is this one's before it is the copy's, and the copy is to take it before this one
        leaves the next: a block that comes otherwise is read again. Blocks of the copy are its own
        and may be changed. What stands around them is not: one who changes a weight there gives it
        other memory first. Make the copy before this model is wrapped.
        """
        memo = {
            id(weight): torch.nn.Parameter(weight.detach(), weight.requires_grad)
            for weight in self.base.parameters()
        }
        other = copy(self)
        other.base = deepcopy(self.base, memo)
        other._places = [_places(other.block(layer)) for layer in range(len(self._places))]
        other._empty, other._next, other._left = {}, None, None
        other._ahead, other._followed, self._followed = self, False, True
        return other

    def take(self, layer: int) -> None:
        """Put a block's weights in place, and begin to read the next one's."""
        if self._ahead:
            tensors = self._ahead._give(layer) or self._read_block(layer)
            self._fill(layer, tensors)
            return
        expected, reading = self._next or (layer, None)
        self._next = None
        tensors = reading.result() if reading and expected == layer else self._read_block(layer)
        del reading
        self._fill(layer, tensors)
        if layer + 1 < self._model.dims.layers:
            self._next = layer + 1, self._reader.submit(self._read_block, layer + 1)

    def leave(self, layer: int) -> None:
        """Let a block's weights go, to the copy that follows where there is one."""
        if self._followed:
            there = {k: getattr(*place).detach() for k, place in self._places[layer].items()}
            self._left = layer, there
        self._put(layer, self._empty.pop(layer))

    def block(self, layer: int) -> torch.nn.Module:
        """A block, whether its weights are there or not."""
        return self.base.get_submodule(self._model.architecture.block.format(layer=layer))

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """Meanwhile each weight of the blocks is there by its device, dtype and shape, a zero that
        takes no memory, for one who wraps modules and goes by those.
        """
        empty = [self._weights(layer) for layer in range(len(self._places))]
        for layer, weights in enumerate(empty):
            zeros = {
                name: torch.zeros((), dtype=like.dtype, device=self.device).expand(like.shape)
                for name, like in weights.items()
            }
            self._put(layer, zeros)
        try:
            yield
        finally:
            for layer, weights in enumerate(empty):
                self._put(layer, weights)

    def _give(self, layer: int) -> Tensors:
        """Hand over a block that was left last; nothing of any other."""
        if self._left is None or self._left[0] != layer:
            return {}
        tensors, self._left = self._left[1], None
        return tensors

    def _fill(self, layer: int, tensors: Tensors) -> None:
        """Put a block's weights in place; of what is moved to a device `tensors` keeps nothing."""
        self._empty[layer] = self._weights(layer)
        on_device = {name: tensors.pop(name).to(self.device) for name in tuple(tensors)}
        self._put(layer, on_device)

    def _weights(self, layer: int) -> Tensors:
        """What stands where a block's weights belong, by their names below it."""
        return {
            name: getattr(module, own)
            for name, (module, own) in self._places[layer].items()
            if own in module._parameters
        }

    def _put(self, layer: int, tensors: Tensors) -> None:
        for name, values in tensors.items():
            module, own = self._places[layer][name]
            module.load_state_dict({own: values}, strict=False, assign=True)

    def _read_block(self, layer: int) -> Tensors:
        places = self._places[layer]
        prefix = f"{self._model.architecture.block.format(layer=layer)}."
        stored = {name: getattr(module, own) for name, (module, own) in places.items()}
        return dict(self._read(prefix, self._weights(layer), stored))

    def _read(
        self, prefix: str, weights: Mapping[str, torch.Tensor], stored: Mapping[str, torch.Tensor]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Tensors of a module; of those that are no weights what the checkpoint has."""
        family, experts = self._model.architecture, self._model.dims.experts
        for name, like in stored.items():
            if f"{prefix}{name}" not in self._checkpoint and name in family.stored:
                parts = [f"{prefix}{part}" for part in family.stored[name]]
                yield name, read_parts(self._checkpoint, parts, experts, like.dtype)
            elif name in weights or f"{prefix}{name}" in self._checkpoint:
                yield name, read_tensor(self._checkpoint, f"{prefix}{name}", like.dtype)

    def _fill_around(self) -> None:
        """Read what stands around the blocks, and is not another part of the model."""
        family = self._model.architecture
        outside = [f"{family.block.partition('{')[0]}", *(f"{part}." for part in family.beside)]
        outside.append(f"{family.head}.")

        def around(held: Mapping[str, torch.Tensor]) -> Tensors:
            return {k: v for k, v in held.items() if not k.startswith(tuple(outside))}

        weights = around(dict(self.base.named_parameters(remove_duplicate=False)))
        tensors = self._read("", weights, around(self.base.state_dict()))
        on_device = {name: values.to(self.device) for name, values in tensors}
        self.base.load_state_dict(on_device, strict=False, assign=True)

    def _fill_head(self) -> None:
        """Read the head. One that is tied is the embedding, unless the checkpoint has another."""
        path = self._model.architecture.head
        head, embedding = self.base.get_submodule(path), self.base.get_input_embeddings().weight
        weights = dict(head.named_parameters())
        if self._model.tied and f"{path}.weight" not in self._checkpoint:
            del weights["weight"]
        own = dict(self._read(f"{path}.", weights, {k: weights[k] for k in weights}))
        own = {name: values.to(self.device) for name, values in own.items()}
        tied = own.get("weight")
        if self._model.tied and (tied is None or torch.equal(tied, embedding)):
            own.pop("weight", None)
            head.weight = embedding
        head.load_state_dict(own, strict=False, assign=True)


def _places(block: torch.nn.Module) -> dict[str, tuple[torch.nn.Module, str]]:
    """Where what a block's state holds belongs: name below the block -> module, name there."""
    places = {}
    for path, module in block.named_modules():
        for own in (*module._parameters, *module._buffers):
            if getattr(module, own) is not None and own not in module._non_persistent_buffers_set:
                places[f"{path}.{own}" if path else own] = module, own
    return places


def open_blocks(
    model: Model, settings: Mapping[str, Any], trust_remote_code: bool
) -> tuple[Blocks, Any]:
    """A model's blocks and its tokenizer, by the calibration settings `device`, `stream` and
    `device_map`.
    """
    if is_streamed(settings, trust_remote_code):
        streamed = Streamed(model, device=settings["device"], trust_remote_code=trust_remote_code)
        return streamed, streamed.tokenizer
    base, tokenizer = load_base(
        model.directory,
        device=settings["device"],
        device_map=settings.get("device_map", ""),
        trust_remote_code=trust_remote_code,
    )
    return Whole(base), tokenizer
