"""Second moments on disk: their writer and their reader."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ..artifacts import H5Writer, read_h5
from ..errors import LoraportError
from .batches import PARTS
from .moments import SIZES, SUMS, LayerMoments, Moments
from .sites import SITES

GRAMS = ("gram_old", "gram_new")


def write_layer(writer: H5Writer, layer: int, old_layer: int, sums: LayerMoments) -> None:
    """Store one layer pair's moments, float64; of a symmetric matrix the lower triangle."""
    writer.attributes(f"layer_{layer}", old_layer=old_layer)
    for site, parts in sums.items():
        for part, moments in zip(PARTS, parts, strict=True):
            group = f"layer_{layer}/{site}/{part}"
            for name in SUMS:
                values = getattr(moments, name)
                if values is not None:
                    array = values.cpu().numpy()
                    writer.dataset(f"{group}/{name}", pack(array) if name in GRAMS else array)
            sizes = {name: getattr(moments, name) for name in ("rms_old", "rms_new")}
            writer.attributes(
                group,
                count=moments.count,
                square_old=moments.square_old,
                square_new=moments.square_new,
                **{name: size for name, size in sizes.items() if size},
            )


def pack(matrix: np.ndarray) -> np.ndarray:
    """The lower triangle of a symmetric matrix (n, n), row by row: (n (n + 1) / 2,)."""
    return np.concatenate([row[: number + 1] for number, row in enumerate(matrix)])


def unpack(triangle: np.ndarray) -> np.ndarray:
    """The symmetric matrix (n, n) of a lower triangle (n (n + 1) / 2,)."""
    size = math.isqrt(2 * len(triangle))
    matrix = np.empty((size, size), triangle.dtype)
    for number in range(size):
        start = number * (number + 1) // 2
        row = triangle[start : start + number + 1]
        matrix[number, : number + 1] = matrix[: number + 1, number] = row
    return matrix


Value = TypeVar("Value")


class StoredSites(Mapping[str, Value]):
    """What lies on disk of the sites of one new layer; each site is read when it is asked for.

    Parameters
    ----------
    kind, what : of the artifact, and what it holds of a site, in words
    read : of a site's node in the file
    """

    def __init__(
        self, path: str | Path, layer: int, kind: str, what: str, read: Callable[[Any], Value]
    ):
        self._path, self._layer, self._kind, self._what = path, layer, kind, what
        self._read = read
        with read_h5(path, kind) as file:
            self._sites = [site for site in SITES if site in file[f"layer_{layer}"]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    def __contains__(self, site: object) -> bool:
        return site in self._sites

    def __getitem__(self, site: str) -> Value:
        if site not in self:
            raise LoraportError(
                f"{self._path} holds no {self._what} at {site} of layer {self._layer}",
                got=f"{self._what} at {', '.join(self)}",
                expected="those that maps of all of mapping.modules need",
                todo="delete it and run the workflow again",
            )
        with read_h5(self._path, self._kind) as file:
            return self._read(file[f"layer_{self._layer}/{site}"])


def read_moments(
    path: str | Path, layer: int, device: str = "cpu", kind: str = "moments"
) -> LayerMoments:
    """Moments at the sites of one new layer: of the texts to fit on, and of those held out."""
    return StoredSites(path, layer, kind, "sums", partial(_read_site, device=device))


def layer_sums(node: Any) -> LayerMoments:
    """The same from a layer's group of a file that is open."""
    return {site: _read_site(node[site]) for site in SITES if site in node}


def _read_site(node: Any, device: str = "cpu") -> tuple[Moments, Moments]:
    fit, held = (_read_part(node[part], device) for part in PARTS)
    return fit, held


def _read_part(node: Any, device: str) -> Moments:
    arrays = {name: values[...] for name, values in node.items()}
    full = {name: unpack(arrays[name]) for name in GRAMS if name in arrays}
    held = {name: torch.from_numpy(each).to(device) for name, each in {**arrays, **full}.items()}
    numbers = {key: value.item() for key, value in node.attrs.items()}
    sizes = torch.tensor([numbers.get(name, 0.0) for name in SIZES], dtype=torch.float64)
    fields: dict[str, Any] = {**dict.fromkeys(GRAMS), **held, "count": numbers["count"]}
    return Moments(**fields, sizes=sizes)
