"""What a teacher says of a text, span by span of its characters: two tokenizers meet there.

A span ends where a token of the teacher ends, and carries the teacher's log-probability of it. On
the student's side, spans are joined until a token of the student ends at the same place; the
log-probability of a joined span is the sum over its tokens, for both. The last span of an answer is
its end. The loss compares, span by span, the probabilities of "this text" against "any other"
(approximate likelihood matching, arXiv 2503.20083):

    KL = p_T log(p_T / p_S) + (1 − p_T) log((1 − p_T) / (1 − p_S))
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..training.data import IGNORED
from ..training.losses import needed_logits, token_losses

END = 1  # characters that the end of an answer counts as, behind its text
LEAST_LOSS = 1e-6  # nats; keeps log(1 − p) finite where p is 1


@dataclass(frozen=True)
class Span:
    """A piece of an answer: where it ends, in characters, and what the teacher says of it.

    Attributes
    ----------
    end : of the answer's text; the end of the answer itself is one behind its length
    nats : −log of the teacher's probability of the piece, given all before it
    weight : how much the piece counts in a loss
    """

    end: int
    nats: float
    weight: float = 1.0


@dataclass(frozen=True)
class Encoded:
    """An answer behind its prompt, as one tokenizer has it.

    Attributes
    ----------
    ids : tokens of the prompt, of the answer and the end-of-text token
    first : place of the answer's first token
    ends : for each token of the answer, where it ends in characters of the answer
    """

    ids: list[int]
    first: int
    ends: list[int]


def encode_answer(tokenizer: Any, prompt: str, answer: str) -> Encoded:
    """Tokens of a prompt with its answer; prompt and answer are encoded apart where they merge."""
    before = tokenizer(prompt)["input_ids"]
    whole = tokenizer(prompt + answer, return_offsets_mapping=True)
    ids, offsets = list(whole["input_ids"]), whole["offset_mapping"]
    start = len(prompt)
    if ids[: len(before)] != before:
        alone = tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True)
        ids, start = before + list(alone["input_ids"]), 0
        offsets = [(0, 0)] * len(before) + list(alone["offset_mapping"])
    if len(ids) > len(before) and ids[-1] == tokenizer.eos_token_id:
        ids, offsets = ids[:-1], offsets[:-1]
    ends = [min(max(end - start, 0), len(answer)) for _, end in offsets[len(before) :]]
    return Encoded([*ids, tokenizer.eos_token_id], len(before), [*ends, len(answer) + END])


def joined(spans: Sequence[Span], ends: Sequence[int]) -> list[tuple[int, int, float, float]]:
    """Spans joined until they end where a token of the student does.

    Parameters
    ----------
    ends : where each token of the student ends, not falling

    Returns
    -------
    first token, token behind the last, nats of the teacher, and weight, for each joined span

    Examples
    --------
    >>> joined([Span(2, 0.5), Span(3, 0.25), Span(4, 1.0)], [1, 3, 4])
    [(0, 2, 0.75, 1.0), (2, 3, 1.0, 1.0)]
    """
    last = {end: place for place, end in enumerate(ends)}  # of several that end there, the last
    pieces, start, nats, weights = [], 0, 0.0, []
    for number, span in enumerate(spans):
        nats += span.nats
        weights.append(span.weight)
        again = number + 1 < len(spans) and spans[number + 1].end == span.end
        if again or span.end not in last or last[span.end] < start:
            continue
        stop = last[span.end] + 1
        pieces.append((start, stop, nats, sum(weights) / len(weights)))
        start, nats, weights = stop, 0.0, []
    return pieces


def span_divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL of "this text or any other" for each span, from both sides' nats (n,)."""
    p = torch.exp(-teacher)
    other_teacher = torch.log(-torch.expm1(-teacher.clamp(min=LEAST_LOSS)))
    other_student = torch.log(-torch.expm1(-student.clamp(min=LEAST_LOSS)))
    return p * (student - teacher) + (1 - p) * (other_teacher - other_student)


@torch.no_grad()
def spans_of(
    model: Any, tokenizer: Any, prompts: Sequence[str], answers: Sequence[str], batch_size: int
) -> list[list[Span]]:
    """What a model says of answers: nats of each of its tokens, where the token ends."""
    rows = [encode_answer(tokenizer, *pair) for pair in zip(prompts, answers, strict=True)]
    order = sorted(range(len(rows)), key=lambda place: (len(rows[place].ids), place))
    spans: list[list[Span]] = [[] for _ in rows]
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        held = [rows[place] for place in places]
        ids, labels, mask = padded(held, tokenizer.pad_token_id)
        ids, mask = ids.to(model.device), mask.to(model.device)
        more = needed_logits(model, labels)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **more).logits
        nats = token_losses(logits, labels).double().cpu()
        for place, row, said in zip(places, held, nats, strict=True):
            tail = said[row.first - 1 : len(row.ids) - 1].tolist()
            spans[place] = [Span(end, each) for end, each in zip(row.ends, tail, strict=True)]
    return spans


def padded(rows: Sequence[Encoded], pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, labels (of the answers alone) and mask of rows side by side, (n, longest) each."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    labels = torch.full((len(rows), longest), IGNORED)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for place, row in enumerate(rows):
        count = len(row.ids)
        ids[place, :count] = torch.tensor(row.ids)
        labels[place, row.first : count] = ids[place, row.first : count]
        mask[place, :count] = 1
    return ids, labels, mask
