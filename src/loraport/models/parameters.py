"""Parameters of a model as torch has them, from the tensors of its checkpoint.

Of a mixture of experts the model has one parameter for all experts, and its checkpoint a tensor for
each, or numbers of four bits with their scales.
"""

from collections.abc import Sequence

import ml_dtypes
import numpy as np
import torch

from .spec import Model
from .weights import Checkpoint

# MXFP4: sign, two bits of exponent and one of mantissa; 32 numbers share a power of two
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
BLOCKS, SCALES, BIAS = "_blocks", "_scales", 127


def read_tensor(checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> torch.Tensor:
    """A tensor of a checkpoint in another dtype, in memory of torch's own."""
    values = checkpoint.read_raw(name)
    bits = values.dtype == ml_dtypes.bfloat16  # which torch takes as its bits alone
    stored = torch.from_numpy(values.view(np.int16) if bits else values)
    stored = stored.view(torch.bfloat16) if bits else stored
    return torch.empty(stored.shape, dtype=dtype).copy_(stored)


def read_parts(
    checkpoint: Checkpoint, parts: Sequence[str], experts: int, dtype: torch.dtype
) -> torch.Tensor:
    """A parameter from the tensors that a family's `stored` names.

    Memory: the parameter, and one of the tensors.
    """
    if parts[0].endswith(BLOCKS):
        blocks, scales = (checkpoint.read_raw(name) for name in parts)
        return unpack_mxfp4(blocks, scales, dtype)
    if "{expert}" not in parts[0]:
        return read_tensor(checkpoint, parts[0], dtype)
    rows, columns = checkpoint.shape(parts[0].format(expert=0))
    whole = torch.empty(experts, rows * len(parts), columns, dtype=dtype)
    for expert in range(experts):
        for place, part in enumerate(parts):
            values = read_tensor(checkpoint, part.format(expert=expert), dtype)
            whole[expert, place * rows : (place + 1) * rows] = values
    return whole


def read_parameter(model: Model, layer: int, name: str) -> torch.Tensor:
    """A parameter, float32, in whatever form the checkpoint has it; `name` is below the block."""
    checkpoint, family = model.checkpoint(), model.architecture
    path = family.path(layer, name)
    if path not in checkpoint and name in family.stored:
        parts = [family.path(layer, part) for part in family.stored[name]]
        return read_parts(checkpoint, parts, model.dims.experts, torch.float32)
    return read_tensor(checkpoint, path, torch.float32)


def has_parameter(model: Model, layer: int, name: str) -> bool:
    """Whether a checkpoint has a parameter of a block, in whatever form."""
    checkpoint, family = model.checkpoint(), model.architecture
    names = (name, *(part.format(expert=0) for part in family.stored.get(name, ())[:1]))
    return any(family.path(layer, each) in checkpoint for each in names)


def unpack_mxfp4(blocks: np.ndarray, scales: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """What MXFP4 stands for, (experts, in, out): exact in bfloat16.

    Parameters
    ----------
    blocks : (experts, out, in / 32, 16) bytes, two numbers each, the lower four bits first
    scales : (experts, out, in / 32) exponents of two, 127 for one
    """
    experts, out = scales.shape[:2]
    table = torch.tensor([*FP4, *(-number for number in FP4)], dtype=dtype)
    whole = torch.empty(experts, scales.shape[2] * 32, out, dtype=dtype)
    for expert in range(experts):
        codes = torch.from_numpy(blocks[expert])
        numbers = torch.stack([table[(codes & 15).int()], table[(codes >> 4).int()]], dim=-1)
        exponents = torch.from_numpy(scales[expert].astype(np.int32) - BIAS)
        meant = torch.ldexp(numbers.flatten(-2), exponents[..., None])
        whole[expert] = meant.to(dtype).reshape(out, -1).T
    return whole
