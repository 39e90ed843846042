"""Teaching: an adapter of the new model is trained on a teacher's targets, at several rates.

Each rate is tried for a few epochs from the same start; the best one then teaches from the start
again, until the student agrees with the teacher no more often than before. After each epoch the
student answers held-back prompts, and what is kept is the best epoch of all (or the start), by
agreement and then by likelihood. The base stays in memory throughout.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import sdpa_kernel

from ..adapters.attach import detach, save_adapter
from ..errors import LoraportError
from ..evaluation.matching import scores
from ..training.losses import needed_logits, token_losses
from ..training.starts import Fresh
from ..training.train import ATTENTION
from .base import Base
from .candidates import Start, started
from .spans import Encoded, encode_answer, joined, padded, span_divergence
from .teachers import Target

RATES = (3e-4, 1e-3, 3e-3)


@dataclass(frozen=True)
class Settings:
    """How a student is taught.

    rates : learning rates that are tried
    trial : epochs of each rate, where there are several
    epochs : of the best rate, at most; it falls linearly to zero over them
    patience : epochs without a better agreement, after which it ends
    meant_for : targets that `trial` and `epochs` are meant for; more of them are taught for fewer
        epochs, in as many steps. 0: any number of targets
    batch_size : targets in an optimiser step; micro_batch of them at once (0: all)
    match : how answers are compared
    minutes : for all rates together; 0: no limit. At least one epoch is taught
    """

    rates: tuple[float, ...] = RATES
    trial: int = 3
    epochs: int = 16
    patience: int = 3
    meant_for: int = 0
    batch_size: int = 16
    micro_batch: int = 0
    max_grad_norm: float = 1.0
    match: str = "exact"
    seed: int = 0
    minutes: float = 0.0

    def over(self, targets: int) -> "Settings":
        """With fewer epochs where there are more targets than these are meant for."""
        share = self.meant_for / max(targets, 1)
        if not 0 < share < 1:
            return self
        fewer = {name: round(share * getattr(self, name)) for name in ("trial", "epochs")}
        return replace(self, trial=max(1, fewer["trial"]), epochs=max(1, fewer["epochs"]))


@dataclass(frozen=True)
class Epoch:
    """One epoch of one rate: the loss, and what held-back prompts say of the student.

    agreement : share of held-back prompts that it answers as the teacher does
    nats : negative log-likelihood of the teacher's held-back answers, on average
    """

    rate: float
    epoch: int
    loss: float
    agreement: float
    nats: float


@dataclass
class Taught:
    """What came of it: the best epoch, all of them, and the adapter's weights."""

    best: Epoch
    epochs: list[Epoch] = field(default_factory=list)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    in_time: bool = True

    def told(self) -> dict[str, Any]:
        """As reports record it."""
        return {
            "best": asdict(self.best),
            "epochs": [asdict(each) for each in self.epochs],
            "stopped_by_the_clock": not self.in_time,
        }


def teach(
    new: Base,
    start: Start,
    like: Fresh | Path,
    targets: Sequence[Target],
    held: Sequence[Target],
    out: str | Path,
    settings: Settings = Settings(),
    *,
    again: Callable[[int], list[Target]] | None = None,
    base_name: str | None = None,
) -> Taught:
    """Teach an adapter and write it as a PEFT directory.

    Parameters
    ----------
    new : bare; it is so again at the end
    targets : what is learned; those that no writer ended are left out
    held : what the student is asked between epochs, and never learns
    again : targets that are made anew in each epoch, from its number

    Raises
    ------
    LoraportError
        If no target is left, or the loss is not finite at every rate.
    """
    rows = encoded(new, targets)
    checked = [target for target in held if target.whole]
    if not rows or not checked:
        raise nothing_to_teach(len(rows), len(checked))
    settings = settings.over(len(rows))
    until = time.monotonic() + 60 * settings.minutes if settings.minutes else math.inf
    state = _State(new, start, like, rows, checked, settings, again, until)
    taught = Taught(_untaught(state))
    rates = settings.rates
    if len(rates) > 1:
        for rate in rates:
            if not _is_late(state, taught):
                taught = _better(taught, _at_rate(state, rate, settings.trial, falls=False))
        rates = (max(taught.epochs, key=_key).rate,) if taught.epochs else ()
    for rate in rates:
        if not _is_late(state, taught):
            taught = _better(taught, _at_rate(state, rate, settings.epochs))
    if not taught.epochs:
        raise LoraportError(
            "the teaching's loss is not finite at any rate",
            got=f"rates {', '.join(map(str, settings.rates))}",
            expected="a finite loss",
            todo="lower the rates, or start from nothing",
        )
    _write(state, taught, Path(out), base_name)
    return taught


def nothing_to_teach(learned: int, held: int) -> LoraportError:
    """Of a teacher that ends none of its answers."""
    return LoraportError(
        "there is nothing to teach",
        got=f"{learned} whole answers to learn and {held} held back",
        expected="at least one of both",
        todo="give more prompts, raise --new-tokens, or use another --teacher",
    )


@dataclass
class _State:
    """What all rates share."""

    new: Base
    start: Start
    like: Fresh | Path
    rows: list["Row"]
    held: list[Target]
    settings: Settings
    again: Callable[[int], list[Target]] | None
    until: float


@dataclass(frozen=True)
class Row:
    """A target as the student's tokenizer has it.

    pieces : (first token, token behind the last, the teacher's nats, weight), of the answer
    """

    encoded: Encoded
    pieces: list[tuple[int, int, float, float]]
    soft: bool


def encoded(new: Base, targets: Sequence[Target]) -> list[Row]:
    """Targets that are whole, not empty, and within the model's limits, as rows of tokens."""
    kept = [each for each in targets if (each.whole or each.soft) and each.answer.strip()]
    texts = new.texts([target.prompt for target in kept])
    most = new.limits.max_tokens + new.limits.new_tokens
    rows = []
    for text, target in zip(texts, kept, strict=True):
        row = encode_answer(new.tokenizer, text, target.answer)
        pieces = joined(target.spans, row.ends)
        if not target.whole:  # its end is not one that its writer chose
            pieces = [piece for piece in pieces if piece[1] < len(row.ends)]
        if len(row.ids) <= most and (target.whole or pieces):
            rows.append(Row(row, pieces, target.soft and bool(pieces)))
    return rows


def _untaught(state: _State) -> Epoch:
    """The start itself, which is kept where no teaching is better."""
    new = state.new
    new.model = started(new, state.start, state.like, 1)
    try:
        return Epoch(0.0, 0, 0.0, *asked(new, state.held, state.settings.match))
    finally:
        new.model = detach(new.model)


def _is_late(state: _State, taught: Taught) -> bool:
    """Whether the time is over, and something is taught; it is then noted."""
    late = bool(taught.epochs) and time.monotonic() >= state.until
    taught.in_time = taught.in_time and not late
    return late


def _at_rate(state: _State, rate: float, epochs: int, falls: bool = True) -> Taught:
    """Teach at one rate, that falls to zero or not; the base is bare again at the end."""
    settings, new = state.settings, state.new
    steps = epochs * math.ceil(len(state.rows) / settings.batch_size)
    torch.manual_seed(settings.seed)
    new.model = started(new, state.start, state.like, steps)
    try:
        return _epochs(state, rate, epochs, steps if falls else None)
    finally:
        new.model = detach(new.model).eval()  # where a loss is not finite, it still trains


def _epochs(state: _State, rate: float, epochs: int, steps: int | None) -> Taught:
    settings, new = state.settings, state.new
    learned = [values for values in new.model.parameters() if values.requires_grad]
    optimiser = torch.optim.AdamW(learned, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda n: max(0.0, 1 - n / steps) if steps else 1.0
    )
    order = np.random.default_rng(settings.seed)
    taught = Taught(Epoch(rate, 0, math.inf, -1.0, math.inf))
    for epoch in range(1, epochs + 1):
        rows = [state.rows[place] for place in order.permutation(len(state.rows))]
        if state.again is not None:
            new.model.eval()
            rows = _mixed(rows, encoded(new, state.again(epoch)))
        losses = []
        for start in range(0, len(rows), settings.batch_size):
            losses.append(_step(new, rows[start : start + settings.batch_size], settings, learned))
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
        loss = float(np.mean(losses))
        if not math.isfinite(loss):
            return taught
        each = Epoch(rate, epoch, loss, *asked(new, state.held, settings.match))
        taught.epochs.append(each)
        if _key(each) > _key(taught.best):
            taught.best, taught.weights = each, _weights(new.model)
        if epoch - taught.best.epoch >= settings.patience:
            break
        if time.monotonic() >= state.until:
            taught.in_time = False
            break
    return taught


def _mixed(rows: list[Row], fresh: list[Row]) -> list[Row]:
    """Fresh rows in the place of as many others, spread among them."""
    if not fresh:
        return rows
    mixed = [each for pair in zip(rows, fresh, strict=False) for each in pair]
    return mixed[: max(len(rows), len(fresh))]


def _step(new: Base, rows: Sequence[Row], settings: Settings, learned: Sequence[Any]) -> float:
    """Gradients of one batch, clipped, of fewer rows at a time where memory runs out; its loss."""
    micro = settings.micro_batch or len(rows)
    total: float = new.fitted(lambda size: _gradients(new, rows, min(micro, size), learned))
    torch.nn.utils.clip_grad_norm_(learned, settings.max_grad_norm)
    return total


def _gradients(new: Base, rows: Sequence[Row], micro: int, learned: Sequence[Any]) -> float:
    """Gradients of a batch, `micro` rows at a time; gives its loss."""
    model = new.model.train()
    for values in learned:
        values.grad = None  # those of an attempt that ran out of memory
    total = 0.0
    for part in (rows[start : start + micro] for start in range(0, len(rows), micro)):
        loss = batch_loss(model, new.tokenizer.pad_token_id, part) * len(part) / len(rows)
        loss.backward()
        total += float(loss.detach())
    return total


def batch_loss(model: Any, pad: int, rows: Sequence[Row]) -> torch.Tensor:
    """Loss of a batch: cross-entropy over the answers' tokens, or span by span where it is soft."""
    ids, labels, mask = padded([row.encoded for row in rows], pad)
    ids, mask = ids.to(model.device), mask.to(model.device)
    more = needed_logits(model, labels)
    with sdpa_kernel(ATTENTION):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **more).logits
    nats = token_losses(logits, labels)
    total, count = nats.new_zeros(()), 0.0
    for row, said in zip(rows, nats, strict=True):
        mine = said[row.encoded.first - 1 : len(row.encoded.ids) - 1]
        if row.soft:
            student = torch.stack([mine[start:stop].sum() for start, stop, _, _ in row.pieces])
            teacher = mine.new_tensor([piece[2] for piece in row.pieces])
            total = total + span_divergence(student, teacher).sum()
            count += len(row.pieces)
        else:
            weights = mine.new_ones(len(mine))
            for start, stop, _, weight in row.pieces:
                weights[start:stop] = weight
            total = total + (weights * mine).sum()
            count += float(weights.sum())
    return total / max(count, 1.0)


def asked(new: Base, held: Sequence[Target], match: str) -> tuple[float, float]:
    """Share of held-back prompts answered as the teacher does, and mean nats of its answers."""
    new.model.eval()
    prompts, golds = [each.prompt for each in held], [each.answer for each in held]
    answers = [answer.text for answer in new.write(prompts)]
    return float(np.mean(scores(match, answers, golds))), float(new.losses(prompts, golds).mean())


def _key(epoch: Epoch) -> tuple[float, float]:
    return epoch.agreement, -epoch.nats


def _weights(model: Any) -> dict[str, torch.Tensor]:
    return {
        name: values.detach().cpu().clone()
        for name, values in model.named_parameters()
        if values.requires_grad
    }


def _better(first: Taught, second: Taught) -> Taught:
    best = second if _key(second.best) > _key(first.best) else first
    return Taught(
        best.best, first.epochs + second.epochs, best.weights, first.in_time and second.in_time
    )


def _write(state: _State, taught: Taught, out: Path, base_name: str | None) -> None:
    """Write the best epoch's adapter."""
    model = started(state.new, state.start, state.like, 1)
    try:
        named = dict(model.named_parameters())
        with torch.no_grad():
            for name, values in taught.weights.items():
                named[name].copy_(values)
        out.mkdir(parents=True, exist_ok=True)
        save_adapter(model, out, base_name)
    finally:
        state.new.model = detach(model)
