"""Which files of a model's folder are the model: one choice, for loraport's own reader and the same
as that of transformers, which runs the model.

A folder often holds more: the shards beside a whole file, an index whose shards are gone, the
weights in another layout, the files of an adapter that was merged.
"""

import json
from pathlib import Path
from typing import Any

from ..artifacts import ADAPTER_FILES
from ..errors import LoraportError

WHOLE = "model.safetensors"
INDEX = f"{WHOLE}.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
POINTER = b"version https://git-lfs"  # how git-lfs begins a file that stands in for a large one
NAMED = "transformers_weights"  # field of config.json that names the file, or the index, to load


def weight_files(directory: str | Path) -> list[Path]:
    """The weights of a model directory, in order.

    The file or index that config.json names; else model.safetensors; else the shards of the index,
    all of which must be there. Nothing else is read, though it lie beside them.

    Raises
    ------
    LoraportError
        For an index that is none or lacks shards, and where no file bears a name that is loaded.
    """
    directory = Path(directory)
    named = _named_by_config(directory)
    if named.endswith(".index.json"):
        return _shards(directory / named)
    if named or (directory / WHOLE).is_file():
        return [_existing(directory, named or WHOLE)]
    if (directory / INDEX).is_file():
        return _shards(directory / INDEX)
    raise _nothing_to_load(directory)


def left_aside(directory: str | Path) -> list[str]:
    """Names of files in a model directory that look like weights, or like an adapter, and are not
    read.
    """
    directory = Path(directory)
    used = {path.name for path in weight_files(directory)}
    unused = {path.name for path in directory.glob("*.safetensors")} - used
    unused |= {name for name in ADAPTER_FILES if (directory / name).is_file()}
    if WHOLE in used and (directory / INDEX).is_file():
        unused.add(INDEX)
    return sorted(unused)


def _named_by_config(directory: Path) -> str:
    """What config.json names as the weights; empty for nothing, and for a config that is none."""
    try:
        content: Any = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        named = content.get(NAMED) or ""
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""
    return named if isinstance(named, str) else ""


def _existing(directory: Path, name: str) -> Path:
    if Path(name).name != name or not (directory / name).is_file():
        raise LoraportError(
            f"{directory} lacks the weights that its config.json names",
            got=f"no file {name} in it",
            expected=f"what {NAMED} in config.json says",
            todo="download the model again",
        )
    return directory / name


def _shards(index: Path) -> list[Path]:
    """The files that an index names, complete."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError("file names that are no text, or none at all")
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise LoraportError(
            f"{index} is not a shard index",
            got=f"{type(error).__name__}: {error}",
            expected='{"weight_map": {tensor: file, …}}',
            todo="download the model again",
        ) from error
    directory = index.parent
    missing = [n for n in names if Path(n).name != n or not (directory / n).is_file()]
    if missing:
        raise LoraportError(
            f"{directory} lacks weight shards",
            got=f"no {', '.join(missing[:3])}",
            expected=f"the {len(names)} files that {index.name} names",
            todo=f"finish the download; or, where {index.name} is left over from another layout, "
            f"name the whole file {WHOLE}",
        )
    return [directory / name for name in names]


def _nothing_to_load(directory: Path) -> LoraportError:
    others = sorted(path.name for path in directory.glob("*.safetensors"))
    others = [name for name in others if name not in ADAPTER_FILES]
    pickles = sorted(path.name for pattern in PICKLES for path in directory.glob(pattern))
    if others:
        return LoraportError(
            f"{directory} holds safetensors by names that transformers does not load",
            got=", ".join(others[:3]) + (", …" if len(others) > 3 else ""),
            expected=f"{WHOLE}, or shards with {INDEX}",
            todo=f"rename a whole checkpoint to {WHOLE}; for shards fetch their index as well",
        )
    return LoraportError(
        f"{directory} holds no safetensors weights",
        got=f"pickled weights only ({pickles[0]})" if pickles else "no weight file at all",
        expected="*.safetensors; pickles can run code and are never loaded",
        todo="load the model once where you trust it and save_pretrained() it as safetensors"
        if pickles
        else "check the path of the model",
    )


def refuse_pointer(path: Path) -> None:
    """Raise for a text that git-lfs left in place of a file; for a missing one, OSError."""
    with path.open("rb") as file:
        start = file.read(len(POINTER))
    if start == POINTER:
        raise LoraportError(
            f"{path} is a pointer of git-lfs, not the file itself",
            got=f"a text of {path.stat().st_size} bytes",
            expected="what the pointer stands for",
            todo="fetch it: git lfs pull in that repository, or hf download",
        )
