"""Rows that an adapter trained for a few tokens, carried to the same tokens of the new model.

A row goes through W_h as the rows of the embedding do, `row_n = row_o W_h` (the identity where the
hidden size stays). Its token is found by the embedding artifact; one that was added to the old
model for the adapter's sake by its name in the tokenizer beside the adapter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..adapters.trained_tokens import END, FIELD
from ..errors import LoraportError
from ..models.side import Side
from ..models.tokens import Key, Vocabulary, read_vocabulary
from .embedding_file import Tokens, read_tokens
from .new_base import NewBase

if TYPE_CHECKING:
    from ..adapters.files import Adapter


@dataclass(frozen=True)
class Carried:
    """Rows under the new model's names, as an adapter's file holds them.

    Attributes
    ----------
    rows : name of a tensor -> (n, d_n)
    ids : module -> (n,) the ids in the new vocabulary
    """

    rows: dict[str, np.ndarray]
    ids: dict[str, list[int]]


def carry_tokens(
    adapter: "Adapter",
    old: Side,
    new: Side,
    embedding: str | Path | None,
    base: NewBase,
    old_tied: bool,
) -> Carried:
    """An adapter's trained rows for the new model. Warnings name the tokens that it lacks.

    Parameters
    ----------
    embedding : the pair's embedding artifact
    base : the new base, asked only for tokens that the old vocabulary lacks, and for ties
    old_tied : whether the old head shares its embedding's weight, and so its trained rows
    """
    carried = Carried({}, {})
    if not adapter.tokens:
        return carried
    if embedding is None:
        raise LoraportError(
            f"adapter {adapter.directory} trained tokens, which are carried by W_h",
            got=f"no embedding.h5 for {FIELD} of {', '.join(adapter.tokens)}",
            expected="the pair's embedding artifact beside its maps",
            todo="carry it by rule transferred, which asks for one",
        )
    tokens = read_tokens(embedding)
    names = {old.family.embedding: new.family.embedding, old.family.head: new.family.head}
    for path, ids in sorted(adapter.tokens.items()):
        places = places_of(adapter, ids, tokens, base)
        kept = {at: place for at, place in enumerate(places) if place is not None}
        if kept:
            rows = adapter.saved[path + END][list(kept)].astype(np.float64) @ tokens.hidden_map
            carried.rows[names[path] + END] = rows.astype(np.float32)
            carried.ids[names[path]] = list(kept.values())
        adapter.warnings.append(
            f"{names[path]}: {len(kept)} of {len(ids)} trained tokens are in the new vocabulary "
            "and took their rows along"
        )
    return _with_ties(carried, new, old_tied, base.tied)


def places_of(
    adapter: "Adapter", ids: Sequence[int], tokens: Tokens, base: NewBase
) -> list[int | None]:
    """The new id of each trained token, or None, which a warning tells by the token's name."""
    known = dict(zip(tokens.old.tolist(), tokens.new.tolist(), strict=True))
    if tokens.identical:
        known |= {each: each for each in ids if each < base.dims.vocabulary}
    own = own_vocabulary(adapter)
    missing = [each for each in ids if each not in known]
    if missing and own is not None:
        new = base.vocabulary()
        stands_for: dict[int, Key] = {number: key for key, number in own.keys.items()}
        for each in missing:
            number = new.keys.get(stands_for[each]) if each in stands_for else None
            if number is not None and number < base.dims.vocabulary:
                known[each] = number
    written = {} if own is None else {number: word for word, number in own.raw.items()}
    left = [written.get(each, str(each)) for each in ids if each not in known]
    if left:
        adapter.warnings.append(
            f"trained tokens that the new tokenizer lacks are left behind: {', '.join(left)}"
        )
    return [known.get(each) for each in ids]


def own_vocabulary(adapter: "Adapter") -> Vocabulary | None:
    """The tokenizer that was saved beside an adapter, where there is one."""
    there = (adapter.directory / "tokenizer.json").is_file()
    return read_vocabulary(adapter.directory) if there else None


def _with_ties(carried: Carried, new: Side, old_tied: bool, new_tied: bool) -> Carried:
    """Rows of one weight that both sides share are written once; where only the old model shares
    it, for the head as well.
    """
    table, head = new.family.embedding, new.family.head
    if table not in carried.ids:
        return carried
    if new_tied:
        carried.rows.pop(head + END, None)
        carried.ids.pop(head, None)
    elif old_tied and head not in carried.ids:
        carried.rows[head + END] = carried.rows[table + END].copy()
        carried.ids[head] = list(carried.ids[table])
    return carried
