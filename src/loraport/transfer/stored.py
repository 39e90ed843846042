"""Matrices of maps where they lie: multiplied block by block as they are read, and never held.

Many adapters go through the same maps. What one of them read stays in the operating system's memory
of the file, which all processes of the machine share; a product takes a block of rows at a time
from there, so that memory does not grow with the maps. The checksum of a matrix is compared by the
first of the processes that come from one (`runtime.checked`).
"""

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

BLOCK_NUMBERS = 1 << 18  # at a time, that fit a core's cache as float64
# names of a matrix's dataset, by the type of its numbers
TYPES = {
    "matrix": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),  # its bits lie as uint16
    "float16": np.dtype(np.float16),
}
FIRST_NUMBERS = 4096  # of a matrix, that mostly show whether two bytes hold all
LEAST_ROWS = 64  # of a block, however long they are: products of fewer are slow


@dataclass(frozen=True)
class Stored:
    """A matrix (m, n) of one of TYPES in a file; products are float64.

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
        """`M right`, (m, k)."""
        result = np.empty((self.shape[0], right.shape[1]))
        for rows, block in self._blocks():
            np.matmul(block, right, out=result[rows])
        return result

    def after(self, left: np.ndarray) -> np.ndarray:
        """`left M`, (k, n)."""
        result = np.zeros((len(left), self.shape[1]))
        for rows, block in self._blocks():
            result += left[:, rows] @ block
        return result

    def _blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Blocks of rows, float64; behind the last one the checksum is compared, once."""
        height, width = self.shape
        at_once = min(height, max(LEAST_ROWS, BLOCK_NUMBERS // width))
        row = width * self.dtype.itemsize
        read, block = np.empty(at_once * row, np.uint8), np.empty((at_once, width))
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
                block[:count] = np.frombuffer(view, self.dtype).reshape(count, width)
                yield rows, block[:count]
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
    """The name of the narrowest type that holds float32 numbers as they are, and what is stored."""
    bits = values.view(np.uint32)
    first = values.reshape(-1)[:FIRST_NUMBERS]
    if len(first) < values.size and narrowed(np.ascontiguousarray(first))[0] == "matrix":
        return "matrix", values  # as a fitted map shows with its first numbers
    if np.isfinite(values).all():
        if not (bits & 0xFFFF).any():
            return "bfloat16", (bits >> 16).astype(np.uint16)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if np.array_equal(half, values):
            return "float16", half
    return "matrix", values


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
