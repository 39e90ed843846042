"""Checkpoints of a training that may be killed: where they lie, and which one it goes on from."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..artifacts import ADAPTER_WEIGHTS, sha256
from ..runtime.measure import versions
from .data import Example, fingerprint
from .settings import Settings
from .starts import Fresh

PREFIX = "checkpoint-"  # of a checkpoint's folder, as the Trainer names it


def key_of(
    chosen: Sequence[Example],
    start: Fresh | str | Path,
    settings: Settings,
    inputs: Mapping[str, str] | None,
) -> str:
    """What a checkpoint must have been made from to be of use."""
    if isinstance(start, Fresh):
        begun: Any = asdict(start)
    else:
        begun = sha256(Path(start) / ADAPTER_WEIGHTS)
    parts = [asdict(settings), begun, fingerprint(chosen), dict(inputs or {}), versions()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def make_folder(root: str | Path | None, key: str, out: str | Path) -> Path:
    """The folder for checkpoints of this very run."""
    out = Path(out)
    beside = out.with_name(f".{out.name}.{os.getpid()}.checkpoints")
    folder = Path(root) / key[:24] if root else beside
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def newest(folder: Path) -> str | None:
    """The newest whole checkpoint; the Trainer writes trainer_state.json last."""
    for path in sorted(
        folder.glob(f"{PREFIX}*"), key=lambda p: int(p.name[len(PREFIX) :]), reverse=True
    ):
        try:
            json.loads((path / "trainer_state.json").read_text())
        except (OSError, ValueError):
            shutil.rmtree(path)
            continue
        return str(path)
    return None
