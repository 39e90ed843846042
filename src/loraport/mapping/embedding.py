"""W_h: how the old model's residual stream maps onto the new one's, from shared tokens.

`W_h = pinv(E_o) E_n`, (d_o, d_n), over the rows of the two raw input embeddings that both
vocabularies hold (LoRASuite, arXiv 2505.13515, hidden size).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from ..errors import LoraportError
from ..models.spec import Model
from ..models.tokens import overlap, read_vocabulary, shared_tokens
from ..numerics.linalg import chunks, least_squares

ROWS_AT_ONCE = 2048  # embedding rows held in float64 at a time


@dataclass(frozen=True)
class Embedding:
    """W_h with where it came from.

    Attributes
    ----------
    hidden_map : (d_o, d_n) float64; the identity where the rule says so
    token_ids_old, token_ids_new : (n,) ids of the shared tokens
    rule : `embedding` or `identity`
    counts : sizes of both vocabularies and of what they share
    condition : condition number of the shared rows of E_o (1 for the identity)
    residual : ‖E_o W_h − E_n‖ / ‖E_n‖ over the shared tokens
    """

    hidden_map: torch.Tensor
    token_ids_old: np.ndarray
    token_ids_new: np.ndarray
    rule: str
    counts: dict[str, int]
    condition: float
    residual: float


def choose_rule(wh: str, old: int, new: int) -> Literal["embedding", "identity"]:
    """The published rule: W_h is left out where the hidden size is unchanged."""
    if wh == "identity" and old != new:
        raise LoraportError(
            "mapping.wh: identity needs equal hidden sizes",
            got=f"{old} and {new}",
            expected="the same hidden size in both models",
            todo="set mapping.wh to auto or embedding",
        )
    if wh == "identity" or (wh == "auto" and old == new):
        return "identity"
    return "embedding"


def map_embedding(
    old: Model,
    new: Model,
    *,
    wh: str = "auto",
    tokens: Literal["bytes", "literal"] = "bytes",
    underdetermined: bool = False,
    device: str = "cpu",
) -> Embedding:
    """W_h of a model pair.

    O(n d_o (d_o + d_n)) time for n shared tokens. E_n is held in its stored dtype, E_o is streamed
    by rows; beyond that a few (d, d) float64 matrices.

    Raises
    ------
    LoraportError
        If fewer tokens are shared than the hidden size has dimensions.
    """
    rule = choose_rule(wh, old.dims.hidden, new.dims.hidden)
    checkpoints = old.checkpoint(), new.checkpoint()
    names = [f"{model.architecture.embedding}.weight" for model in (old, new)]
    rows = [c.shape(name)[0] for c, name in zip(checkpoints, names, strict=True)]
    vocabularies = read_vocabulary(old.directory), read_vocabulary(new.directory)
    ids_old, ids_new = shared_tokens(*vocabularies, rows[0], rows[1], tokens)
    counts = {**overlap(*vocabularies), "tokens_shared": len(ids_old)}
    if rule == "embedding" and len(ids_old) < old.dims.hidden and not underdetermined:
        raise LoraportError(
            "the vocabularies share fewer tokens than the old model's hidden size",
            got=f"{len(ids_old)} shared of {counts['tokens_old']} and {counts['tokens_new']}",
            expected=f"at least {old.dims.hidden}",
            todo="set mapping.underdetermined: true to go on with the least-norm solution, or "
            "mapping.wh: identity where the hidden size is unchanged",
        )
    table = checkpoints[1].read(names[1])

    def blocks() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for span in chunks(rows[0], ROWS_AT_ONCE):
            held = slice(*np.searchsorted(ids_old, [span.start, span.stop]))
            if held.start == held.stop:
                continue
            block = checkpoints[0].read(names[0], span)[ids_old[held] - span.start]
            yield _double(block, device), _double(table[ids_new[held]], device)

    if rule == "identity":
        eye = torch.eye(old.dims.hidden, dtype=torch.float64, device=device)
        residual = _identity_residual(blocks()) if len(ids_old) else 0.0
        return Embedding(eye, ids_old, ids_new, rule, counts, 1.0, residual)
    solution, condition, residual = least_squares(blocks)
    return Embedding(solution, ids_old, ids_new, rule, counts, condition, residual)


def _double(values: np.ndarray, device: str) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float64)).to(device)


def _identity_residual(blocks: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> float:
    above = below = 0.0
    for left, right in blocks:
        above += float((left - right).square().sum())
        below += float(right.square().sum())
    return (above / below) ** 0.5 if below else 0.0
