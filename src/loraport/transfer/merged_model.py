"""The new model's weights with a carried adapter merged into them, written shard by shard.

`W' = W + s B A`, and for DoRA `W' = m ∘ (W + s B A) / ‖W + s B A‖_row`: in float64 over some rows
at a time, rounded once. For servers that take no adapters.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..adapters.experts import gathered, is_routed
from ..adapters.files import DTYPES, Adapter, read_adapter
from ..adapters.lora_weights import LoraWeights
from ..adapters.trained_tokens import END
from ..artifacts import ADAPTER_FILES, write_json
from ..errors import LoraportError
from ..models.families import Architecture
from ..models.folder import INDEX, NAMED
from ..models.spec import Model, read_config
from ..models.weights import Checkpoint, Planned, is_finite, write_streamed
from ..provenance import versions
from .merged_experts import expert_changes

SHARD_BYTES = 5 * 10**9  # of a written file, at the most
BLOCK_NUMBERS = 1 << 24  # of a tensor that are held at a time
BESIDE = ("*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja", "*.py")  # tokenizer, generation
WRITTEN_ANEW = ("config.json", "merged.json", INDEX)
Change = Callable[[np.ndarray, slice], np.ndarray]


@dataclass(frozen=True)
class Item:
    """What a written tensor is made from.

    Attributes
    ----------
    stored : the base's tensor
    change : from rows of the base's tensor, and which rows they are, to rows of the new one
    """

    stored: str
    change: Change | None = None


def merged_rows(base: np.ndarray, module: LoraWeights, rows: slice) -> np.ndarray:
    """Rows of a module's merged weight, (n, d_in) float64, from those rows of the base's."""
    merged = base.astype(np.float64)
    if module.rank:
        update = module.b[rows].astype(np.float64) @ module.a.astype(np.float64)
        merged += module.scale * update
    if module.magnitude is None:
        return merged
    lengths = np.linalg.norm(merged, axis=1)
    stretch = module.magnitude[rows].astype(np.float64) / np.where(lengths > 0, lengths, 1.0)
    return merged * stretch[:, None]


def merge(
    source: Path,
    model: Model,
    out: Path,
    dtype: str,
    identities: Mapping[str, str],
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int], Any] = lambda count: None,
) -> dict[str, Any]:
    """Write a model with an adapter merged into it: weights, config, tokenizer, merged.json.

    Parameters
    ----------
    source : PEFT directory of an adapter for this model
    out : an existing folder
    dtype : of the written weights: `base` keeps each tensor's own, or a name in `adapter.DTYPES`
    identities : of the artifacts that it is made from
    shard_bytes : of a written file, unless one tensor needs more
    progress : told the bytes that were written

    Returns
    -------
    content of merged.json

    Notes
    -----
    O(bytes of the model) time, a block of one tensor of memory. An output head that was tied to an
    embedding stands apart from it where the adapter changes either, and config.json says so.

    Raises
    ------
    LoraportError
        For a module that the model lacks or has in another shape, and where a dtype overflows.
    """
    adapter, checkpoint = read_adapter(source, zero=True), model.checkpoint()
    items, untied = _items(adapter, model, checkpoint)
    plans = [
        Planned(name, _dtype(checkpoint.dtype(item.stored), dtype), checkpoint.shape(item.stored))
        for name, item in items.items()
    ]
    shards = _shards(plans, shard_bytes)

    def blocks(plan: Planned) -> Iterator[np.ndarray]:
        for block in _blocks(model, checkpoint, items[plan.name], plan):
            progress(block.nbytes)
            yield block

    for file, held in shards.items():
        write_streamed(out / file, held, blocks)
    if len(shards) > 1:
        _write_index(out / INDEX, shards)
    _copy_beside(model, out, dtype, untied)
    content = {
        "adapter": adapter.hashes(),
        "dtype": dtype,
        "changed": sum(item.change is not None for item in items.values()),
        "untied": untied,
        "bytes": sum(plan.nbytes for plan in plans),
        "files": sorted(shards),
        "versions": versions("numpy", "safetensors"),
    }
    write_json(out / "merged.json", "merged", identities, content)
    return content


def _items(adapter: Adapter, model: Model, checkpoint: Checkpoint) -> tuple[dict[str, Item], bool]:
    """Name of a written tensor -> what it is made from, in the base's order; whether the head, tied
    in the base, has a weight of its own there.
    """
    family = model.architecture
    table, head = f"{family.embedding}.weight", f"{family.head}.weight"
    changes = _changes(adapter, family) | _trained_rows(adapter, model)
    changes |= expert_changes(gathered(adapter.modules, family, model.dims), model, checkpoint)
    places = {name: checkpoint.stored(name) for name in changes if name in checkpoint}
    items = {name: Item(name) for name in checkpoint.names()}
    untied = model.tied and bool(changes.keys() & {table, head})
    if untied:
        full, own = _names_beside_a_head(family, items)
        items = {full[name]: item for name, item in items.items()}
        places = {name: full[stored] for name, stored in places.items()} | {head: own}
        items[own] = Item(checkpoint.stored(table))
    for name, (shape, change) in changes.items():
        place = places.get(name)
        if place is None or checkpoint.shape(items[place].stored) != shape:
            raise LoraportError(
                f"adapter {adapter.directory} can't be merged into {model.directory}",
                got=f"{name} {shape}",
                expected="modules that the model has, in its shapes, and biases where it has some",
                todo="merge it into the model that it was made for",
            )
        items[place] = Item(items[place].stored, change)
    return items, untied


def _changes(adapter: Adapter, family: Architecture) -> dict[str, tuple[tuple[int, ...], Change]]:
    """Name of a tensor -> its shape and what happens to it."""
    changes: dict[str, tuple[tuple[int, ...], Change]] = {}
    for path, module in adapter.modules.items():
        if is_routed(path, family):
            continue
        shape = module.b.shape[0], module.a.shape[1]
        changes[f"{path}.weight"] = shape, partial(_merged, module)
        if module.bias is not None:
            bias = module.scale * module.bias.astype(np.float64)
            changes[f"{path}.bias"] = bias.shape, partial(_added, bias)
    whole = {f"{path}.weight": values for path, values in adapter.tables.items()}
    for name, values in {**whole, **adapter.saved}.items():
        if not name.endswith(END):
            changes[name] = values.shape, partial(_replaced, values)
    return changes


def _trained_rows(adapter: Adapter, model: Model) -> dict[str, tuple[tuple[int, ...], Change]]:
    """Tables in which the adapter trained some tokens' rows; a tied head is one as well."""
    family, shape = model.architecture, (model.dims.vocabulary, model.dims.hidden)
    changes: dict[str, tuple[tuple[int, ...], Change]] = {}
    for path, ids in adapter.tokens.items():
        change = partial(_some_replaced, dict(zip(ids, adapter.saved[path + END], strict=True)))
        changes[f"{path}.weight"] = shape, change
        if model.tied and path == family.embedding:
            changes[f"{family.head}.weight"] = shape, change
    return changes


def _some_replaced(trained: Mapping[int, np.ndarray], base: np.ndarray, rows: slice) -> np.ndarray:
    values = base.astype(np.float64)
    for number, row in trained.items():
        if rows.start <= number < rows.stop:
            values[number - rows.start] = row
    return values


def _merged(module: LoraWeights, base: np.ndarray, rows: slice) -> np.ndarray:
    return merged_rows(base, module, rows)


def _added(values: np.ndarray, base: np.ndarray, rows: slice) -> np.ndarray:
    return base.astype(np.float64) + values[rows]


def _replaced(values: np.ndarray, base: np.ndarray, rows: slice) -> np.ndarray:
    return values[rows]


def _names_beside_a_head(family: Architecture, names: Iterable[str]) -> tuple[dict[str, str], str]:
    """What a tied checkpoint's tensors are called once it holds a head as well, and the head.

    Older names stay together; a checkpoint of the bare model is given the prefix that it left out.
    """
    head = f"{family.head}.weight"
    if any(family.own_name(name) != name for name in names):
        return {
            name: name for name in names
        }, f"{family.aliases.get(family.head, family.head)}.weight"
    bare = not any(name.startswith(f"{family.prefix}.") for name in names)
    full = {name: f"{family.prefix}.{name}" if bare and name != head else name for name in names}
    return full, head


def _dtype(stored: np.dtype, wanted: str) -> np.dtype:
    """Dtype of a written tensor; whole numbers and truth values stay what they are."""
    return stored if wanted == "base" or stored.kind in "iub" else DTYPES[wanted]


def _blocks(
    model: Model, checkpoint: Checkpoint, item: Item, plan: Planned
) -> Iterator[np.ndarray]:
    """A tensor as it is to be written, some rows at a time."""
    if not plan.shape:
        yield checkpoint.read(item.stored).astype(plan.dtype)
        return
    step = max(1, BLOCK_NUMBERS // math.prod(plan.shape[1:]))
    for start in range(0, plan.shape[0], step):
        rows = slice(start, min(start + step, plan.shape[0]))
        if model.architecture.is_buffer(item.stored):  # a mask may hold -Inf
            yield checkpoint.read_raw(item.stored, rows).astype(plan.dtype)
            continue
        base = checkpoint.read(item.stored, rows)
        values = base if item.change is None else item.change(base, rows)
        with np.errstate(over="ignore"):  # told below
            block = values.astype(plan.dtype)
        if not is_finite(block):
            raise LoraportError(
                f"the merged weights would hold NaN or Inf in {plan.name}",
                got=f"values that {plan.dtype} can't hold",
                expected="finite weights",
                todo="choose another dtype: transfer.merged: float32",
            )
        yield block


def _shards(plans: Sequence[Planned], limit: int) -> dict[str, list[Planned]]:
    """File name -> the tensors it will hold, in their order."""
    groups: list[list[Planned]] = [[]]
    for plan in plans:
        if groups[-1] and sum(each.nbytes for each in groups[-1]) + plan.nbytes > limit:
            groups.append([])
        groups[-1].append(plan)
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    count = len(groups)
    return {
        f"model-{number:05d}-of-{count:05d}.safetensors": held
        for number, held in enumerate(groups, 1)
    }


def _write_index(path: Path, shards: Mapping[str, Sequence[Planned]]) -> None:
    content = {
        "metadata": {"total_size": sum(each.nbytes for held in shards.values() for each in held)},
        "weight_map": {each.name: file for file, held in shards.items() for each in held},
    }
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def _copy_beside(model: Model, out: Path, dtype: str, untied: bool) -> None:
    """config.json, which says what changed, and what lies beside the weights."""
    for path in sorted(file for pattern in BESIDE for file in model.directory.glob(pattern)):
        if path.name not in WRITTEN_ANEW and path.name not in ADAPTER_FILES:
            shutil.copyfile(path, out / path.name)
    config = read_config(model.directory)
    config.pop(NAMED, None)
    if untied:
        config["tie_word_embeddings"] = False
    if dtype != "base":
        config.pop("torch_dtype", None)
        config["dtype"] = dtype
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
