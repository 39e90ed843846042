"""Low-rank stand-ins for what servers do not take: whole embeddings and heads, and trained tokens.

Of a whole table W' over the base's W the update W' − W is cut to a rank by its singular vectors,
from the Gram of its columns, which is summed block by block of rows: no more than the factors and
one block is held beside the adapter. Trained tokens change as many rows as there are tokens, and
are a LoRA of that rank without loss.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..adapters.files import read_adapter, read_config
from ..adapters.lora_weights import LoraWeights
from ..adapters.names import plain_name
from ..artifacts import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from ..errors import LoraportError
from ..models.spec import Model, open_model, resolve
from ..models.weights import TensorFile, save_tensors

BLOCK_ROWS = 8192
TOKENS = "trainable_token_indices"  # field of adapter_config.json
TOKEN_ROWS = ".token_adapter.trainable_tokens_delta"  # end of the tensor with these tokens' rows


@dataclass(frozen=True)
class StandIn:
    """A module of the vocabulary, written as LoRA.

    Attributes
    ----------
    path : of the module
    weights : its factors, scale 1
    energy : share of ‖W' − W‖² that they hold
    """

    path: str
    weights: LoraWeights
    energy: float

    def told(self) -> str:
        """In a line."""
        return (
            f"{self.path}: LoRA of rank {self.weights.rank} in the place of whole rows keeps "
            f"{100 * self.energy:.2f} % of their change (‖ΔW‖²)"
        )


def stand_ins(folder: Path, model: Model, rank: int) -> list[StandIn]:
    """LoRA for an adapter's whole embedding and head.

    Parameters
    ----------
    folder : of the adapter, without trained tokens (`split_tokens`)
    model : its base, whose weights are read
    rank : of each stand-in, at most

    Raises
    ------
    LoraportError
        For a whole module of another kind, or tables that differ in shape.
    """
    adapter, family = read_adapter(folder), model.architecture
    checkpoint, made = model.checkpoint(), []
    for name, values in sorted(adapter.saved.items()):
        path = family.own_path(name.rpartition(".")[0])
        end = name.rpartition(".")[2]
        wanted = (model.dims.vocabulary, model.dims.hidden)
        if path not in (family.embedding, family.head) or end != "weight" or values.shape != wanted:
            raise LoraportError(
                f"adapter {folder} holds a whole module that no LoRA stands in for",
                got=f"{name} {values.shape}",
                expected=f"the weight of {family.embedding} or {family.head}, {wanted}",
                todo="train it without that module in modules_to_save, or merge it into the model",
            )
        tied = path == family.head and model.tied
        stored = f"{family.embedding if tied else path}.weight"
        made.append(_of_table(path, values, partial(checkpoint.read, stored), rank))
    return made


def _of_table(
    path: str, whole: np.ndarray, base: Callable[[slice], np.ndarray], rank: int
) -> StandIn:
    """The best LoRA of at most `rank` for a whole table; O(n d²) time for n rows of d columns."""

    def blocks() -> Iterator[tuple[slice, np.ndarray]]:
        for start in range(0, len(whole), BLOCK_ROWS):
            rows = slice(start, min(start + BLOCK_ROWS, len(whole)))
            yield rows, whole[rows].astype(np.float64) - base(rows).astype(np.float64)

    width = whole.shape[1]
    gram = np.zeros((width, width))
    for _, change in blocks():
        gram += change.T @ change
    values, vectors = np.linalg.eigh(gram)
    rank = min(rank, width)
    order = np.argsort(values)[::-1][:rank]
    kept, a = np.maximum(values[order], 0.0), vectors[:, order].T
    total = float(np.trace(gram))
    root = np.sqrt(np.sqrt(kept))  # half of the singular values goes into each factor
    inverse = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0)
    b = np.empty((len(whole), rank), np.float32)
    for rows, change in blocks():
        b[rows] = (change @ a.T) * inverse
    a = (a * root[:, None]).astype(np.float32)
    energy = float(kept.sum()) / total if total else 1.0
    return StandIn(path, LoraWeights(b, a, float(rank)), min(energy, 1.0))


@dataclass(frozen=True)
class Tokens:
    """Rows that an adapter trained for single tokens: module -> (ids (n,), rows (n, d))."""

    rows: dict[str, tuple[np.ndarray, np.ndarray]]


def split_tokens(folder: Path, copy: Path) -> Tokens:
    """An adapter without its trained tokens, written into `copy`, and these tokens' rows.

    Where it has none, nothing is written.
    """
    config = read_config(folder)
    asked = config.get(TOKENS)
    if not asked:
        return Tokens({})
    file = TensorFile(folder / ADAPTER_WEIGHTS)
    held = {plain_name(name): name for name in file.tensors}
    rows = {}
    for plain, name in held.items():
        if plain.endswith(TOKEN_ROWS):
            path = plain.removesuffix(TOKEN_ROWS)
            rows[path] = (_ids(asked, path, folder), file.read(name).astype(np.float32))
    wrong = [path for path, (ids, values) in rows.items() if len(ids) != len(values)]
    if wrong or not rows:
        raise LoraportError(
            f"adapter {folder} does not hold the tokens' rows that its config promises",
            got=f"{len(rows)} tensors {TOKEN_ROWS}",
            expected=f"a row for each id of {TOKENS}",
            todo="save the adapter again",
        )
    gone = {held[f"{path}{TOKEN_ROWS}"] for path in rows}
    tensors = {name: file.read(name) for name in file.tensors if name not in gone}
    save_tensors(copy / ADAPTER_WEIGHTS, tensors)
    (copy / ADAPTER_CONFIG).write_text(json.dumps({**config, TOKENS: None}), encoding="utf-8")
    return Tokens(rows)


def _ids(asked: Any, path: str, folder: Path) -> np.ndarray:
    """The ids of a module's trained tokens; a list is the input embedding's."""
    if isinstance(asked, dict):
        known = [ids for name, ids in asked.items() if f".{path}".endswith(f".{name}")]
        asked = known[0] if known else []
    if not all(type(number) is int and number >= 0 for number in asked):
        raise LoraportError(
            f"adapter {folder} has a field of the wrong type in adapter_config.json",
            got=f"{TOKENS} = {asked!r}",
            expected="whole numbers",
        )
    return np.array(asked, np.int64)


def of_tokens(tokens: Tokens, model: Model, rank: int) -> list[StandIn]:
    """LoRA on the embedding, and on a head that shares its weight, for tokens' rows.

    Parameters
    ----------
    rank : at most; of fewer than the tokens the best one of that rank
    """
    family, dims, checkpoint = model.architecture, model.dims, model.checkpoint()
    made = []
    for path, (ids, rows) in sorted(tokens.rows.items()):
        own = family.own_path(path)
        if own != family.embedding or rows.shape[1] != dims.hidden or ids.max() >= dims.vocabulary:
            raise LoraportError(
                "trained tokens stand in for rows that the base model has not",
                got=f"{path}, ids up to {ids.max()}, rows of {rows.shape[1]}",
                expected=f"{family.embedding} of {dims.vocabulary} rows of {dims.hidden}",
                todo="name the adapter's own base by --base",
            )
        name = f"{own}.weight"
        base = np.stack([checkpoint.read(name, slice(i, i + 1))[0] for i in ids.tolist()])
        change = rows.astype(np.float64) - base.astype(np.float64)
        u, s, vh = np.linalg.svd(change, full_matrices=False)
        kept = min(rank, int((s > 0).sum()) or 1)
        root = np.sqrt(s[:kept])
        b = np.zeros((dims.vocabulary, kept), np.float32)
        b[ids] = u[:, :kept] * root
        a = (root[:, None] * vh[:kept]).astype(np.float32)
        total = float((s**2).sum())
        energy = float((s[:kept] ** 2).sum()) / total if total else 1.0
        one = StandIn(own, LoraWeights(b, a, float(kept)), energy)
        made += [one, replace(one, path=family.head)] if model.tied else [one]
    return made


def with_weights(model: Model, source: str, revision: str = "") -> Model:
    """The same model with its weights at hand, fetched where it is one of the hub."""
    return (
        model
        if any(model.directory.glob("*.safetensors"))
        else open_model(resolve(source, revision)[0])
    )
