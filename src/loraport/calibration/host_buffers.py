"""Memory of the machine that sums come to from a GPU, kept from one layer pair to the next.

Fresh memory costs a page fault for every 4 KiB, and a GPU copies to and from memory that may be
swapped out at a small part of the bus's speed: of a 13B → 70B pair that is 34 GiB for each layer
pair. The memory here is taken once, and locked for a GPU where the driver does that.
"""

from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial
from typing import Any

import torch

# bytes of a buffer from which it is locked: the C library gives one of that size pages of its own,
# and pages can be locked once
LOCKED_FROM_BYTES = 64 << 20


def locked(values: torch.Tensor, device: torch.device) -> Callable[[], Any] | None:
    """Lock the pages of a tensor on the CPU, so that a GPU copies at the speed of the bus: what
    unlocks them, or None where the driver refuses.

    Memory that torch itself locks (`pin_memory`) comes in powers of two: 8 GiB for 6.1.
    """
    with torch.cuda.device(device):
        runtime = torch.cuda.cudart()
        if int(runtime.cudaHostRegister(values.data_ptr(), values.nbytes, 0)) == 0:
            return partial(runtime.cudaHostUnregister, values.data_ptr())
        with suppress(RuntimeError):  # CUDA tells of it whoever starts work next: not a fit
            torch.ones(1, device=device)
    return None


class HostBuffers:
    """Buffers by name, each as large as the largest that was copied to it.

    Parameters
    ----------
    device : that copies to them and from them
    """

    def __init__(self, device: str):
        self._device = torch.device(device)
        self._locks = self._device.type == "cuda"  # as long as the driver does it
        self._held: dict[Hashable, torch.Tensor] = {}
        self._unlock: dict[Hashable, Callable[[], Any]] = {}

    def copied(self, name: Hashable, values: torch.Tensor) -> torch.Tensor:
        """A copy of float64 values, in the place of the one before by that name, which is lost."""
        held = self._held.get(name)
        if held is None or len(held) < values.numel():
            del held
            self._drop(name)
            held = self._held[name] = self._new(name, values.numel())
        return held[: values.numel()].view(values.shape).copy_(values)

    def close(self) -> None:
        """Keep no buffer; copies that are still in use stay as they are, no longer locked."""
        for name in list(self._held):
            self._drop(name)

    def _new(self, name: Hashable, count: int) -> torch.Tensor:
        buffer = torch.empty(count, dtype=torch.float64)
        if self._locks and buffer.nbytes >= LOCKED_FROM_BYTES:
            unlock = locked(buffer, self._device)
            self._locks = unlock is not None
            if unlock is not None:
                self._unlock[name] = unlock
        return buffer

    def _drop(self, name: Hashable) -> None:
        if name in self._unlock:  # while the memory is still there
            self._unlock.pop(name)()
        self._held.pop(name, None)
