"""LoRA on a model's vocabulary, its input embedding or its output head, carried token by token.

Both weights are (vocabulary, hidden), a row for each token, and so is the update `s B A` with a row
of B for each token. Tokens that both vocabularies hold take their rows along, and A goes through
W_h as the rows of the embedding do: `B_n[t] = B_o[t]`, `A_n = A_o W_h` (LoRASuite's map of the
residual stream, arXiv 2505.13515). Tokens without a counterpart have no update, or where the
artifact writes them as sums of shared tokens (loraport.mapping.omp) that sum of these tokens' rows.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..adapters.lora_weights import LoraWeights
from ..errors import LoraportError
from ..models.families import Architecture
from ..models.side import Side
from .embedding_file import Tokens, read_tokens
from .new_base import NewBase
from .trained_tokens import places_of

if TYPE_CHECKING:
    from ..adapters.files import Adapter


def vocabulary_modules(adapter: "Adapter", family: Architecture) -> dict[str, LoraWeights]:
    """Path -> factors of an adapter's embedding and head, where it adapts them."""
    names = (family.embedding, family.head)
    return {path: each for path, each in adapter.modules.items() if path in names}


def carry_vocabulary(
    modules: Mapping[str, LoraWeights],
    tokens: Tokens,
    old: Side,
    new: Side,
    added: Mapping[int, int] = MappingProxyType({}),
) -> tuple[dict[str, LoraWeights], dict[str, Any]]:
    """An adapter's embedding and head for the new model.

    Parameters
    ----------
    added : id in the new vocabulary -> row of B, of tokens that were added to the old vocabulary
        for the adapter

    Returns
    -------
    path in the new model -> factors; and per path the tokens that took their update along, of how
    many, and the share of its energy ‖ΔW‖² that they hold

    Notes
    -----
    Exact for shared tokens where the new embedding is E_o W_h. O(r d_o d_n).
    """
    names = {old.family.embedding: new.family.embedding, old.family.head: new.family.head}
    carried, report = {}, {}
    for path, weights in modules.items():
        b = _placed(tokens.spread(weights.b, new.dims.vocabulary), weights.b, added)
        a = weights.a.astype(np.float64) @ tokens.hidden_map
        made = weights.replaced(b, a)
        if weights.bias is not None:
            bias = tokens.spread(weights.bias, new.dims.vocabulary)
            made = replace(made, bias=_placed(bias, weights.bias, added))
        carried[names[path]] = made
        moved = [*tokens.old.tolist(), *added.values()]
        shared, whole = replace(weights, b=weights.b[moved]).norm(), weights.norm()
        report[names[path]] = {
            "tokens": len(moved),
            "tokens_approximated": len(tokens.unshared),
            "of": len(weights.b),
            "norm_before": whole,
            "norm_after": made.norm(),
            "energy_shared": (shared / whole) ** 2 if whole else 1.0,
        }
    return carried, report


def _placed(rows: np.ndarray, values: np.ndarray, added: Mapping[int, int]) -> np.ndarray:
    """The rows of the new vocabulary with those of added tokens in their places."""
    rows[list(added)] = values[list(added.values())]
    return rows


def carry_from(
    adapter: "Adapter", embedding: str | Path | None, old: Side, new: Side, base: NewBase
) -> tuple[dict[str, LoraWeights], dict[str, Any]]:
    """The same by an embedding artifact; warns of what has no place in the new vocabulary.

    Parameters
    ----------
    base : the new base, asked only for tokens that the old vocabulary lacks
    """
    modules = vocabulary_modules(adapter, old.family)
    if not modules:
        return {}, {}
    if embedding is None:
        raise LoraportError(
            f"adapter {adapter.directory} adapts its model's vocabulary, which is carried by W_h",
            got=f"no embedding.h5 for {', '.join(modules)}",
            expected="the pair's embedding artifact beside its maps",
            todo="carry it by rule transferred, which asks for one",
        )
    tokens = read_tokens(embedding)
    ids = range(old.dims.vocabulary, max(len(each.b) for each in modules.values()))
    places = places_of(adapter, ids, tokens, base) if ids else []
    added = {place: at for place, at in zip(places, ids, strict=True) if place is not None}
    carried, report = carry_vocabulary(modules, tokens, old, new, added)
    for path, each in report.items():
        sums = each["tokens_approximated"]
        adapter.warnings.append(
            f"{path}: {each['tokens']} of {each['of']} tokens are in the new vocabulary and took "
            f"their update along, {100 * each['energy_shared']:.1f} % of its energy"
            + (f"; {sums} more took sums of such updates" if sums else "")
        )
    return carried, report
