"""Bad inputs, made in code: each spoils a sound working directory in one way.

A case is a function of the working directory's root and the phrases that must be told of it. What
checks it is what the rules call: `planned` while the workflow is planned, or a rule's own reader.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from safetensors.numpy import load_file, save_file
from workdir import CONFIG, PROJECT

from loraport.planning import preflight
from loraport.planning.checks import load

SCHEMAS = PROJECT / "workflow" / "schemas"
MARK = "MARK"  # the file that anything which runs what it should not would make


class Case(NamedTuple):
    """How a sound directory is spoilt, and what must be told of it."""

    spoil: Callable[[Path], Any]
    phrases: tuple[str, ...]


Cases = Mapping[str, Case]


@contextmanager
def inside(root: Path) -> Iterator[None]:
    """Paths of a configuration are relative to the working directory."""
    before = Path.cwd()
    os.chdir(root)
    for check in (preflight.local_files, preflight.check_model, preflight._audited):
        check.cache_clear()
    for check in (preflight._file_version, preflight._check_texts):
        check.cache_clear()
    try:
        yield
    finally:
        os.chdir(before)


def planned(root: Path) -> None:
    """What the workflow checks while it is planned, in the order of its rules."""
    with inside(root):
        config = load(yaml.safe_load((root / "config.yaml").read_text()), SCHEMAS)
        for pair in config.content["run"]:
            old, new = config.pair(pair)
            for name in (old, new):
                preflight.check_model(config.model(name)["source"])
                preflight.local_files(config.model(name)["source"])
                texts = config.texts(name)
                preflight.check_texts(texts, config.content["calibration"]["examples"])
                preflight.texts_version(texts)
            for app in config.apps(old):
                row = config.adapter(app, old)
                source = config.model(old)["source"]
                preflight.check_adapter(row["source"], source, config.known_as(old))


def configured(**sections: Any) -> Callable[[Path], None]:
    """Spoil config.yaml: sections that stand in for those of the sound one."""
    return lambda root: (root / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **sections}))


def edit_json(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file; a field that is set to ... is removed."""
    content = {**json.loads(path.read_text()), **changes}
    kept = {key: value for key, value in content.items() if value is not ...}
    path.write_text(json.dumps(kept))


def edit_tensors(path: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    """Change the tensors of a safetensors file."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def edit_header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the header of a safetensors file and nothing behind it."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


class Marker:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.mark), "w"))
