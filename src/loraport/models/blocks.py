"""A model's decoder blocks, all in memory or one at a time, for passes over fixed texts.

Where they are streamed, the model is built without weights. What stands around its blocks is read
once, and stays: the input embedding, and norms; the head is left out. A block is filled when its
turn comes and let go behind it; a thread reads the next one while it runs, so that two blocks are
in memory, one of them beside the GPU where one computes.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
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

    def take(self, layer: int) -> None: ...

    def leave(self, layer: int) -> None: ...


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

    Parameters
    ----------
    dtype : of its weights, as for `loading.load_base`

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
    ):
        self.device = torch.device(pick_device(device))
        kind = choose_dtype(dtype, self.device.type)
        self.base, self.tokenizer = load_empty(
            model.directory, kind, trust_remote_code=trust_remote_code
        )
        self._model, self._checkpoint = model, model.checkpoint()
        self._empty: dict[int, Tensors] = {}  # of the blocks in use, what stood there before
        self._reader = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[Tensors]] | None = None
        for module in self.base.modules():
            for name, values in module._buffers.items():
                module._buffers[name] = None if values is None else values.to(self.device)
        self._fill_around()

    def take(self, layer: int) -> None:
        """Put a block's weights in place, and begin to read the next one's."""
        expected, reading = self._next or (layer, None)
        self._next = None
        tensors = reading.result() if reading and expected == layer else self._read_block(layer)
        block = self._block(layer)
        self._empty[layer] = dict(block.named_parameters())
        on_device = {name: values.to(self.device) for name, values in tensors.items()}
        del tensors, reading
        block.load_state_dict(on_device, strict=False, assign=True)
        if layer + 1 < self._model.dims.layers:
            self._next = layer + 1, self._reader.submit(self._read_block, layer + 1)

    def leave(self, layer: int) -> None:
        """Let a block's weights go."""
        self._block(layer).load_state_dict(self._empty.pop(layer), strict=False, assign=True)

    def _block(self, layer: int) -> torch.nn.Module:
        return self.base.get_submodule(self._model.architecture.block.format(layer=layer))

    def _read_block(self, layer: int) -> Tensors:
        block = self._block(layer)
        prefix = f"{self._model.architecture.block.format(layer=layer)}."
        return dict(self._read(prefix, dict(block.named_parameters()), block.state_dict()))

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
