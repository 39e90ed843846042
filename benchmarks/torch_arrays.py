"""What literal_side.py needs of CuPy, by torch: arrays on a GPU that NumPy's functions accept."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch


class Array(torch.Tensor):
    """A tensor that the functions in FUNCTIONS accept when NumPy is asked for them."""

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return FUNCTIONS[function](*args, **kwargs)

    def __array_ufunc__(self, function: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        return FUNCTIONS[function](*args, **kwargs)

    def astype(self, dtype: Any) -> "Array":
        assert dtype is np.float64, "the literal algorithm is in float64"
        return self.double()


FUNCTIONS = {
    np.linalg.pinv: torch.linalg.pinv,
    np.linalg.norm: torch.linalg.norm,
    np.linalg.svd: lambda matrix, full_matrices: torch.linalg.svd(
        matrix, full_matrices=full_matrices
    ),
    np.concatenate: torch.cat,
    np.repeat: lambda values, count, axis: torch.repeat_interleave(values, count, dim=axis),
    np.zeros_like: torch.zeros_like,
    np.sqrt: torch.sqrt,
}


def asarray(values: np.ndarray) -> Array:
    """A copy on the GPU."""
    return torch.from_numpy(values).cuda().as_subclass(Array)


def asnumpy(values: Array) -> np.ndarray:
    """A copy on the host."""
    return values.as_subclass(torch.Tensor).cpu().numpy()


def get_default_memory_pool() -> SimpleNamespace:
    """With the most that torch has held."""
    return SimpleNamespace(total_bytes=torch.cuda.max_memory_reserved)


cuda = SimpleNamespace(Device=lambda: SimpleNamespace(synchronize=torch.cuda.synchronize))
