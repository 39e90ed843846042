"""Sums of a pass over the texts, kept on disk while it lasts: a run that is cut off goes on there.

A file is whole or absent, and says what its sums were made from: inputs, settings, texts, code. One
of anything else is not used.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..artifacts import identity, read_h5, write_h5
from ..errors import LoraportError
from .batches import Batch
from .moments import LayerMoments
from .moments_file import read_moments, write_layer

SAVE_EVERY_S = 600.0  # seconds between two times that the sums of a pass are kept
KIND = "moments_so_far"


class Kept:
    """What is kept for one moments artifact.

    Parameters
    ----------
    root, output : it lies in a folder of `root` that is named by the artifact's path
    made_from : name -> digest of all that the sums depend on
    """

    def __init__(self, root: str | Path, output: str | Path, made_from: Mapping[str, str]):
        self.folder = Path(root) / hashlib.sha256(str(output).encode()).hexdigest()[:24]
        self.made_from = dict(made_from)
        self._saved = time.monotonic()
        self._held: tuple[Path, int] | None = None  # the last file, and the batches in it

    def load(self, pairs: Sequence[tuple[int, int]], device: str) -> tuple[int, list[LayerMoments]]:
        """How many batches are in the sums of these layer pairs, and the sums; else 0 and none."""
        path = self._path(pairs)
        self._saved = time.monotonic()
        try:
            if identity(path)[1] != self._made_from(pairs):
                return 0, []
            with read_h5(path, KIND) as file:
                done = int(file.attrs["batches"])
            sums: list[LayerMoments] = [
                dict(read_moments(path, layer, device, KIND)) for _, layer in pairs
            ]
            self._held = path, done
            return done, sums
        except LoraportError:  # not there, or damaged
            return 0, []

    def is_due(self) -> bool:
        """Whether enough time has passed since the sums were kept, or begun."""
        return time.monotonic() - self._saved >= SAVE_EVERY_S

    def save(
        self, pairs: Sequence[tuple[int, int]], sums: Sequence[LayerMoments], batches: int
    ) -> None:
        """Keep the sums of these layer pairs, with so many batches in them."""
        path = self._path(pairs)
        if (path, batches) == self._held:
            return
        with write_h5(path, KIND, self._made_from(pairs)) as file:
            file.attributes(batches=batches)
            for (old_layer, layer), each in zip(pairs, sums, strict=True):
                write_layer(file, layer, old_layer, each)
        self._saved, self._held = time.monotonic(), (path, batches)

    def remove(self) -> None:
        """Everything that is kept, when the artifact is in place."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, pairs: Sequence[tuple[int, int]]) -> Path:
        return self.folder / f"layer_{pairs[0][1]}.h5"

    def _made_from(self, pairs: Sequence[tuple[int, int]]) -> dict[str, str]:
        return {**self.made_from, "pairs": json.dumps([list(pair) for pair in pairs])}


def digest(batches: Sequence[Batch], *settings: Any) -> str:
    """Names what both models read, token by token, and the settings that it is read by."""
    hashed = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for batch in batches:
        hashed.update(batch.part.encode())
        for values in (*batch.inputs[0].values(), *batch.inputs[1].values(), *batch.rows):
            hashed.update(f"{tuple(values.shape)}".encode() + values.numpy().tobytes())
    return hashed.hexdigest()
