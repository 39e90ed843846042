"""Transfer maps: what every method reduces to, and how it lies on disk.

Per target module a map is a list of terms, each a pair of linear maps that do not depend on the
adapter: `B_n = Σ L B_o`, `A_n = A_o R`; a method may add a constant matrix to the update. L and R
are products of factors, dense or block-sparse, so that nothing larger than the thinnest form is
stored; matrices that many modules share stand once and are linked. They lie in the order in which
an adapter is carried and are read as they are used (`stored`). No torch here: carrying an adapter
must start fast.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np

from ..artifacts import H5Writer, read_h5, write_h5
from ..errors import LoraportError
from .stored import Transposed, narrowed, open_matrix

STORED = ("constant", "rows_old", "rows_new")  # arrays of a module's map that may be there
COLUMNS_AT_ONCE = 512  # of a map that are formed at a time
NOTE = "note_"  # prefix of the attributes that hold a module's notes


class Factor(Protocol):
    """A linear map (m, n) that can be multiplied from either side."""

    def times(self, right: np.ndarray) -> np.ndarray:
        """The map times `right` (n, k): (m, k)."""

    def after(self, left: np.ndarray) -> np.ndarray:
        """`left` (k, m) times the map: (k, n)."""


@dataclass(frozen=True)
class Dense:
    """A matrix (m, n); one with a `name` is stored once and shared by every factor of that name."""

    matrix: Any  # numpy array, or torch tensor until it is written
    name: str = ""
    transposed: bool = False

    def times(self, right: np.ndarray) -> np.ndarray:
        """`matrix @ right`, (m, k)."""
        return self._matrix() @ right

    def after(self, left: np.ndarray) -> np.ndarray:
        """`left @ matrix`, (k, n)."""
        return left @ self._matrix()

    def _matrix(self) -> np.ndarray:
        return self.matrix.T if self.transposed else self.matrix


@dataclass(frozen=True)
class Blocks:
    """A block-sparse map: the sum of `blocks[i]` at block row `rows[i]`, block column `cols[i]`.

    Attributes
    ----------
    rows, cols : (k,) int64
    blocks : (k, h_m, h_n)
    grid : number of block rows and of block columns
    """

    rows: np.ndarray
    cols: np.ndarray
    blocks: Any
    grid: tuple[int, int]

    def times(self, right: np.ndarray) -> np.ndarray:
        """The map times `right` (n, k), by the blocks that are there: (m, k)."""
        parts = right.reshape(self.grid[1], -1, right.shape[-1])
        result = np.zeros((self.grid[0], self.blocks.shape[1], right.shape[-1]), right.dtype)
        np.add.at(result, self.rows, self.blocks @ parts[self.cols])
        return result.reshape(-1, right.shape[-1])

    def after(self, left: np.ndarray) -> np.ndarray:
        """`left` (k, m) times the map: (k, n)."""
        flipped = Blocks(self.cols, self.rows, self.blocks.transpose(0, 2, 1), self.grid[::-1])
        return flipped.times(left.T).T


@dataclass(frozen=True)
class Term:
    """One pair of maps; an empty product is the identity."""

    left: tuple[Factor, ...] = ()
    right: tuple[Factor, ...] = ()

    def carry(self, b: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`L B_o` and `A_o R`, always multiplied from the thin side: O(r · stored numbers)."""
        return self.carry_left(b), self.carry_right(a)

    def carry_left(self, b: np.ndarray) -> np.ndarray:
        """`L B_o`."""
        for factor in reversed(self.left):
            b = factor.times(b)
        return b

    def carry_right(self, a: np.ndarray) -> np.ndarray:
        """`A_o R`."""
        for factor in self.right:
            a = factor.after(a)
        return a


@dataclass(frozen=True)
class ModuleMap:
    """How one role of one new layer gets its update.

    Attributes
    ----------
    layer, role : of the new model
    old_layer : where the update comes from
    terms : pairs of maps whose results add up
    norm_old, norm_new : ‖W‖_F of the two base weights
    rows_old, rows_new : ‖W‖ of each row of the two base weights, (d_out,), or None: DoRA needs them
    constant : matrix (d_out, d_in) that is added to the carried update, or None; the sum is then
        cut to the adapter's rank
    notes : figures about how the map was made, stored beside it
    right_key : equal for two roles of a layer if and only if their R is the same
    """

    layer: int
    role: str
    old_layer: int
    terms: tuple[Term, ...]
    norm_old: float
    norm_new: float
    constant: Any = field(default=None, compare=False)
    rows_old: Any = field(default=None, compare=False)
    rows_new: Any = field(default=None, compare=False)
    notes: Mapping[str, float] = field(default_factory=dict, compare=False)
    right_key: str = field(default="", compare=False)


def absolute_times(entry: ModuleMap, right: np.ndarray) -> np.ndarray:
    """`|L| right`, (d_out_n, k), for the entrywise absolute value of a map's L.

    L is the sum over the map's terms. It is formed by some columns at a time.
    """
    if all(not term.left for term in entry.terms):
        return right * len(entry.terms)
    total: Any = 0.0
    for start in range(0, len(right), COLUMNS_AT_ONCE):
        span = slice(start, min(start + COLUMNS_AT_ONCE, len(right)))
        columns = np.zeros((len(right), span.stop - start))
        columns[span] = np.eye(span.stop - start)
        left: Any = sum(term.carry_left(columns) for term in entry.terms)
        total = total + np.abs(left) @ right[span]
    return total


def write_maps(
    path: str | Path,
    method: str,
    inputs: Mapping[str, str],
    maps: Iterable[ModuleMap],
    ahead: int = 1,
) -> None:
    """Store maps as they come: float32, and a dense matrix whose numbers are all bfloat16 or
    float16, as base weights are, in two bytes each.

    A thread writes while the next modules are made. Up to `ahead` of them wait in memory, with the
    one that is being written, and each is let go as soon as it is written: whoever makes them is
    to keep none. Where one can't be written, no module after the next one is asked for.
    """
    shared: dict[str, str] = {}  # dataset -> type of its numbers
    with write_h5(path, "maps", inputs) as writer:
        writer.attributes(method=method)
        pool, waiting = ThreadPoolExecutor(1), deque[Future]()
        try:
            for entry in maps:
                while waiting and (len(waiting) >= ahead or waiting[0].done()):
                    waiting.popleft().result()
                waiting.append(pool.submit(_write_module, writer, entry, shared))
                del entry  # the next one may take as much
            while waiting:
                waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _write_module(writer: H5Writer, entry: ModuleMap, shared: dict[str, str]) -> None:
    group = f"layer_{entry.layer}/{entry.role}"
    writer.attributes(
        group,
        old_layer=entry.old_layer,
        terms=len(entry.terms),
        norm_old=float(entry.norm_old),
        norm_new=float(entry.norm_new),
        **{f"{NOTE}{key}": float(value) for key, value in entry.notes.items()},
    )
    for name in STORED:
        if getattr(entry, name) is not None:
            writer.dataset(f"{group}/{name}", _float32(getattr(entry, name)))
    for number, term in enumerate(entry.terms):
        for side, factors in (("L", term.left), ("R", term.right)):
            _write_product(writer, f"{group}/term_{number}/{side}", factors, shared)


def _write_product(
    writer: H5Writer, group: str, factors: tuple[Factor, ...], shared: dict[str, str]
) -> None:
    writer.attributes(group, factors=len(factors))
    for number, factor in enumerate(factors):
        name = f"{group}/{number}"
        if isinstance(factor, Blocks):
            writer.attributes(name, kind="blocks", grid=[int(size) for size in factor.grid])
            writer.dataset(f"{name}/rows", np.asarray(factor.rows, dtype=np.int64))
            writer.dataset(f"{name}/cols", np.asarray(factor.cols, dtype=np.int64))
            writer.dataset(f"{name}/blocks", _float32(factor.blocks))
            continue
        assert isinstance(factor, Dense)
        writer.attributes(name, kind="dense", transposed=factor.transposed)
        if not factor.name:
            kind, values = narrowed(_float32(factor.matrix))
            writer.plain(f"{name}/{kind}", values)
            continue
        target = f"/shared/{factor.name}"
        if target not in shared:
            shared[target], values = narrowed(_float32(factor.matrix))
            writer.plain(target, values)
        writer.link(f"{name}/{shared[target]}", target)


def _float32(values: Any) -> np.ndarray:
    if not isinstance(values, np.ndarray):
        values = values.detach().float().cpu().numpy()  # rounded where it is: half is moved
    return values.astype(np.float32, copy=False)


def _source(roles: h5py.Group) -> int | None:
    return next((int(node.attrs["old_layer"]) for node in roles.values()), None)


class Maps:
    """Maps read on demand: matrices where they are multiplied, the rest with its module."""

    def __init__(self, file: h5py.File, path: str | Path):
        self._file, self._path = file, path
        self.method = str(file.attrs["method"])
        self._layers = {
            int(name.removeprefix("layer_")): file[name]
            for name in file
            if name.startswith("layer_")
        }
        self._sources = {number: _source(roles) for number, roles in self._layers.items()}

    def layers(self) -> dict[int, dict[str, int]]:
        """New layer -> role -> old layer."""
        return {
            number: {role: int(node.attrs["old_layer"]) for role, node in roles.items()}
            for number, roles in sorted(self._layers.items())
        }

    def source(self, layer: int) -> int | None:
        """The old layer that serves a new one; None where none does."""
        return self._sources.get(layer)

    def module(self, layer: int, role: str) -> ModuleMap | None:
        """The map of a role of a new layer, or None where the layer has no source."""
        if layer not in self._layers:
            return None
        roles = self._layers[layer]
        if role not in roles:
            raise LoraportError(
                f"{self._path} holds no map for {role} modules",
                got=f"an adapter on {role}; maps for {', '.join(roles)}",
                todo=f"add {role} to mapping.modules",
            )
        node = roles[role]
        terms, keys = [], []
        for number in range(int(node.attrs["terms"])):
            left, _ = self._product(node[f"term_{number}/L"])
            right, key = self._product(node[f"term_{number}/R"])
            terms.append(Term(left, right))
            keys.append(key)
        arrays = {name: node[name][...] for name in STORED if name in node}
        return ModuleMap(
            layer,
            role,
            int(node.attrs["old_layer"]),
            tuple(terms),
            float(node.attrs["norm_old"]),
            float(node.attrs["norm_new"]),
            **arrays,
            notes={
                key.removeprefix(NOTE): float(node.attrs[key])
                for key in node.attrs
                if key.startswith(NOTE)
            },
            right_key=" + ".join(keys),
        )

    def _product(self, group: h5py.Group) -> tuple[tuple[Factor, ...], str]:
        factors: list[Factor] = []
        keys = []
        for number in range(int(group.attrs["factors"])):
            node = group[str(number)]
            if node.attrs["kind"] == "blocks":
                rows, cols, blocks = (node[name][...] for name in ("rows", "cols", "blocks"))
                height, width = (int(size) for size in node.attrs["grid"])
                factors.append(Blocks(rows, cols, blocks, (height, width)))
                keys.append(node.name)
                continue
            kind = next(iter(node))
            link = node.get(kind, getlink=True)
            target = link.path if isinstance(link, h5py.SoftLink) else f"{node.name}/{kind}"
            transposed = bool(node.attrs["transposed"])
            factors.append(self._factor(target, kind, transposed))
            keys.append(f"{target}{'ᵀ' if transposed else ''}")
        return tuple(factors), " · ".join(keys) or "identity"

    def _factor(self, target: str, kind: str, transposed: bool) -> Factor:
        stored = open_matrix(self._path, self._file[target], kind)
        if stored is None:
            return Dense(self._file[target][...].astype(np.float64), transposed=transposed)
        return Transposed(stored) if transposed else stored


@contextmanager
def open_maps(path: str | Path) -> Iterator[Maps]:
    """Open a maps artifact for reading."""
    with read_h5(path, "maps") as file:
        yield Maps(file, path)
