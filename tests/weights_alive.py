"""How much of a model's weights is in memory."""

import weakref

import torch


class Counted:
    """Bytes of tensors that were made of weights and are alive, and the most there ever were."""

    def __init__(self):
        self.alive, self.most = 0, 0

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        self.alive += tensor.nbytes
        self.most = max(self.most, self.alive)
        weakref.finalize(tensor.untyped_storage(), self._gone, tensor.nbytes)
        return tensor

    def _gone(self, count: int) -> None:
        self.alive -= count
