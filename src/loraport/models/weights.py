"""safetensors checkpoints, read one tensor at a time with plain file reads.

No memory map, so that the peak memory of a rule is what it really holds, and no framework, so that
the transfer of an adapter starts fast. A header is checked before anything is believed.
"""

import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors.numpy

from ..artifacts import atomic
from ..errors import LoraportError
from .folder import refuse_pointer, weight_files

MAX_HEADER_BYTES = 100_000_000  # the safetensors format's own limit
MAX_AXES = 8
BLOCK_NUMBERS = 1 << 18  # that are looked at together: what is made of them fits a core's cache
DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
OTHER_DTYPES = {  # that the format has and no model is read in: bits of a number, and its name
    "F4": (4, "4-bit floats"),
    "F6_E2M3": (6, "6-bit floats"),
    "F6_E3M2": (6, "6-bit floats"),
    "F8_E4M3": (8, "FP8"),
    "F8_E5M2": (8, "FP8"),
    "F8_E8M0": (8, "FP8 scales"),
    "F8_E4M3FNUZ": (8, "FP8"),
    "F8_E5M2FNUZ": (8, "FP8"),
    "C64": (64, "complex numbers"),
    "U16": (16, "whole numbers"),
    "U32": (32, "whole numbers, as quantised weights are packed"),
    "U64": (64, "whole numbers"),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}


class TensorFile:
    """One safetensors file: names, shapes and dtypes from its header, data on demand.

    Parameters
    ----------
    checksums : tensor -> CRC-32 that what is read of it must have, where it is known

    Raises
    ------
    LoraportError
        If the header is not one, or does not fit the file (truncated, overlapping, overlong).
    """

    def __init__(self, path: str | Path, checksums: Mapping[str, int] | None = None):
        self.path = Path(path)
        self._checksums = dict(checksums or {})
        try:
            self.size = self.path.stat().st_size
            refuse_pointer(self.path)
            with self.path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if self.size < 8 or length > min(self.size - 8, MAX_HEADER_BYTES):
                    raise self._bad(f"a header of {length} bytes in a file of {self.size}")
                header = json.loads(file.read(length), object_pairs_hook=_no_duplicates)
                if not isinstance(header, dict):
                    raise self._bad("a header that is not a JSON object")
        except (OSError, ValueError, RecursionError) as error:
            raise self._bad(error) from error
        self.start = 8 + length
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        self.tensors: dict[str, tuple[np.dtype, tuple[int, ...], int]] = {}
        self._index(header)

    def _index(self, header: Mapping[str, Any]) -> None:
        end = 0
        others: list[tuple[str, str]] = []
        try:
            spans = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
            for name, entry in spans:
                shape, (first, last) = tuple(entry["shape"]), entry["data_offsets"]
                sizes = (*shape, first, last)
                if len(shape) > MAX_AXES or any(type(s) is not int or s < 0 for s in sizes):
                    raise self._bad(f"tensor {name!r} at bytes {first}-{last}, shape {shape}")
                code = entry["dtype"]
                if code not in DTYPES and code not in OTHER_DTYPES:
                    raise self._bad(f"tensor {name!r} of dtype {code}")
                bits = 8 * DTYPES[code].itemsize if code in DTYPES else OTHER_DTYPES[code][0]
                if first != end or 8 * (last - first) != bits * math.prod(shape):
                    raise self._bad(f"tensor {name!r} at bytes {first}-{last}, shape {shape}")
                if code in DTYPES:
                    self.tensors[name] = (DTYPES[code], shape, first)
                else:
                    others.append((name, code))
                end = last
        except (TypeError, KeyError, ValueError) as error:
            raise self._bad(f"a header entry that is not a tensor ({error})") from error
        if self.start + end != self.size:
            raise self._bad(f"{self.size} bytes where the header says {self.start + end}")
        if others:
            raise self._of_other_dtypes(others)

    def _of_other_dtypes(self, others: Sequence[tuple[str, str]]) -> LoraportError:
        name, code = others[0]
        return LoraportError(
            f"{self.path} holds weights in a form that loraport does not compute with",
            got=f"{len(others)} tensors such as {name!r} of dtype {code} ({OTHER_DTYPES[code][1]})",
            expected="float32, bfloat16 or float16",
            todo="name the model that it was made from, whose adapters are the same; or write its "
            "weights as bfloat16",
        )

    def _bad(self, reason: object) -> LoraportError:
        return LoraportError(
            f"{self.path} is not a whole safetensors file",
            got=reason,
            expected="a header that describes every byte behind it",
            todo="download or save the file again; a renamed pickle is never loaded",
        )

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """A tensor in its stored dtype, or a range of its first axis; checked where it can be."""
        dtype, shape, offset = self.tensors[name]
        if rows is not None:
            self._check(name)
            first, last, _ = rows.indices(shape[0])
            offset += first * dtype.itemsize * math.prod(shape[1:])
            shape = (max(0, last - first), *shape[1:])
        values = np.empty(shape, dtype)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start + offset)
            view = memoryview(values.reshape(-1).view(np.uint8).data)
            done = 0
            while done < len(view):
                count = file.readinto(view[done:])
                if not count:
                    raise self._bad(f"the data of {name!r} ends early")
                done += count
        if rows is None:
            self._check(name, view)
        return values

    def _check(self, name: str, data: memoryview | None = None) -> None:
        """Compare a tensor with its checksum; before a part of it is used, once, from the file."""
        expected = self._checksums.get(name)
        if expected is None:
            return
        checksum = self.checksum(name) if data is None else zlib.crc32(data)
        if checksum != expected:
            raise LoraportError(
                f"tensor {name!r} of {self.path} is not the one that spec.json describes",
                got=f"CRC-32 {checksum:08x}",
                expected=f"{expected:08x}",
                todo="restore the file, or delete the model's spec.json to map the changed model",
            )
        if data is None:
            del self._checksums[name]

    def checksum(self, name: str) -> int:
        """CRC-32 of a tensor's bytes; O(its size) time, 1 MiB of memory."""
        dtype, shape, offset = self.tensors[name]
        left, checksum = dtype.itemsize * math.prod(shape), 0
        with self.path.open("rb") as file:
            file.seek(self.start + offset)
            while left and (block := file.read(min(left, 1 << 20))):
                checksum = zlib.crc32(block, checksum)
                left -= len(block)
        return checksum


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("duplicate keys in the header")
    return content


class Checkpoint:
    """The safetensors shards of a model directory as one mapping from name to tensor.

    Parameters
    ----------
    stored_names : gives the names under which a tensor may be held, the first one found counts
    checksums : file -> tensor -> CRC-32, where they are known

    Raises
    ------
    LoraportError
        If there are only pickles, nothing at all, a missing shard, or a tensor held twice.
    """

    def __init__(
        self,
        directory: str | Path,
        stored_names: Callable[[str], Iterable[str]] = lambda name: (name,),
        checksums: Mapping[str, Mapping[str, int]] | None = None,
    ):
        self.directory = Path(directory)
        self._stored_names = stored_names
        known = checksums or {}
        self.files = [
            TensorFile(path, known.get(path.name)) for path in weight_files(self.directory)
        ]
        self._where: dict[str, TensorFile] = {}
        for file in self.files:
            for name in file.tensors:
                if name in self._where:
                    raise LoraportError(
                        f"tensor {name!r} stands in two files of {self.directory}",
                        got=f"{self._where[name].path.name} and {file.path.name}",
                        expected="one checkpoint a directory",
                        todo="remove the files of the other checkpoint",
                    )
                self._where[name] = file

    def __contains__(self, name: str) -> bool:
        return any(stored in self._where for stored in self._stored_names(name))

    def names(self) -> Iterator[str]:
        """Names of all tensors, as the files have them."""
        return iter(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading it."""
        file, stored = self._find(name)
        return file.tensors[stored][1]

    def dtype(self, name: str) -> np.dtype:
        """The type of a tensor's numbers as they are stored."""
        file, stored = self._find(name)
        return file.tensors[stored][0]

    def stored(self, name: str) -> str:
        """The name under which the checkpoint holds a tensor."""
        return self._find(name)[1]

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """A tensor in its stored dtype, or a range of its rows; NaN and Inf are refused."""
        values = self.read_raw(name, rows)
        if not is_finite(values):
            raise LoraportError(
                f"tensor {name!r} of {self.directory} holds NaN or Inf",
                got=f"{int((~np.isfinite(values)).sum())} bad values of {values.size}",
                expected="finite weights",
                todo="download the model again, or use a checkpoint that is not broken",
            )
        return values

    def read_raw(self, name: str, rows: slice | None = None) -> np.ndarray:
        """The same as it is, whatever it holds: for tensors that are no weights."""
        file, stored = self._find(name)
        return file.read(stored, rows)

    def _find(self, name: str) -> tuple[TensorFile, str]:
        for stored in self._stored_names(name):
            if stored in self._where:
                return self._where[stored], stored
        raise LoraportError(
            f"{self.directory} holds no tensor {name!r}",
            got=f"{len(self._where)} others, such as {next(iter(self._where), 'none')!r}",
            expected="the names that its family's file in models/families/ gives",
            todo="check that config.json and the weights belong to the same model",
        )


def is_finite(values: np.ndarray) -> bool:
    """Whether a tensor of any stored dtype holds no NaN and no Inf; some numbers at a time."""
    if values.dtype.kind in "iub":
        return True
    flat = values.reshape(-1)
    blocks = (flat[at : at + BLOCK_NUMBERS] for at in range(0, flat.size, BLOCK_NUMBERS))
    if values.dtype == DTYPES["BF16"]:  # all exponent bits set: numpy is slow on this dtype
        return not any(((each.view(np.uint16) & 0x7F80) == 0x7F80).any() for each in blocks)
    return all(np.isfinite(each).all() for each in blocks)


def save_tensors(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write arrays as one safetensors file; the same input gives the same bytes."""
    content = safetensors.numpy.save(
        {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}, {"format": "pt"}
    )
    with atomic(path) as temporary:
        temporary.write_bytes(content)


class Planned(NamedTuple):
    """A tensor that is to be written."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of its numbers in bytes."""
        return self.dtype.itemsize * math.prod(self.shape)


def write_streamed(
    path: str | Path,
    tensors: Sequence[Planned],
    blocks: Callable[[Planned], Iterable[np.ndarray]],
) -> None:
    """Write one safetensors file block by block: no tensor of it need ever be held whole.

    Parameters
    ----------
    blocks : gives a tensor's values in order, in its dtype, as ranges of its first axis
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for each in tensors:
        span = [end, end + each.nbytes]
        header[each.name] = {"dtype": CODES[each.dtype], "shape": each.shape, "data_offsets": span}
        end = span[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for each in tensors:
            for block in blocks(each):
                file.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
        assert file.tell() == 8 + len(text) + end
