"""Prompts for a teaching that has few: written by a model, or put together anew.

A model continues a list of prompts. The bare new model, the bare old one and the old one with its
adapter each write a few; the one with the most new ones in form writes the others. (An adapter that
has learned to answer seldom continues a list: on two apps of real pairs none of 256 such lists gave
a prompt, where the bare models gave one for nine lists out of ten.) Where they write too few, given
prompts are recombined. What is new and has the form of the given ones is kept where it is something
that the adapter was made for: on its own answer, the adapted model must be ahead of the bare one by
as much as on the given prompts' (Trans-LoRA, arXiv 2405.17258; TuneShift-KD filter by such a
difference).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from .base import Base
from .prompts import Prompt, Record, said
from .recombine import recombine

ENOUGH = 100  # prompts for a teaching
SHOTS = 6  # given prompts before each new one
ROUNDS = 6
AT_ONCE = 1024  # lists that are continued in a round, at most
TRIED = 32  # lists that each writer continues before one is chosen
TEMPERATURE = 0.7  # at 1 fewer are in form, and they make less sense; at 0.7 they hardly repeat
LEAST_KEPT = 0.1  # share of the lists that must give a prompt for another round
BETWEEN = ("\n\n", "\n\n\n", "\n\n---\n\n", "\n\n=====\n\n")  # the first that no prompt has in it
FAILED_SHARE = 10  # percentile of the given prompts' excess that a new one must reach


@dataclass
class Written:
    """Prompts that were made, and what became of the others.

    Attributes
    ----------
    writer : the model that wrote; empty where none could
    tried : writer -> share of its first lists that gave a new prompt in form
    """

    records: list[Record] = field(default_factory=list)
    writer: str = ""
    tried: dict[str, float] = field(default_factory=dict)
    recombined: int = 0
    repeated: int = 0
    misshapen: int = 0
    filtered: int = 0

    def told(self) -> dict[str, Any]:
        """As reports record it."""
        return {
            "writer": self.writer,
            "tried": self.tried,
            "kept": len(self.records),
            "recombined": self.recombined,
            "repeated": self.repeated,
            "misshapen": self.misshapen,
            "filtered": self.filtered,
        }


@dataclass(frozen=True)
class Form:
    """What given prompts look like.

    Attributes
    ----------
    end : what all of them end on, such as "\\nAnswer:"
    between : separator of a list
    """

    texts: list[str]
    end: str
    between: str

    @classmethod
    def of(cls, texts: list[str]) -> "Form":
        return cls(texts, _common_end(texts), _separator(texts))

    def listed(self, rng: np.random.Generator) -> str:
        """Some given prompts one below another, to be continued."""
        places = rng.permutation(len(self.texts))[:SHOTS]
        return self.between.join(self.texts[place] for place in places) + self.between

    def first(self, text: str) -> str | None:
        """The first prompt of what was written; None where it has not the given ones' end."""
        head = text.lstrip().partition(self.between)[0]
        if self.end.strip():
            before, there, _ = head.partition(self.end)
            return before + self.end if there and before.strip() else None
        return head.rstrip() or None


@dataclass(frozen=True)
class Writer:
    """A model that continues lists of prompts.

    Attributes
    ----------
    wearing : gives the state that it writes in: its adapter on, or off
    """

    base: Base
    wearing: Callable[[], AbstractContextManager[Any]] = nullcontext

    def continued(
        self, form: Form, count: int, rng: np.random.Generator, seed: int
    ) -> list[str | None]:
        """A prompt for each of `count` lists; None for one without."""
        lists = [form.listed(rng) for _ in range(count)]
        longest = max(len(self.base.tokenizer(text)["input_ids"]) for text in form.texts)
        most = min(longest + len(form.between), self.base.limits.max_tokens)
        with self.wearing():
            answers = self.base.write(lists, temperature=TEMPERATURE, seed=seed, new_tokens=most)
        return [form.first(answer.text) for answer in answers]


def writers(old: Base, new: Base) -> dict[str, Writer]:
    """Models that may write prompts, the first of several that are as good first.

    Parameters
    ----------
    old : wears its adapter
    new : bare
    """
    return {
        "new": Writer(new),
        "old": Writer(old, old.without_adapter),
        "old with its adapter": Writer(old),
    }


@dataclass(frozen=True)
class Source:
    """What new prompts are made of, and by whom.

    Attributes
    ----------
    old : wears its adapter, which says what it was made for
    among : models that may write them
    given : prompts that are taught; new ones are made of these alone
    """

    old: Base
    among: Mapping[str, Writer]
    given: Sequence[Record]

    @cached_property
    def form(self) -> Form:
        """What the given prompts look like."""
        return Form.of([said(_last(record.prompt)) for record in self.given])

    @cached_property
    def bound(self) -> float:
        """Excess that a new prompt must reach: one of the given prompts', as some may be −inf."""
        excesses = excess(self.old, [record.prompt for record in self.given])
        return float(np.percentile(excesses, FAILED_SHARE, method="lower"))

    def made_for(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """Which prompts the adapter is made for, (n,); none to which its answer is empty."""
        if not prompts:
            return np.zeros(0, dtype=bool)
        more = excess(self.old, prompts)
        return (more >= self.bound) & np.isfinite(more)


def write_more(
    source: Source,
    count: int,
    seed: int = 0,
    apart: Sequence[Record] = (),
) -> Written:
    """Up to `count` synthetic records.

    Parameters
    ----------
    apart : prompts that something is measured on: none of them is made
    """
    form, given = source.form, source.given
    seen = {_plain(said(_last(record.prompt))) for record in [*given, *apart]}
    rng = np.random.default_rng(seed)
    written = Written()

    def keep(new: Sequence[str | None]) -> int:
        """Keep those that are new and that the adapter is made for; how many."""
        prompts: list[Prompt] = []
        for text in new:
            if not text:
                written.misshapen += 1
                continue
            if _plain(text) in seen:
                written.repeated += 1
                continue
            seen.add(_plain(text))
            prompts.append(_as_given(text, given[int(rng.integers(len(given)))].prompt))
        good = source.made_for(prompts)
        kept = [prompt for prompt, ok in zip(prompts, good, strict=True) if ok]
        kept = kept[: count - len(written.records)]
        written.filtered += int((~good).sum())
        written.records += [Record(prompt, synthetic=True) for prompt in kept]
        return len(kept)

    said_first: dict[str, list[str | None]] = {}
    for name, writer in source.among.items():
        said_first[name] = writer.continued(form, TRIED, rng, seed * ROUNDS)
        fresh = {_plain(text) for text in said_first[name] if text} - seen
        written.tried[name] = len(fresh) / TRIED
    best = max(written.tried, key=lambda name: written.tried[name])
    if written.tried[best]:
        written.writer = best
        share = keep(said_first[best]) / TRIED
        for number in range(1, ROUNDS):
            missing = count - len(written.records)
            if missing <= 0 or share < LEAST_KEPT:
                break
            asked = min(max(round(1.2 * missing / share), 8), AT_ONCE)
            new = source.among[best].continued(form, asked, rng, seed * ROUNDS + number)
            share = keep(new) / asked
    for _ in range(ROUNDS):
        missing = count - len(written.records)
        if missing <= 0:
            break
        written.recombined += keep(recombine(form.texts, missing, rng, seen))
    return written


def excess(old: Base, prompts: Sequence[Prompt]) -> np.ndarray:
    """Nats a character by which the adapter makes its own answer likelier, (n,); −inf if empty."""
    answers = [answer.text for answer in old.write(prompts)]
    adapted = old.losses(prompts, answers)
    with old.without_adapter():
        bare = old.losses(prompts, answers)
    lengths = np.array([len(answer) for answer in answers])
    return np.where(lengths > 0, (bare - adapted) / np.maximum(lengths, 1), -np.inf)


def _separator(texts: Sequence[str]) -> str:
    """What stands between the prompts of a list: none of them has it in it, if that can be."""
    free = [each for each in BETWEEN if not any(each in text.strip() for text in texts)]
    return (free or BETWEEN[-1:])[0]


def _common_end(texts: Sequence[str]) -> str:
    """What all given prompts end on, such as "\\nAnswer:"; empty for a single one."""
    if len(texts) < 2:
        return ""
    same = 0
    while all(text[-same - 1 :] == texts[0][-same - 1 :] != text for text in texts):
        same += 1
    return texts[0][len(texts[0]) - same :]


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _last(prompt: Prompt) -> Prompt:
    """What a user says last in a chat; a text as it is."""
    return prompt if isinstance(prompt, str) else (prompt[-1],)


def _as_given(text: str, like: Prompt) -> Prompt:
    """A new text as a prompt of the form of a given one."""
    return text if isinstance(like, str) else (*like[:-1], (like[-1][0], text))
