"""What becomes of the tokens that an adapter trained, as both tokenizers tell before any work."""

from collections.abc import Callable, Sequence

from ..adapters.files import Adapter
from ..models.side import Side
from ..models.tokens import Vocabulary, shared_tokens
from ..transfer.trained_tokens import own_vocabulary

SHOWN = 8  # tokens that are named


def token_notes(
    adapter: Adapter,
    old: Side,
    new: Side,
    vocabularies: Callable[[], tuple[Vocabulary | None, Vocabulary | None]],
) -> list[str]:
    """What of an adapter's trained tokens is left behind, a line for each module.

    Parameters
    ----------
    adapter : audited
    vocabularies : gives the tokens of both models, as far as they are at hand; asked only for an
        adapter that trained some
    """
    names = (old.family.embedding, old.family.head)
    adapted = {path: each.b.shape[0] for path, each in adapter.modules.items() if path in names}
    whole = {path: len(adapter.saved[f"{path}.weight"]) for path in names
             if f"{path}.weight" in adapter.saved}  # fmt: skip
    if not (adapted or whole or adapter.tokens):
        return []
    before, after = vocabularies()
    if before is None or after is None:
        return []
    told = []
    for path, rows in sorted({**adapted, **whole}.items()):
        shared, _ = shared_tokens(before, after, old.dims.vocabulary, new.dims.vocabulary)
        if lacking := old.dims.vocabulary - len(shared):
            told.append(f"{path}: {lacking} of {old.dims.vocabulary} rows, whose tokens the new "
                        "vocabulary lacks")  # fmt: skip
        added = range(old.dims.vocabulary, rows)
        told += _of_tokens(adapter, path, added, before, after, new.dims.vocabulary)
    for path, ids in sorted(adapter.tokens.items()):
        told += _of_tokens(adapter, path, ids, before, after, new.dims.vocabulary)
    return told


def _of_tokens(
    adapter: Adapter,
    path: str,
    ids: Sequence[int],
    before: Vocabulary,
    after: Vocabulary,
    rows: int,
) -> list[str]:
    """The trained tokens that have no row in the new model, in a line; none where all have one."""
    own = own_vocabulary(adapter) if ids else None
    every = [before] if own is None else [before, own]
    keys = {number: key for each in every for key, number in each.keys.items()}
    words = {number: word for each in every for word, number in each.raw.items()}
    left = [each for each in ids if not after.keys.get(keys.get(each, ("", "")), rows) < rows]
    if not left:
        return []
    named = ", ".join(words.get(each, str(each)) for each in left[:SHOWN])
    more = f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
    return [f"{path}: {len(left)} of {len(ids)} trained tokens, which the new tokenizer lacks: "
            f"{named}{more}"]  # fmt: skip
