"""Texts as both models of a pair read them: batches, and which of their tokens are paired."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import LoraportError
from ..numerics.linalg import chunks

HOLD_EVERY = 5  # every fifth text
PARTS = ("fit", "held")


def paired_tokens(
    old: Sequence[tuple[int, int]], new: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Positions of tokens that end on the same character, by the tokens' character spans.

    The first token of a text, which carries massive activations, and tokens of no length (special
    ones) are left out; of several that end on one character (the bytes of it) the last one counts.
    """

    def ends(spans: Sequence[tuple[int, int]]) -> dict[int, int]:
        """Last character -> position of the token that ends on it."""
        return {last: place for place, (first, last) in enumerate(spans) if place and last > first}

    left, right = ends(old), ends(new)
    return [(place, right[last]) for last, place in left.items() if last in right]


@dataclass
class Batch:
    """Texts of one part as both models read them.

    Attributes
    ----------
    part : `fit` or `held`
    inputs : per side, input_ids and attention_mask (b, t)
    rows : per side, (text, position) of the paired tokens, (2, p)
    """

    part: str
    inputs: list[dict[str, torch.Tensor]] = field(default_factory=list)
    rows: list[torch.Tensor] = field(default_factory=list)


def make_batches(
    tokenizers: tuple[Any, Any], texts: Sequence[str], max_tokens: int, size: int
) -> list[Batch]:
    """Batches of texts of like length, those to fit on and those held out apart.

    Raises
    ------
    LoraportError
        If a tokenizer gives no character offsets, or no two tokens of the texts of a part end on
        the same character: of fewer than five texts none is held out.
    """
    encoded = [[_encode(each, text, max_tokens) for text in texts] for each in tokenizers]
    batches = []
    for part in PARTS:
        mine = [
            i for i in range(len(texts)) if (i % HOLD_EVERY == HOLD_EVERY - 1) == (part == "held")
        ]
        mine.sort(key=lambda i: (len(encoded[0][i].input_ids), i))
        for span in chunks(len(mine), size):
            batch, pairs = Batch(part), []
            for number, i in enumerate(mine[span]):
                offsets = (encoded[side][i].offset_mapping for side in range(2))
                pairs += [(number, a, b) for a, b in paired_tokens(*offsets)]
            if not pairs:
                continue
            table = torch.tensor(pairs).T
            for side, tokenizer in enumerate(tokenizers):
                ids = [encoded[side][i].input_ids for i in mine[span]]
                padded = tokenizer.pad(
                    {"input_ids": ids}, padding_side="right", return_tensors="pt"
                )
                batch.inputs.append({k: padded[k] for k in ("input_ids", "attention_mask")})
                batch.rows.append(table[[0, 1 + side]])
            batches.append(batch)
    _check_parts([batch.part for batch in batches], len(texts))
    return batches


def _check_parts(there: Collection[str], count: int) -> None:
    """Refuse texts of which a part has no paired tokens."""
    if not there:
        raise LoraportError(
            "the two tokenizers have no token of the calibration texts in common",
            got="no two tokens that end on the same character",
            expected="texts of several words, in a language that both tokenizers know",
            todo="give other texts in calibration.texts",
        )
    if lacking := [part for part in PARTS if part not in there]:
        none = {"fit": "those to fit on", "held": "those held out"}[lacking[0]]
        raise LoraportError(
            "there are too few texts to fit maps on some and to hold others out",
            got=f"{count} texts, and none of {none} has a token that both tokenizers end alike",
            expected=f"at least {HOLD_EVERY}, better some hundreds: every fifth one is held out",
            todo="give more: lines of calibration.texts (as many as calibration.examples says), or "
            "prompts of the app's task for maps of one adapter",
        )


def _encode(tokenizer: Any, text: str, max_tokens: int) -> Any:
    """The tokens of one text, at most `max_tokens`, with the span of characters of each."""
    try:
        return tokenizer(text, truncation=True, max_length=max_tokens, return_offsets_mapping=True)
    except NotImplementedError as error:
        raise LoraportError(
            "aligned transfer pairs tokens by the characters they stand for",
            got=f"{type(tokenizer).__name__}, which gives no offsets",
            expected="a fast tokenizer (tokenizer.json) in both models",
            todo="save the tokenizer in its fast form",
        ) from error
