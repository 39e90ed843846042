"""Paths in a configuration, relative to the file that says them.

A path that lies beside the configuration file (or the adapters table) is meant there; one that does
not is relative to the folder that the workflow runs in, as all paths on the command line are.
"""

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

# keys of paths; `*` is any key, or each of a list's entries
PLACES = (
    ("models", "*", "source"),
    ("models", "*", "texts"),
    ("calibration", "texts"),
    ("adapters",),
    ("tasks", "*", "train"),
    ("tasks", "*", "test"),
    ("tasks", "*", "score"),
    ("tasks", "*", "eval", "*"),
    ("evaluation", "tasks_dir"),
    ("evaluation", "data_dir"),
)


def beside(path: str, folder: Path) -> str:
    """A path as it is meant from the working directory: in `folder` where it is there, or as it is.

    Examples
    --------
    >>> beside("owner/name", Path("conf"))
    'owner/name'
    """
    if not path or folder == Path() or Path(path).is_absolute():
        return path
    there = folder / path
    if not there.exists():
        return path
    shortest = os.path.relpath(there)
    return str(there.absolute()) if shortest.startswith("..") else shortest


def rebased(content: Mapping[str, Any], files: Sequence[str | Path]) -> dict[str, Any]:
    """A configuration whose paths are relative to the working directory.

    Parameters
    ----------
    content : what the files and the command line add up to
    files : the configuration's files, those that win last; a value belongs to the last one that
        says it, and one that no file says is the command line's

    Notes
    -----
    A model's `source` as it was written stays among the names by which adapters may call it.
    """
    result = copy.deepcopy(dict(content))
    folders: dict[tuple[Any, ...], Path] = {}
    for file in files:
        said = _read(Path(file))
        for place in PLACES:
            for keys, value in _values(said, place):
                if _get(result, keys) == value:
                    folders[keys] = Path(file).parent
    for keys, folder in folders.items():
        value = _get(result, keys)
        moved = beside(value, folder)
        if moved != value:
            _set(result, keys, moved)
            if keys[0] == "models" and keys[-1] == "source":
                entry = _get(result, keys[:-1])
                entry["known_as"] = [*(entry.get("known_as") or []), value]
    return result


def _read(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}  # another form of configuration, which Snakemake reads


def _values(content: Any, place: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Keys and text of each value that a place stands for."""
    if not place:
        if isinstance(content, str):
            yield (), content
        return
    entries: Mapping[Any, Any] = {}
    if isinstance(content, dict):
        entries = content if place[0] == "*" else {place[0]: content.get(place[0])}
    elif isinstance(content, list) and place[0] == "*":
        entries = dict(enumerate(content))
    for key, part in entries.items():
        for keys, value in _values(part, place[1:]):
            yield (key, *keys), value


def _get(content: Any, keys: Sequence[Any]) -> Any:
    for key in keys:
        try:
            content = content[key]
        except (KeyError, IndexError, TypeError):
            return None
    return content


def _set(content: Any, keys: Sequence[Any], value: str) -> None:
    _get(content, keys[:-1])[keys[-1]] = value
