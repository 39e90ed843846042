"""The bare new model, its logits moved by what the adapter changes in the old one (proxy tuning).

    logits = new bare + α (log p(old adapted) − log p(old bare))

arXiv 2401.08565. Where the vocabularies differ, the old model reads the text so far with its own
tokenizer, and a new token takes the change of the longest old token that it begins with. With
`weighted`, a piece of the answer counts by how much likelier the adapter makes it (arXiv
2510.04682).
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor

from ...models.tokens import Vocabulary, read_vocabulary
from ...training.own_answers import Answer, write_answers
from ..base import Base
from ..prompts import Prompt
from ..spans import Span
from . import Classroom, Target

HELP = "the new model, moved by what the adapter changes in the old one"
NONE = -1  # of a new token that no old one begins


def targets(room: Classroom, prompts: Sequence[Prompt]) -> list[Target]:
    """Greedy answers by the moved logits."""
    answers = write(room, prompts)
    texts = [answer.text for answer in answers]
    every: list[tuple[Span, ...]] = [()] * len(texts)
    if room.settings.weighted:
        adapted = room.old.spans(prompts, texts)
        with room.old.without_adapter():
            bare = room.old.spans(prompts, texts)
        every = [weighted(*pair) for pair in zip(adapted, bare, strict=True)]
    return [
        Target(prompt, answer.text, answer.whole, spans)
        for prompt, answer, spans in zip(prompts, answers, every, strict=True)
    ]


def write(room: Classroom, prompts: Sequence[Prompt]) -> list[Answer]:
    """Greedy answers by the moved logits, batch by batch of prompts of about the same length."""
    new, limits = room.new, room.new.limits
    table = first_tokens(vocabulary(room.old), vocabulary(new), new.tokenizer, room.old.tokenizer)
    texts = new.texts(prompts)
    order = sorted(range(len(texts)), key=lambda place: (len(texts[place]), place))
    answers: list[Answer] = [Answer("", False)] * len(texts)
    for start in range(0, len(order), limits.batch_size):
        places = order[start : start + limits.batch_size]
        moved = Moved(room, [prompts[place] for place in places], table)
        written = write_answers(
            new.model,
            new.tokenizer,
            [texts[place] for place in places],
            limits.max_tokens,
            len(places),
            limits.new_tokens,
            also=[moved],
        )
        for place, answer in zip(places, written, strict=True):
            answers[place] = answer
    return answers


def vocabulary(base: Base) -> Vocabulary:
    """Tokens of a base model."""
    return read_vocabulary(base.model.name_or_path or base.tokenizer.name_or_path)


def first_tokens(
    old: Vocabulary, new: Vocabulary, new_tokenizer: Any, old_tokenizer: Any
) -> torch.Tensor:
    """New token -> the same old token, or the longest that it begins with; NONE without one."""
    table = torch.full((1 + max(new.raw.values()),), NONE)
    longest = max((len(key[1]) for key in old.keys if key[0] == "bytes"), default=0)
    for (kind, what), number in new.keys.items():
        if (kind, what) in old.keys:
            table[number] = old.keys[kind, what]
        elif isinstance(what, bytes):
            parts = (what[:size] for size in range(min(len(what), longest), 0, -1))
            known = (old.keys[kind, part] for part in parts if (kind, part) in old.keys)
            table[number] = next(known, NONE)
    table[new_tokenizer.eos_token_id] = old_tokenizer.eos_token_id
    return table


class Moved(LogitsProcessor):
    """Adds what the old adapter changes in the old model's next-token logits."""

    def __init__(self, room: Classroom, prompts: Sequence[Prompt], table: torch.Tensor):
        self.room, self.table = room, table
        self.texts = room.old.texts(prompts)
        same = self.texts == room.new.texts(prompts)
        count = torch.arange(len(table))
        self.alike = same and bool(((table == count) | (table == NONE)).all())
        if self.alike:  # rows of the embedding that no token is at, too
            self.table = torch.arange(room.new.model.config.vocab_size)
        self.start = 0  # tokens of the padded prompts
        self.caches: dict[str, Any] = {}
        self.mask = torch.zeros(0)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Logits `(n, vocabulary)` behind `input_ids (n, length)`, with the old change added."""
        self.start = self.start or input_ids.shape[1]
        adapted = self._old("adapted", input_ids)
        with self.room.old.without_adapter():
            bare = self._old("bare", input_ids)
        change = (adapted.log_softmax(-1) - bare.log_softmax(-1)).to(scores.device)
        known = (self.table != NONE) & (self.table < change.shape[1])
        known = known[: scores.shape[1]].to(scores.device)
        places = self.table[: scores.shape[1]].to(scores.device)
        moved = scores.clone()
        part = moved[:, : len(known)]
        part[:, known] += (self.room.settings.alpha * change[:, places[known]]).to(moved.dtype)
        return moved

    def _old(self, which: str, input_ids: torch.Tensor) -> torch.Tensor:
        """The old model's logits of the next token, (n, old vocabulary), float32."""
        with torch.no_grad():
            if self.alike:
                return self._step(which, input_ids)
            return self._read(input_ids)

    def _step(self, which: str, ids: torch.Tensor) -> torch.Tensor:
        """With one tokenizer: the new tokens are read by the old model, which keeps its states."""
        old = self.room.old
        ids = ids.to(old.model.device)
        begun = (ids[:, : self.start] != old.tokenizer.pad_token_id).long().cumsum(1) > 0
        mask = torch.cat([begun, torch.ones_like(ids[:, self.start :], dtype=torch.bool)], 1).long()
        places = (mask.cumsum(1) - 1).clamp(min=0)
        past = self.caches.get(which)
        new = ids.shape[1] if past is None else 1
        out = old.model(
            input_ids=ids[:, -new:],
            attention_mask=mask,
            position_ids=places[:, -new:],
            past_key_values=past,
            use_cache=True,
        )
        self.caches[which] = out.past_key_values
        return out.logits[:, -1].float()

    def _read(self, ids: torch.Tensor) -> torch.Tensor:
        """With another tokenizer: the old model reads the text so far."""
        old, new = self.room.old, self.room.new.tokenizer
        tails = new.batch_decode(ids[:, self.start :], skip_special_tokens=True)
        texts = [text + tail for text, tail in zip(self.texts, tails, strict=True)]
        rows = [old.tokenizer(text)["input_ids"][-old.limits.max_tokens :] for text in texts]
        batch = old.tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
        batch = batch.to(old.model.device)
        mask = batch["attention_mask"]
        return old.model(
            input_ids=batch["input_ids"],
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
        ).logits[:, -1].float()  # fmt: skip


def weighted(adapted: Sequence[Span], bare: Sequence[Span]) -> tuple[Span, ...]:
    """Spans that count by the excess of the adapted over the bare model, 1 on average."""
    excess = [max(b.nats - a.nats, 0.0) for a, b in zip(adapted, bare, strict=True)]
    mean = sum(excess) / max(len(excess), 1)
    if mean <= 0:
        return tuple(adapted)
    shares = [(1 + each / mean) / 2 for each in excess]
    return tuple(Span(s.end, s.nats, w) for s, w in zip(adapted, shares, strict=True))
