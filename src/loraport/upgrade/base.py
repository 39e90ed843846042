"""A base model in memory that wears one adapter at a time: one load serves many adapters."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..adapters.attach import attach, detach
from ..errors import LoraportError
from ..evaluation.gain import gained, row_norms
from ..evaluation.likelihood import answer_losses
from ..models.loading import load_base
from ..runtime.memory import ran_out
from ..training.data import Example
from ..training.own_answers import Answer, write_answers
from . import generators
from .generators import ALONE, Asked, Wanted
from .prompts import Prompt, as_text
from .spans import Span, spans_of


@dataclass
class Limits:
    """How much is read and written at a time.

    batch_size : prompts in a forward pass; halved for good whenever memory runs out
    max_tokens : of a prompt, and of an example that is scored
    new_tokens : of a written answer
    """

    batch_size: int = 64
    max_tokens: int = 512
    new_tokens: int = 128


class Base:
    """A base model and its tokenizer.

    Attributes
    ----------
    model : the bare model, or with the adapter that it wears at the moment
    tokenizer : its own
    limits : how much it reads and writes at a time
    generator : writes answers with a copy of the model of its own; None: transformers alone
    wrote : generator -> how many answers it wrote
    """

    def __init__(self, model: Any, tokenizer: Any, limits: Limits | None = None):
        self.model, self.tokenizer, self.limits = model, tokenizer, limits or Limits()
        self.generator: Any = None
        self.wrote: Counter[str] = Counter()
        self._worn: tuple[Any, Path | None] = model, None  # a model that is its folders', and which
        self._off = False

    @classmethod
    def load(
        cls,
        directory: str | Path,
        limits: Limits | None = None,
        wanted: Wanted = Wanted(),  # noqa: B008  (frozen)
        **where: Any,
    ) -> "Base":
        """Load a model's directory; `where` as for `models.loading.load_base`.

        wanted : what is to write its answers
        """
        generators.check(wanted.name)
        base = cls(*load_base(directory, **where), limits)
        longest = base.limits.max_tokens + base.limits.new_tokens
        trusted = bool(where.get("trust_remote_code"))
        base.generator = generators.opened(wanted, Path(directory), base.model, longest, trusted)
        return base

    def close(self) -> None:
        """End the generator that has a copy of the model."""
        if self.generator is not None:
            self.generator.close()

    @contextmanager
    def wearing(self, adapter: str | Path | None) -> Iterator[Any]:
        """Let the model wear an adapter (None: nothing) during the block; gives the model."""
        if adapter is None:
            yield self.model
            return
        bare, before = self.model, _requires_grad(self.model)
        self.model = attach(bare, adapter).eval()
        known = self._worn
        if known == (bare, None):
            self._worn = self.model, Path(adapter)
        try:
            yield self.model
        finally:
            self.model = detach(self.model)
            self._worn = known
            _restore(self.model, before)

    @contextmanager
    def without_adapter(self) -> Iterator[Any]:
        """The bare model, while it wears an adapter otherwise."""
        if hasattr(self.model, "disable_adapter"):
            off, self._off = self._off, True
            try:
                with self.model.disable_adapter():
                    yield self.model
            finally:
                self._off = off
        else:
            yield self.model

    @contextmanager
    def at_strength(self, gain: float) -> Iterator[None]:
        """The adapter that it wears, its update multiplied by a gain."""
        known, self._worn = self._worn, (None, None)  # no longer what is in a folder
        try:
            with gained(self.model, row_norms(self.model)) as set_gain:
                set_gain(gain)
                yield
        finally:
            self._worn = known

    def texts(self, prompts: Sequence[Prompt]) -> list[str]:
        """Prompts as this model's tokenizer reads them, messages through its chat template."""
        return [as_text(prompt, self.tokenizer) for prompt in prompts]

    def write(
        self,
        prompts: Sequence[Prompt],
        *,
        temperature: float = 0.0,
        seed: int = 0,
        also: Sequence[Any] = (),
        new_tokens: int = 0,
    ) -> list[Answer]:
        """Answers to prompts, greedy or drawn at a temperature from a seed.

        also : transformers' LogitsProcessors that have a say in each token
        new_tokens : of an answer, at most; 0: as `limits` says
        """
        texts, longest = self.texts(prompts), self.limits.max_tokens
        most = new_tokens or self.limits.new_tokens
        model, worn = self._worn
        if self.generator is not None and self.model is model and not also:
            adapter = None if self._off else worn
            asked = Asked(model, self.tokenizer, texts, longest, most, temperature, seed, adapter)
            answers: list[Answer] | None = self.generator.write(asked)
            if answers is not None:
                self.wrote[self.generator.name] += len(answers)
                return answers
        self.wrote[ALONE] += len(texts)
        if temperature > 0:
            torch.manual_seed(seed)
        return self.fitted(
            lambda size: write_answers(
                self.model, self.tokenizer, texts, longest, size, most, temperature, also
            )
        )

    def losses(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
        """Negative log-likelihood of each answer with its end, given its prompt: nats, (n,)."""
        texts = self.texts(prompts)
        examples = [Example(text, answer) for text, answer in zip(texts, answers, strict=True)]
        most = self.limits.max_tokens + self.limits.new_tokens
        return self.fitted(
            lambda size: answer_losses(self.model, self.tokenizer, examples, most, size)
        )

    def spans(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[list[Span]]:
        """What the model says of each piece of each answer."""
        texts = self.texts(prompts)
        return self.fitted(lambda size: spans_of(self.model, self.tokenizer, texts, answers, size))

    @torch.no_grad()
    def text_losses(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Nats and tokens of each text but its first token, (n,) and (n,)."""
        most = self.limits.max_tokens
        rows = [self.tokenizer(text)["input_ids"][:most] for text in texts]
        nats, counts = np.zeros(len(rows)), np.zeros(len(rows))
        for place, ids in enumerate(rows):
            if len(ids) < 2:
                continue
            given = torch.tensor([ids], device=self.model.device)
            likely = self.model(input_ids=given, use_cache=False).logits[0, :-1].float()
            each = torch.nn.functional.cross_entropy(likely, given[0, 1:], reduction="sum")
            nats[place], counts[place] = float(each), len(ids) - 1
        return nats, counts

    @torch.no_grad()
    def first_logits(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """Logits of the token after each prompt, (n, vocabulary), float32 on the CPU."""
        rows = []
        for text in self.texts(prompts):
            ids = self.tokenizer(text)["input_ids"][-self.limits.max_tokens :]
            given = torch.tensor([ids], device=self.model.device)
            rows.append(self.model(input_ids=given, use_cache=False).logits[0, -1].float().cpu())
        return torch.stack(rows)

    def fitted(self, work: Callable[[int], Any]) -> Any:
        """What `work` gives for a batch size, with half of it whenever memory runs out."""
        while True:
            try:
                return work(self.limits.batch_size)
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error) or self.limits.batch_size == 1:
                    raise
                self.limits.batch_size //= 2
                torch.cuda.empty_cache()


def wrote(old: Base, new: Base) -> dict[str, Any]:
    """`generator`: what wrote answers of both models, and how many, as reports record it.

    Empty where transformers wrote them all: reports then are as they are without another one.
    """
    return generators.told({"old": old.wrote, "new": new.wrote})


def _requires_grad(model: Any) -> dict[str, bool]:
    return {name: values.requires_grad for name, values in model.named_parameters()}


def _restore(model: Any, before: dict[str, bool]) -> None:
    """PEFT freezes the base that an adapter is put on."""
    for name, values in model.named_parameters():
        if name in before:
            values.requires_grad_(before[name])


def check_changes(base: Base, adapter: str | Path, prompts: Sequence[Prompt]) -> bool:
    """Whether an adapter loads with no missing or extra key, and changes a logit of the model.

    Raises
    ------
    LoraportError
        If it does not load.
    """
    prompts = prompts[:4]
    bare = base.first_logits(prompts)
    with base.wearing(adapter):
        adapted = base.first_logits(prompts)
    if not torch.isfinite(adapted).all():
        raise LoraportError(
            f"with adapter {adapter} the model's logits are NaN or Inf",
            expected="finite logits",
            todo="look at the adapter's weights: `loraport inspect` prints their norms",
        )
    return bool((adapted - bare).abs().max() > 0)
