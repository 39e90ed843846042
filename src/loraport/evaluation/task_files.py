"""Files that a score depends on: task files with what they include, their helpers, and their data.

Read without lm-evaluation-harness, while the workflow is planned: all of them are inputs of the
rules that score. A data file is found by its name in a task's `dataset_kwargs`; a helper that opens
other files has to name them there.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..errors import LoraportError
from ..provenance import import_statements

ENDINGS = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet", ".arrow")
PLACE_KEYS = ("file", "files", "data_files")  # of `dataset_kwargs`: they name files
HARNESS_DATA = ("json", "csv", "text", "parquet")  # `dataset_path` that reads data_files


@dataclass(frozen=True)
class TaskFile:
    """A task file as it stands.

    Attributes
    ----------
    content : with what it includes
    files : its own path, and those of what it includes and of its helpers
    """

    path: Path
    content: dict[str, Any]
    files: tuple[Path, ...]


_SAFE_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the former is ten times faster


class _Loader(_SAFE_LOADER):
    """YAML in which `!function a.b` is the text `a.b`, marked as a function."""


class _Function(str):
    pass


_Loader.add_constructor("!function", lambda loader, node: _Function(node.value))


def read(path: Path) -> TaskFile:
    """A task file, with what it includes and the helpers that lie beside it.

    Raises
    ------
    LoraportError
        If it, or what it includes, can't be read.
    """
    content, files = _merged(path, ())
    return TaskFile(path, content, tuple(dict.fromkeys(files)))


def _merged(path: Path, above: tuple[Path, ...]) -> tuple[dict[str, Any], list[Path]]:
    try:
        own = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        if not isinstance(own, dict):
            raise ValueError("not a map of settings")
        if path.resolve() in above:
            raise ValueError("it includes itself")
    except (OSError, ValueError, yaml.YAMLError) as error:
        by = f", included by {above[-1]}," if above else ""
        raise LoraportError(
            f"task file {path}{by} cannot be read",
            got=" ".join(str(error).split()),
            expected="a task file of lm-evaluation-harness",
            todo="correct the file, or `eval` of the task in config.yaml",
        ) from error
    included = own.pop("include", [])
    content: dict[str, Any] = {}
    files = [path, *_helpers(own, path.parent)]
    for name in included if isinstance(included, list) else [included]:
        inner, more = _merged(path.parent / name, (*above, path.resolve()))
        content |= inner
        files += more
    return content | own, files


def _helpers(content: Any, folder: Path) -> Iterator[Path]:
    """Files of the functions that a task file names, and what those import from beside them."""
    if isinstance(content, _Function):
        helper = folder / f"{content.rpartition('.')[0].replace('.', '/')}.py"
        if helper.is_file():
            yield from with_imports(helper)
    elif isinstance(content, dict | list):
        for part in content.values() if isinstance(content, dict) else content:
            yield from _helpers(part, folder)


def with_imports(helper: Path) -> list[Path]:
    """A helper's file, and those beside it that it imports, directly or not."""
    return [helper, *_imported(helper, {helper})]


def _imported(helper: Path, seen: set[Path]) -> Iterator[Path]:
    for name in _imports(helper, helper.stat().st_mtime_ns):
        path = helper.parent / f"{name.replace('.', '/')}.py"
        if path.is_file() and path not in seen:
            seen.add(path)
            yield path
            yield from _imported(path, seen)


@cache
def _imports(helper: Path, changed: int) -> list[str]:
    """Modules that a file names in its imports; none of a file that is no Python: what runs it
    tells.
    """
    try:
        statements = list(import_statements(helper.read_bytes()))
    except (SyntaxError, ValueError):
        return []
    names: list[str] = []
    for each in statements:
        if isinstance(each, ast.Import):
            names += [alias.name for alias in each.names]
        elif each.module:
            names.append(each.module)
    return names


def index(folder: Path) -> dict[str, list[Path]]:
    """Name of a task, tag or group in a folder -> task files that it stands for."""
    stamps = tuple((path, path.stat().st_mtime_ns) for path in sorted(folder.glob("**/*.y*ml")))
    return _index(stamps)


@cache
def _index(stamps: tuple[tuple[Path, int], ...]) -> dict[str, list[Path]]:
    names: dict[str, list[Path]] = {}
    groups: dict[str, tuple[Path, list[Any]]] = {}
    for path, _ in stamps:
        try:
            content = read(path).content
        except LoraportError:
            continue  # another task's, or part of one: told where it is asked for
        if "group" in content:
            members = content.get("task") or []
            groups[str(content["group"])] = path, members if isinstance(members, list) else []
        elif "task" in content:
            tags = content.get("tag") or []
            for name in [content["task"], *(tags if isinstance(tags, list) else [tags])]:
                names.setdefault(str(name), []).append(path)
    for group, (path, members) in groups.items():
        named = [each if isinstance(each, str) else each.get("task", "") for each in members]
        names[group] = [path, *(file for name in named for file in names.get(name, []))]
    return names


def of_task(name: str, tasks_dir: str | Path, data_dir: str = "") -> list[Path]:
    """Files that the scores of a task depend on, in a fixed order.

    Parameters
    ----------
    name : a task, tag or group of `tasks_dir`, or the path of a task file
    data_dir : the local copy of the published sets, if there is one

    Raises
    ------
    LoraportError
        If there is no such task, or a file of it is not there.
    """
    known = index(Path(tasks_dir))
    path = Path(name)
    if name not in known and not path.is_file():
        raise unknown(name, known, tasks_dir)
    files: list[Path] = []
    for task_file in known.get(name) or [path]:
        task = read(task_file)
        files += [*task.files, *data_files(task, data_dir)]
    return list(dict.fromkeys(files))


def unknown(name: str, known: Iterable[str], tasks_dir: str | Path) -> LoraportError:
    """The error of a task that is none."""
    near = get_close_matches(name, names := sorted(known), 3) or names
    if Path(name).suffix in (".yaml", ".yml"):
        expected = "a task file there (paths are relative to the configuration, or to the folder "
        expected += "that the workflow runs in)"
    else:
        expected = f"a task in {tasks_dir}, such as {', '.join(near[:8]) or 'none'}, or a YAML file"
    return LoraportError(
        f"unknown evaluation task {name!r}",
        got=name,
        expected=expected,
        todo="correct `eval` of the task in config.yaml",
    )


def data_files(task: TaskFile, data_dir: str = "") -> list[Path]:
    """Files that a task reads its items from; none for a data set of the hub."""
    content = task.content
    given = content.get("dataset_kwargs") or {}
    named = dict(_named(given)) if isinstance(given, dict) else {}
    files = [path for value in named for path in _places(value, task.path.parent, data_dir)]
    for value, key in named.items():
        if _is_missing(value, key, files, task.path.parent):
            raise LoraportError(
                f"{value!r}, the data of task file {task.path}, is not there",
                got="no such file beside the task file, or in the folder that the workflow runs in",
                expected="the file that its `dataset_kwargs` name",
                todo="correct the name, or make the file",
            )
    source = content.get("dataset_path")
    if isinstance(source, str) and source not in HARNESS_DATA:
        files += _inside(Path(source))
    return list(dict.fromkeys(files))


def _named(given: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a task's `dataset_kwargs`, with its key."""
    if isinstance(given, str):
        yield given, key
    elif isinstance(given, dict):
        for name, part in given.items():
            yield from _named(part, key if key in PLACE_KEYS else str(name))
    elif isinstance(given, list):
        for part in given:
            yield from _named(part, key)


def _places(value: str, beside: Path, data_dir: str) -> Iterator[Path]:
    """Files that a text may name: as a path, or as a set of the local copies."""
    if not value or "://" in value:
        return
    for folder in (beside, Path()):
        pattern = any(sign in value for sign in "*?[")
        matches = sorted(folder.glob(value)) if pattern and value[0] != "/" else [folder / value]
        for path in matches:
            if Path(value).suffix in ENDINGS and path.is_file():
                yield path
    if data_dir:
        yield from _copies(Path(data_dir), value)


def _copies(data_dir: Path, value: str) -> Iterator[Path]:
    whole = data_dir / value
    if whole.is_file():
        yield whole
    if whole.name and whole.parent.is_dir():
        yield from sorted(p for p in whole.parent.iterdir() if p.name.startswith(f"{whole.name}."))


def _is_missing(value: str, key: str, files: list[Path], beside: Path) -> bool:
    if key not in PLACE_KEYS or "://" in value or Path(value).suffix not in ENDINGS:
        return False
    return not any(sign in value for sign in "*?[") and not any(
        path in files for path in (beside / value, Path(value))
    )


def _inside(source: Path) -> list[Path]:
    """A data set's own files, where it is a folder or script of this disk."""
    if source.is_file():
        return [source]
    return sorted(path for path in source.glob("**/*") if path.is_file()) if source.is_dir() else []


@cache
def _digest(path: str, _changed: int, _size: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def version(files: Sequence[Path]) -> str:
    """Digest of the names and contents of files; the same wherever they lie."""
    digest = hashlib.sha256()
    for path in files:
        stat = path.stat()
        digest.update(
            f"{path.name}\0{_digest(str(path), stat.st_mtime_ns, stat.st_size)}\n".encode()
        )
    return digest.hexdigest()[:16]
