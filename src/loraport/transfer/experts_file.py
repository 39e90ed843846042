"""The experts artifact of a pair: which experts of two models do the same, and the maps between
them; its writer and its reader, numpy alone.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..artifacts import H5Writer, read_h5


@dataclass(frozen=True)
class LayerExperts:
    """The experts of one pair of layers.

    Attributes
    ----------
    old_layer : that serves the new layer
    experts : (E,) old expert of each new one
    neurons : (E, f) old neuron of each neuron of each new expert
    left : L (d_n, d_o), what experts write to the residual stream
    right : R (d_o, d_n), what they read
    about : figures of the match
    """

    old_layer: int
    experts: np.ndarray
    neurons: np.ndarray
    left: np.ndarray
    right: np.ndarray
    about: Mapping[str, float]


def write_experts(file: H5Writer, layer: int, found: LayerExperts) -> None:
    """Store the experts of one new layer."""
    group = f"layer_{layer}"
    file.dataset(f"{group}/experts", found.experts.astype(np.int32))
    file.dataset(f"{group}/neurons", found.neurons.astype(np.int32))
    file.dataset(f"{group}/left", found.left.astype(np.float32))
    file.dataset(f"{group}/right", found.right.astype(np.float32))
    file.attributes(group, old_layer=found.old_layer, **found.about)


class ExpertsFile:
    """An open artifact: new layer -> its experts, where both models have some there."""

    def __init__(self, file: h5py.File):
        self._file = file

    def layers(self) -> list[int]:
        """New layers that are in it."""
        names = (name for name in self._file if name.startswith("layer_"))
        return sorted(int(name.removeprefix("layer_")) for name in names)

    def read(self, layer: int) -> LayerExperts:
        """The experts of one new layer."""
        node = self._file[f"layer_{layer}"]
        about: dict[str, Any] = {key: value.item() for key, value in node.attrs.items()}
        old_layer = int(about.pop("old_layer"))
        experts, neurons = node["experts"][...], node["neurons"][...]
        left, right = (node[name][...].astype(np.float64) for name in ("left", "right"))
        return LayerExperts(old_layer, experts, neurons, left, right, about)


@contextmanager
def open_experts(path: str | Path) -> Iterator[ExpertsFile]:
    """Open the artifact."""
    with read_h5(path, "experts") as file:
        yield ExpertsFile(file)
