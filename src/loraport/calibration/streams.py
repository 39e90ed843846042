"""The residual streams of many texts between two blocks: in memory as far as they fit."""

import tempfile
from pathlib import Path

import numpy as np
import torch

IN_MEMORY = 8 << 30  # bytes of streams of one walk; what is beyond lies in files


class Streams:
    """Tensors by number, on the CPU.

    Parameters
    ----------
    limit : bytes in memory; where more are held, those that come last lie in a temporary folder
    """

    def __init__(self, limit: int | None = None):
        self._limit = IN_MEMORY if limit is None else limit
        self._held: dict[int, torch.Tensor] = {}
        self._on_disk: dict[int, tuple[torch.Size, torch.dtype]] = {}
        self._folder: tempfile.TemporaryDirectory | None = None

    def __len__(self) -> int:
        return len(self._held) + len(self._on_disk)

    def __getitem__(self, number: int) -> torch.Tensor:
        if number in self._held:
            return self._held[number]
        shape, dtype = self._on_disk[number]
        read = torch.from_numpy(np.fromfile(self._path(number), np.uint8))
        return torch.empty(shape, dtype=dtype).copy_(read.view(dtype).view(shape))

    def __setitem__(self, number: int, values: torch.Tensor) -> None:
        values = values.cpu()
        self._held.pop(number, None)
        if sum(each.nbytes for each in self._held.values()) + values.nbytes <= self._limit:
            self._on_disk.pop(number, None)
            self._held[number] = values
            return
        self._on_disk[number] = values.shape, values.dtype
        bits(values).tofile(self._path(number))

    def _path(self, number: int) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="loraport-streams-")
        return Path(self._folder.name, str(number))


def bits(values: torch.Tensor) -> np.ndarray:
    """The bytes of a tensor, (its bytes,) uint8."""
    return values.contiguous().view(-1).view(torch.uint8).numpy()
