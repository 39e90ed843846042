"""Adapters on a model that is streamed: in memory whole, while the model's blocks come and go."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..models.blocks import Streamed
from .attach import attach


def attach_streamed(blocks: Streamed, directory: str | Path) -> None:
    """Put an adapter on a streamed model, whose errors are those of `attach`."""
    with blocks.standing_in():
        attach(blocks.base, directory).eval()


class Merged:
    """A streamed model with an adapter in its weights: in those of a block while it is there.

    What an adapter does to the head, which is not there, is left out. A weight around the blocks
    that the adapter changes is a copy: a model that is followed keeps its own.

    Attributes
    ----------
    base, device : as of `models.blocks.Blocks`
    """

    def __init__(self, blocks: Streamed, directory: str | Path):
        attach_streamed(blocks, directory)
        self.base, self.device, self._blocks = blocks.base, blocks.device, blocks
        for layer in _layers(self.base):
            held = list(layer.get_base_layer().parameters())
            if not any(weight.is_meta for weight in held):
                for weight in held:
                    weight.data = weight.data.clone()
                layer.merge()

    def take(self, layer: int) -> None:
        """Put a block's weights in place, the adapter's updates added."""
        self._blocks.take(layer)
        for each in _layers(self._blocks.block(layer)):
            each.merge()

    def leave(self, layer: int) -> None:
        """Let a block's weights go; the adapter's stay."""
        for each in _layers(self._blocks.block(layer)):
            each.merged_adapters = []
        self._blocks.leave(layer)


def _layers(module: Any) -> Iterator[Any]:
    """PEFT's layers in a module."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return (each for each in module.modules() if isinstance(each, BaseTunerLayer))
