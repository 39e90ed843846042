"""Matrices of maps where they lie: multiplied block by block as they are read, and never held.

Many adapters go through the same maps. What one of them read stays in the operating system's memory
of the file, which all processes of the machine share; a product takes a block of rows at a time
from there, so that memory does not grow with the maps. Products have the precision of the thin
factor that they are asked for, and blocks of rows are summed in float64. The checksum of a matrix
is compared by the first of the processes that come from one (`runtime.checked`).
"""

import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from ..artifacts import CHECKSUM
from ..errors import LoraportError
from ..runtime import checked

BLOCK_BYTES = 2 << 20  # of a matrix at a time, as it is multiplied
# names of a matrix's dataset, by the type of its numbers
TYPES = {
    "matrix": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),  # its bits lie as uint16
    "float16": np.dtype(np.float16),
}
FIRST_NUMBERS = 4096  # of a matrix, that mostly show whether two bytes hold all
NARROWED_AT_ONCE = 1 << 18  # numbers: what is made of them to compare fits a core's cache
_rooms = threading.local()
LEAST_ROWS = 64  # of a block, however long they are: products of fewer are slow


@dataclass(frozen=True)
class Stored:
    """A matrix (m, n) of one of TYPES in a file.

    Attributes
    ----------
    path : the artifact
    name : of the dataset in it
    shape : (m, n)
    dtype : of the numbers in the file
    offset : where they begin, in bytes
    checksum : CRC-32 of their bytes
    """

    path: Path
    name: str
    shape: tuple[int, int]
    dtype: np.dtype
    offset: int
    checksum: int

    def times(self, right: np.ndarray) -> np.ndarray:
        """`M right`, (m, k), in the precision of `right`."""
        result = np.empty((self.shape[0], right.shape[1]), right.dtype)
        for rows, block in self._blocks(right.dtype):
            np.matmul(block, right, out=result[rows])
        return result

    def after(self, left: np.ndarray) -> np.ndarray:
        """`left M`, (k, n), in the precision of `left`; blocks of rows are summed in float64."""
        columns = np.ascontiguousarray(left.T)
        result = np.zeros((self.shape[1], len(left)))
        room = _room("product", result.size * left.dtype.itemsize)
        product = room.view(left.dtype).reshape(result.shape)
        for rows, block in self._blocks(left.dtype):
            result += np.matmul(block.T, columns[rows], out=product)
        return result.T.astype(left.dtype, copy=False)

    def _blocks(self, dtype: np.dtype) -> Iterator[tuple[slice, np.ndarray]]:
        """Blocks of rows as `dtype`; behind the last one the checksum is compared, once."""
        height, width = self.shape
        at_once = min(height, max(LEAST_ROWS, BLOCK_BYTES // (width * dtype.itemsize)))
        row = width * self.dtype.itemsize
        read = _room("read", at_once * row)
        block = _room("block", at_once * width * dtype.itemsize).view(dtype).reshape(-1, width)
        with self.path.open("rb", buffering=0) as file:
            part = checked.part(file, self.name)
            known, checksum = checked.is_known(part), 0
            file.seek(self.offset)
            for first in range(0, height, at_once):
                rows = slice(first, min(first + at_once, height))
                count = rows.stop - first
                view = memoryview(read.data)[: count * row]
                if not _fill(file, view):
                    raise self._damaged("the file ends before it does")
                checksum = checksum if known else zlib.crc32(view, checksum)
                stored = np.frombuffer(view, self.dtype).reshape(count, width)
                if self.dtype != dtype:
                    block[:count] = stored
                    stored = block[:count]
                yield rows, stored
        if not known:
            if checksum != self.checksum:
                raise self._damaged(f"CRC-32 {checksum:08x} in place of {self.checksum:08x}")
            checked.remember(part)

    def _damaged(self, how: str) -> LoraportError:
        return LoraportError(
            f"artifact {self.path} cannot be read: it is truncated or damaged",
            got=f"{self.name}: {how}",
            expected="a whole artifact of this workflow",
            todo="delete it and run the workflow again",
        )


def _room(name: str, size: int) -> np.ndarray:
    """So many bytes that this thread uses again: fresh memory costs as much as what it is read to.

    One product at a time goes through a thread.
    """
    held = getattr(_rooms, name, None)
    if held is None or len(held) < size:
        held = np.empty(size, np.uint8)
        setattr(_rooms, name, held)
    return held[:size]


def _fill(file: Any, view: memoryview) -> bool:
    """Read as many bytes as the view has; False where the file has fewer."""
    while view and (count := file.readinto(view)):
        view = view[count:]
    return not view


@dataclass(frozen=True)
class Transposed:
    """`Mᵀ` of a stored matrix."""

    stored: Stored

    def times(self, right: np.ndarray) -> np.ndarray:
        """`Mᵀ right`."""
        return self.stored.after(right.T).T

    def after(self, left: np.ndarray) -> np.ndarray:
        """`left Mᵀ`."""
        return self.stored.times(left.T).T


def narrowed(values: np.ndarray) -> tuple[str, np.ndarray]:
    """The name of the narrowest type that holds float32 numbers as they are, and what is stored.

    Beside that it takes the memory of a block of numbers.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    for kind, cast, dtype in (("bfloat16", _upper_bits, np.uint16), ("float16", _half, np.float16)):
        narrow = np.empty(flat.shape, dtype)
        if all(cast(flat[span], narrow[span]) for span in _spans(flat.size)):
            return kind, narrow.reshape(values.shape)
        del narrow  # before the next one is there
    return "matrix", values


def _spans(size: int) -> Iterator[slice]:
    """Of the first few numbers, which mostly show what a matrix is, and of blocks of the others."""
    yield slice(0, FIRST_NUMBERS)
    for start in range(FIRST_NUMBERS, size, NARROWED_AT_ONCE):
        yield slice(start, start + NARROWED_AT_ONCE)


def _upper_bits(values: np.ndarray, narrow: np.ndarray) -> bool:
    """Write float32 numbers as bfloat16: whether they are all finite and the same."""
    bits = values.view(np.uint32)
    np.right_shift(bits, 16, out=narrow, casting="unsafe")
    return bool(np.isfinite(values).all()) and not (bits & 0xFFFF).any()


def _half(values: np.ndarray, narrow: np.ndarray) -> bool:
    """Write float32 numbers as float16: whether they are all finite and the same."""
    with np.errstate(over="ignore"):
        narrow[:] = values
    return bool(np.isfinite(values).all()) and np.array_equal(narrow, values)


def open_matrix(path: str | Path, node: h5py.Dataset, kind: str) -> Stored | None:
    """A matrix of an artifact; None where it does not lie in one piece with a checksum.

    Artifacts of earlier versions have matrices in pieces that HDF5 checks.

    Parameters
    ----------
    kind : one of TYPES
    """
    offset = node.id.get_offset()
    if CHECKSUM not in node.attrs or offset is None or node.ndim != 2:
        return None
    checksum = int(node.attrs[CHECKSUM])
    return Stored(Path(path), node.name, node.shape, TYPES[kind], offset, checksum)
