"""Artifacts on disk: written whole or not at all, and refused when they do not fit together.

Every artifact carries its kind, the format version, the package version and the identities of the
artifacts it was made from. The identity of an HDF5 artifact is a digest of its contents, computed
while it is written and stored in it, so that naming a file of many GiB does not mean reading it;
each dataset has a Fletcher-32 checksum that HDF5 verifies on reading. The identity of a JSON
artifact is the SHA-256 of the file.
"""

import glob
import hashlib
import json
import os
import platform
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from . import __version__
from .errors import LoraportError

FORMAT = 1
CHUNK_BYTES = 4 << 20
CHECKSUM = "crc32"  # attribute of a dataset that lies in one piece
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ADAPTER_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
SUMS = "SHA256SUMS"
# checksums of given adapters' files, as rules first read them
ROOT = "artifacts"  # folder of all that the workflow makes, in the working directory
GIVEN = Path(ROOT, ".resume", "given")
_recording: Path | None = None  # where a rule that runs keeps them


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal; O(size) time, 1 MiB of memory."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Give a temporary sibling of `path` to write (file or folder), renamed when all is well.

    What a process of this machine left there when it was killed is removed first.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    for left in path.parent.glob(f".{glob.escape(path.name)}.{platform.node()}.*.tmp"):
        if left == temporary or not _is_alive(left.name.split(".")[-2]):
            _remove(left)
    try:
        yield temporary
        if path.is_dir():
            _remove(path)
        temporary.replace(path)
    finally:
        _remove(temporary)


def _is_alive(number: str) -> bool:
    try:
        os.kill(int(number), 0)
    except (ValueError, ProcessLookupError):
        return False
    except OSError:  # it is another user's
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _header(kind: str, inputs: Mapping[str, str]) -> dict[str, Any]:
    return {"kind": kind, "format": FORMAT, "loraport": __version__, "inputs": dict(inputs)}


def _check_header(path: str | Path, header: Mapping[str, Any], kind: str) -> None:
    redo = f"delete {path} and run the workflow again"
    if header.get("kind") != kind:
        raise LoraportError(
            f"{path} is not an artifact of this kind",
            got=header.get("kind", "no kind at all"),
            expected=kind,
            todo=redo,
        )
    if header.get("format") != FORMAT:
        raise LoraportError(
            f"{path} has another format version",
            got=header.get("format"),
            expected=FORMAT,
            todo=redo,
        )


def write_json(path: str | Path, kind: str, inputs: Mapping[str, str], content: Mapping) -> None:
    """Write a JSON artifact with a digest of what it says; NaN and Inf are refused.

    Beside an adapter's weights it records their SHA-256 as well.
    """
    document = json.loads(json.dumps({**_header(kind, inputs), **content}, allow_nan=False))
    weights = Path(path).parent / ADAPTER_WEIGHTS
    if weights.is_file():
        document["weights_sha256"] = sha256(weights)
    document["digest"] = _digest(document)
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path, kind: str) -> dict[str, Any]:
    """Read a JSON artifact and check its kind and format."""
    try:
        document = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(document, dict):
        raise _unreadable(path, "it is not a JSON object")
    _check_header(path, document, kind)
    recorded = document.pop("digest", None)  # older ones have none
    if recorded is not None and recorded != _digest(document):
        raise _unreadable(path, "what it says is not what its digest was made from")
    return document


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def check_weights(directory: str | Path) -> None:
    """Refuse an adapter whose files are not those that were recorded.

    The weights of one made here are named by the record beside them. One that is given may have a
    file SHA256SUMS beside it, as `sha256sum` writes it; without, its files are those that a rule
    read first, as long as they have the same size and date.
    """
    directory = Path(directory)
    if not (directory / ADAPTER_WEIGHTS).is_file():
        return
    made = _recorded_here(directory)
    for record, path, expected in [*made, *_sums(directory)]:
        if (actual := sha256(path) if path.is_file() else "no such file") != expected:
            raise LoraportError(
                f"{path} is not the file that {record} beside it describes",
                got=f"sha256 {actual[:12]}…",
                expected=f"{expected[:12]}…",
                todo="delete the folder and run the workflow again"
                if record != SUMS
                else f"fetch the adapter again, or renew {record} if it was changed on purpose",
            )
    if not made:
        for name in ADAPTER_FILES:
            _check_as_first_read(directory / name)


def _recorded_here(directory: Path) -> list[tuple[str, Path, str]]:
    """(record, weights, SHA-256) as written beside the weights of an adapter that was made here."""
    records = []
    for path in sorted(directory.glob("*.json")):
        try:
            recorded = json.loads(path.read_text(encoding="utf-8")).get("weights_sha256")
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
        if recorded:
            records.append((path.name, directory / ADAPTER_WEIGHTS, str(recorded)))
    return records


def _sums(directory: Path) -> list[tuple[str, Path, str]]:
    """(SHA256SUMS, file, SHA-256) of an adapter's files, where that file names them."""
    if not (directory / SUMS).exists():
        return []
    try:
        lines = (directory / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    pairs = (line.split(maxsplit=1) for line in lines if len(line.split(maxsplit=1)) == 2)
    named = {Path(name.lstrip("*")).name: digest.lower() for digest, name in pairs}
    listed = [(SUMS, directory / name, named[name]) for name in ADAPTER_FILES if name in named]
    if not listed:
        raise LoraportError(
            f"{directory / SUMS} says nothing of the adapter beside it",
            got="no line that names one of its files, or no text",
            expected=f"lines as sha256sum writes them, of {' and '.join(ADAPTER_FILES)}",
            todo="make it anew (sha256sum *.safetensors *.json), or delete it",
        )
    return listed


@contextmanager
def first_reads_kept(log: str | Path) -> Iterator[None]:
    """Record the given adapters that a rule reads, in the .resume of its log's artifacts."""
    global _recording
    parts = Path(log).parts
    if "artifacts" in parts:
        _recording = Path(*parts[: parts.index("artifacts")], GIVEN)
    try:
        yield
    finally:
        _recording = None


def _check_as_first_read(path: Path) -> None:
    place = path.resolve()
    name = hashlib.sha256(str(place).encode()).hexdigest()[:16]
    record = (_recording or GIVEN) / f"{name}.json"
    stat, digest = place.stat(), sha256(place)
    file = {"file": str(place), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    try:
        first = json.loads(record.read_text())
        expected = first.pop("sha256")
    except (OSError, ValueError, KeyError, AttributeError):
        first, expected = None, ""
    if first == file and expected == digest:
        return
    if first == file:
        raise LoraportError(
            f"{path} has changed since a rule first read it, though its date has not",
            got=f"sha256 {digest[:12]}…",
            expected=f"{expected[:12]}…, as recorded in {record}",
            todo="restore the adapter; or, if it was changed on purpose, touch the file, and what "
            "was made from it is made anew",
        )
    if _recording:
        with suppress(OSError), atomic(record) as temporary:  # artifacts/ may be read-only
            temporary.write_text(json.dumps({**file, "sha256": digest}) + "\n")


class H5Writer:
    """Writes datasets, attributes and links, and digests them on the way."""

    def __init__(self, file: h5py.File):
        self._file = file
        self._digest = hashlib.sha256()

    def dataset(self, name: str, values: np.ndarray) -> None:
        """Store an array; floating-point values must be finite."""
        values = self._digested(name, values)
        if values.size:
            row = max(1, values[0].nbytes if values.ndim else values.nbytes)
            chunks = (max(1, min(len(values), CHUNK_BYTES // row)), *values.shape[1:])
            self._file.create_dataset(name, data=values, chunks=chunks, fletcher32=True)
        else:
            self._file.create_dataset(name, data=values)

    def plain(self, name: str, values: np.ndarray) -> None:
        """Store an array in one piece, to be read without HDF5; its CRC-32 stands beside it."""
        values = self._digested(name, values)
        dataset = self._file.create_dataset(name, data=values)
        dataset.attrs[CHECKSUM] = zlib.crc32(values.data if values.size else b"")

    def _digested(self, name: str, values: np.ndarray) -> np.ndarray:
        values = np.ascontiguousarray(values)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise LoraportError(
                f"dataset {name!r} would hold NaN or Inf",
                got=f"{int((~np.isfinite(values)).sum())} bad values of {values.size}",
                expected="finite numbers",
                todo="check the model's weights and the calibration texts",
            )
        self._note(f"{name} {values.dtype.str} {values.shape}")
        self._digest.update(values.data if values.ndim and values.size else values.tobytes())
        return values

    def attributes(self, group: str = "/", /, **values: Any) -> None:
        """Set attributes of a group (made where missing)."""
        node = self._file.require_group(group)
        for key, value in sorted(values.items()):
            node.attrs[key] = value
            self._note(f"{group} @{key} {value!r}")

    def link(self, name: str, target: str) -> None:
        """Let `name` stand for the dataset `target` of the same file."""
        self._file[name] = h5py.SoftLink(target)
        self._note(f"{name} -> {target}")

    def written(self, group: str) -> h5py.Group:
        """What has been written of a group so far, to be read."""
        return self._file[group]

    def _note(self, text: str) -> None:
        self._digest.update(text.encode())

    def close(self, kind: str, inputs: Mapping[str, str]) -> None:
        """Write the header and the digest over all that the file holds, as its last attributes."""
        header = _header(kind, inputs)
        self._note(json.dumps(header, sort_keys=True))
        self._file.attrs["header"] = json.dumps(header)
        self._file.attrs["digest"] = self._digest.hexdigest()


@contextmanager
def write_h5(path: str | Path, kind: str, inputs: Mapping[str, str]) -> Iterator[H5Writer]:
    """Write an HDF5 artifact, put in place when it is complete."""
    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        writer = H5Writer(file)
        yield writer
        writer.close(kind, inputs)


@contextmanager
def read_h5(path: str | Path, kind: str) -> Iterator[h5py.File]:
    """Open an HDF5 artifact, its kind and format checked; a damaged file is named in the error."""
    try:
        with h5py.File(path, "r") as file:
            _check_header(path, json.loads(file.attrs.get("header", "{}")), kind)
            yield file
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | Path, reason: object) -> LoraportError:
    return LoraportError(
        f"artifact {path} cannot be read: it is missing, truncated or damaged",
        got=(str(reason).strip() or type(reason).__name__).splitlines()[0],
        expected="a whole artifact of this workflow",
        todo="delete it and run the workflow again",
    )


def identity(path: str | Path) -> tuple[str, dict[str, str]]:
    """Identity of an artifact and the identities of what it was made from."""
    path = Path(path)
    try:
        if path.suffix == ".h5":
            with h5py.File(path, "r") as file:
                header = json.loads(file.attrs["header"])
                return str(file.attrs["digest"]), header["inputs"]
        return sha256(path), json.loads(path.read_text())["inputs"]
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from error


def identities(inputs: Mapping[str, str | Path]) -> dict[str, str]:
    """Identities of a rule's inputs, after checking that they belong together.

    Parameters
    ----------
    inputs : name -> path. Where an input was itself made from something that is among the inputs
        (`spec` of `old_activations` is `old_spec`), the two must be the same version of it.

    Raises
    ------
    LoraportError
        If an input was made from another version of one of the others.
    """
    known = {name: identity(path) for name, path in inputs.items()}
    for name, (_, made_from) in known.items():
        side = name.partition("_")[0]
        for part, digest in made_from.items():
            other = part if part in known else f"{side}_{part}"
            if other in known and known[other][0] != digest:
                raise LoraportError(
                    f"{inputs[name]} was made from another {inputs[other]}",
                    got=f"{digest[:12]}… recorded in it",
                    expected=f"{known[other][0][:12]}…",
                    todo=f"delete {inputs[name]} and run the workflow again",
                )
    return {name: digest for name, (digest, _) in known.items()}
