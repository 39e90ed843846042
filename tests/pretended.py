"""A GPU that is none: tensors that say they are on one and are computed on the CPU.

Code that serves a GPU runs on any machine this way, and an operation on tensors of two devices is
refused as a GPU refuses it. The device is called `meta`, as torch's builds without CUDA know it;
factories take it in the thread that entered `GPU()`.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

NAME = "meta"
aten = torch.ops.aten
MOVES = (aten._to_copy.default, aten.copy_.default)  # from one device to another
INDEXED = (aten.index.Tensor, aten.index_put_.default)  # by indices that may lie on the CPU


class OnGPU(torch.Tensor):
    """A tensor that says it is on the GPU; `held` has its numbers."""

    is_cuda = True

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device=torch.device(NAME),
        )  # fmt: skip

    def __init__(self, held: torch.Tensor):
        self.held = held

    def __repr__(self):
        return f"OnGPU({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


class GPU(TorchDispatchMode):
    """While it is entered, there is the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def run(func, args, kwargs):
    """An operation, on the CPU; what it gives is where a GPU would have it."""
    given, _ = tree_flatten((args, kwargs))
    there = [each for each in given if isinstance(each, OnGPU)]
    here = [each for each in given if type(each) is torch.Tensor and each.dim()]
    if there and here and func not in (*MOVES, *INDEXED):
        raise RuntimeError(f"{func}: tensors on the CPU and on the GPU")
    asked = kwargs.get("device")
    on_gpu = torch.device(asked).type == NAME if asked is not None else bool(there)
    if func is aten.copy_.default:
        on_gpu = isinstance(args[0], OnGPU)
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    wrappers = {id(each.held): each for each in there}
    args, kwargs = tree_map(lambda x: x.held if isinstance(x, OnGPU) else x, (args, kwargs))
    if func is aten.linalg_lu_factor_ex.default and kwargs.get("pivot") is False:
        made = unpivoted(args[0])  # which a CPU does not offer
    else:
        made = func(*args, **kwargs)

    def placed(value):
        if not isinstance(value, torch.Tensor) or not on_gpu:
            return value
        return wrappers[id(value)] if id(value) in wrappers else OnGPU(value)

    return tree_map(placed, made)


def unpivoted(matrix):
    """L and U of a square matrix without a change of rows, in one; no pivots; no failure."""
    made = matrix.clone()
    for k in range(len(made) - 1):
        made[k + 1 :, k] /= made[k, k]
        made[k + 1 :, k + 1 :] -= torch.outer(made[k + 1 :, k], made[k, k + 1 :])
    none = torch.empty(0, dtype=torch.int32)
    return made, none, none
