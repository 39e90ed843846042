"""Whole tensors that an adapter trained in place of its base's (modules_to_save).

A table of a vocabulary, the input embedding or the output head, has a row for each token. Two
tokenizers number their tokens each in its own way, so that rows go with their tokens: a shared
token takes its trained row to its new id, and any other keeps the row of the new base.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..adapters.trained_tokens import END
from ..errors import LoraportError
from ..models.side import Side
from .embedding_file import Tokens, is_identity, read_tokens
from .new_base import NewBase
from .trained_tokens import places_of

if TYPE_CHECKING:
    from ..adapters.files import Adapter


def check_saved(adapter: "Adapter", old: Side, new: Side) -> None:
    """Refuse by name what of an adapter's whole tensors has no place in the new model."""
    places = _places(old, new)
    for name, values in _whole(adapter):
        path, _, end = name.rpartition(".")
        wanted = _shape(path, old)
        shape = values.shape
        if _is_table(path, old):  # a base that was resized for the adapter has more rows
            shape = (min(shape[0], wanted[0]), *shape[1:])
        placed = path in places and end in ("weight", "bias") and shape == wanted
        if not placed or old.dims.hidden != new.dims.hidden:
            raise LoraportError(
                f"adapter {adapter.directory} holds a whole module that has no place in the new "
                "model",
                got=f"modules_to_save: {name} {values.shape}, hidden size {old.dims.hidden} to "
                f"{new.dims.hidden}",
                expected=f"{' or '.join(sorted(places))}, of the old model's shape {wanted}, and "
                "one hidden size",
                todo="train it without that module in modules_to_save; LoRA on an embedding or a "
                "head, among its target modules, is carried by W_h",
            )


def keep_saved(
    adapter: "Adapter", old: Side, new: Side, embedding: str | Path | None, base: NewBase
) -> dict[str, np.ndarray]:
    """An adapter's whole tensors for the new model, by the new model's names.

    Norms outside the blocks are kept as they are within one family, and so are tables of a
    vocabulary where both tokenizers number the same tokens alike. Else each shared token takes its
    row to its new id. Warnings say which was done.

    Parameters
    ----------
    embedding : the pair's embedding artifact, which tables need
    base : the new base, asked only for tokens that are not shared

    Raises
    ------
    LoraportError
        For what has no place, and for tables where W_h is not the identity.
    """
    check_saved(adapter, old, new)
    places = _places(old, new)
    kept: dict[str, np.ndarray] = {}
    for name, values in _whole(adapter):
        path, _, end = name.rpartition(".")
        carried = f"{places[path]}.{end}"
        if not _is_table(path, old):
            kept[carried] = values
            adapter.warnings.append(f"kept as it is: {carried}")
            continue
        tokens = _tokens(adapter, name, embedding)
        if tokens.identical and len(values) == old.dims.vocabulary == new.dims.vocabulary:
            kept[carried] = values
            adapter.warnings.append(f"kept as it is: {carried}; both tokenizers are the same")
            continue
        moved = _moved(adapter, range(old.dims.vocabulary, len(values)), tokens, base)
        kept[carried] = _by_token(values, moved, new.dims.vocabulary, places[path], base)
        adapter.warnings.append(
            f"{carried}: {len(moved)} of {len(values)} tokens are in the new "
            f"vocabulary and took their trained rows along; the other "
            f"{new.dims.vocabulary - len(moved)} of its rows are the new base's own"
        )
    return kept


def _whole(adapter: "Adapter") -> list[tuple[str, np.ndarray]]:
    """Its whole tensors by name; rows of trained tokens are none."""
    return sorted((n, values) for n, values in adapter.saved.items() if not n.endswith(END))


def _places(old: Side, new: Side) -> dict[str, str]:
    """Module of the old model -> of the new one."""
    names = {old.family.embedding: new.family.embedding, old.family.head: new.family.head}
    if old.family == new.family:
        names |= {path: path for path in old.family.norms if "{layer}" not in path}
    return names


def _shape(path: str, side: Side) -> tuple[int, ...]:
    hidden = side.dims.hidden
    return (side.dims.vocabulary, hidden) if _is_table(path, side) else (hidden,)


def _is_table(path: str, side: Side) -> bool:
    return path in (side.family.embedding, side.family.head)


def _tokens(adapter: "Adapter", name: str, embedding: str | Path | None) -> Tokens:
    """The tokens that both vocabularies hold; rows can be moved as they are."""
    if embedding is not None and is_identity(embedding):
        return read_tokens(embedding)
    raise LoraportError(
        f"adapter {adapter.directory} trained a whole table of its model's vocabulary, whose rows "
        "can't be moved as they are",
        got=f"modules_to_save: {name}, and "
        + ("no embedding.h5" if embedding is None else "a W_h that is not the identity"),
        expected="the pair's embedding artifact beside its maps, with the identity as W_h",
        todo="leave mapping.wh at auto, and carry it by rule transferred; or train LoRA on that "
        "module, which is carried by W_h",
    )


def _moved(adapter: "Adapter", added: range, tokens: Tokens, base: NewBase) -> dict[int, int]:
    """New id -> old id of each shared token, and of those that were added for the adapter.

    Between equal tokenizers all ids are alike, those of tokens that stand for the same as well.
    """
    moved = dict(zip(tokens.new.tolist(), tokens.old.tolist(), strict=True))
    if tokens.identical:
        moved |= {number: number for number in range(min(added.start, base.dims.vocabulary))}
    places = places_of(adapter, added, tokens, base)
    return moved | {
        place: number for place, number in zip(places, added, strict=True) if place is not None
    }


def _by_token(
    values: np.ndarray, moved: Mapping[int, int], count: int, path: str, base: NewBase
) -> np.ndarray:
    """A table of `count` rows: those of moved tokens at their new ids, the new base's else."""
    rows = np.empty((count, values.shape[1]), values.dtype)
    if len(moved) < count:
        rows[:] = base.table(path).astype(values.dtype)
    rows[list(moved)] = values[list(moved.values())]
    return rows
