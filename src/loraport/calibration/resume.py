"""What two walks over texts have come to, kept on disk while they last: a run that is cut off goes
on at the block that it had reached.

A file is whole or absent, and says what it was made from: inputs, settings, texts, code. One of
anything else is not used.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..artifacts import H5Writer, identity, read_h5, write_h5
from ..errors import LoraportError
from .batches import Batch
from .moments import LayerMoments
from .moments_file import layer_sums, read_moments, write_layer
from .streams import Streams, bits
from .walk import LENT, Reached, Walk

SAVE_EVERY_S = 600.0  # seconds between two times that streams and sums are kept
SUMS, STREAMS = "moments_so_far", "streams_so_far"


class Kept:
    """What is kept for one artifact.

    Parameters
    ----------
    root, output : it lies in a folder of `root` that is named by the artifact's path
    made_from : name -> digest of all that the artifact depends on
    """

    def __init__(self, root: str | Path, output: str | Path, made_from: Mapping[str, str]):
        self.folder = Path(root) / hashlib.sha256(str(output).encode()).hexdigest()[:24]
        self._made_from = dict(made_from)
        self._streams = self.folder / "streams.h5"
        self._saved = time.monotonic()

    def remove(self) -> None:
        """Everything that is kept, when the artifact is in place."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _is_due(self) -> bool:
        """Whether enough time has passed since something was kept, or begun."""
        return time.monotonic() - self._saved >= SAVE_EVERY_S

    def _checked(self, path: Path) -> Path:
        """A file that is there and was made from the same."""
        if identity(path)[1] != self._made_from:
            raise LoraportError(f"{path} was made from something else")
        return path

    @contextmanager
    def _written(self, walks: Sequence[Walk]) -> Iterator[H5Writer]:
        """The file of the walks' streams, to which more may be written."""
        with write_h5(self._streams, STREAMS, self._made_from) as file:
            yield file
            for side, walk in enumerate(walks):
                _write_reached(file, str(side), walk)
        self._saved = time.monotonic()


class KeptMoments(Kept):
    """What is kept for moments.

    Parameters
    ----------
    pairs : (old, new) layers of the artifact
    artifact : as it is being written: sums are kept once some time has passed, from there
    """

    def __init__(
        self,
        root: str | Path,
        output: str | Path,
        made_from: Mapping[str, str],
        pairs: Sequence[tuple[int, int]],
        artifact: H5Writer,
    ):
        layers = json.dumps([list(pair) for pair in pairs])
        super().__init__(root, output, {**made_from, "pairs": layers})
        self._pairs, self._artifact = pairs, artifact
        self._done = 0  # layer pairs whose sums are kept

    def load(self, walks: tuple[Walk, Walk]) -> list[LayerMoments]:
        """Move the walks on to where they had come, with the sums of the layer pairs behind them;
        none where nothing is kept that can be used.
        """
        try:
            with read_h5(self._checked(self._streams), STREAMS) as file:
                done = int(file.attrs["done"])
                reached = [_reached(file[str(side)]) for side in range(len(walks))]
            paths = [self._checked(self._sums(layer)) for _, layer in self._pairs[:done]]
            sums = [
                read_moments(path, layer, "cpu", SUMS)
                for path, (_, layer) in zip(paths, self._pairs, strict=False)
            ]
            for each in sums:
                dict(each)  # reads it all, so that what is damaged is known now
        except LoraportError:  # not there, or damaged
            return []
        for walk, state in zip(walks, reached, strict=True):
            walk.resume(state)
        self._done = done
        return sums

    def save_if_due(self, walks: tuple[Walk, Walk], done: int) -> None:
        """Keep the streams of both walks and the sums of `done` layer pairs, if it is time to."""
        if not self._is_due():
            return
        for old_layer, layer in self._pairs[self._done : done]:
            with write_h5(self._sums(layer), SUMS, self._made_from) as file:
                sums = layer_sums(self._artifact.written(f"layer_{layer}"))
                write_layer(file, layer, old_layer, sums)
        with self._written(walks) as file:
            file.attributes(done=done)
        self._done = done

    def _sums(self, layer: int) -> Path:
        return self.folder / f"layer_{layer}.h5"


class KeptFeatures(Kept):
    """What is kept for a model's pooled features."""

    def load(self, walk: Walk, features: np.ndarray) -> None:
        """Move the walk on to where it had come, if that is kept, and fill in the features (layers,
        n, d) of the layers behind it.
        """
        try:
            with read_h5(self._checked(self._streams), STREAMS) as file:
                done, reached = file["features"][...], _reached(file["0"])
        except LoraportError:  # not there, or damaged
            return
        features[: len(done)] = done
        walk.resume(reached)

    def save_if_due(self, walk: Walk, features: np.ndarray) -> None:
        """Keep the stream and the features of the layers behind it, if it is time to."""
        if self._is_due():
            with self._written([walk]) as file:
                file.dataset("features", features[: walk.layer])


def _write_reached(file: H5Writer, group: str, walk: Walk) -> None:
    reached = walk.reached()
    file.attributes(group, layer=reached.layer, gives_tuple=reached.gives_tuple)
    _write_tensors(file, group, reached.streams)
    for kind, states in reached.lent.items():
        _write_tensors(file, f"{group}/{LENT}/{kind}", states)


def _write_tensors(file: H5Writer, group: str, tensors: Streams) -> None:
    file.attributes(group, count=len(tensors))
    for number in range(len(tensors)):
        values = tensors[number]
        file.dataset(f"{group}/{number}/bytes", bits(values))
        file.attributes(f"{group}/{number}", shape=list(values.shape), dtype=str(values.dtype))


def _reached(group: Any) -> Reached:
    lent = {kind: _tensors(node) for kind, node in group.get(LENT, {}).items()}
    layer, gives_tuple = int(group.attrs["layer"]), bool(group.attrs["gives_tuple"])
    return Reached(layer, gives_tuple, _tensors(group), lent)


def _tensors(group: Any) -> Streams:
    tensors = Streams()
    for number in range(int(group.attrs["count"])):
        node = group[str(number)]
        dtype = getattr(torch, node.attrs["dtype"].removeprefix("torch."))
        shape = tuple(int(size) for size in node.attrs["shape"])
        tensors[number] = torch.from_numpy(node["bytes"][...]).view(dtype).view(shape)
    return tensors


def digest(batches: Sequence[Batch], *settings: Any) -> str:
    """Names what both models read, token by token, and the settings that it is read by."""
    hashed = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for batch in batches:
        hashed.update(batch.part.encode())
        for values in (*batch.inputs[0].values(), *batch.inputs[1].values(), *batch.rows):
            hashed.update(f"{tuple(values.shape)}".encode() + values.numpy().tobytes())
    return hashed.hexdigest()
