"""Prompts for a teaching that has few: written by the adapted old model, or put together anew.

The old model continues a list of prompts. Where it writes too few, given prompts are recombined.
What is new and has the form of the given ones is kept where it is something that the adapter was
made for: on its own answer, the adapted model must be ahead of the bare one by as much as on the
given prompts' (Trans-LoRA, arXiv 2405.17258; TuneShift-KD filter by such a difference).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .base import Base
from .prompts import Prompt, Record, said
from .recombine import recombine

ENOUGH = 100  # prompts for a teaching
SHOTS = 6  # given prompts before each new one
ROUNDS = 6
AT_ONCE = 256  # lists that are continued in a round, at most
LEAST_KEPT = 0.1  # share of the lists that must give a prompt for another round
BETWEEN = "\n\n"
FAILED_SHARE = 10  # percentile of the given prompts' excess that a new one must reach


@dataclass
class Written:
    """Prompts that were made, and what became of the others."""

    records: list[Record] = field(default_factory=list)
    recombined: int = 0
    repeated: int = 0
    misshapen: int = 0
    filtered: int = 0

    def told(self) -> dict[str, int]:
        """As reports record it."""
        return {
            "kept": len(self.records),
            "recombined": self.recombined,
            "repeated": self.repeated,
            "misshapen": self.misshapen,
            "filtered": self.filtered,
        }


def write_more(
    old: Base,
    given: Sequence[Record],
    count: int,
    seed: int = 0,
    apart: Sequence[Record] = (),
) -> Written:
    """Up to `count` synthetic records; the old model wears its adapter.

    Parameters
    ----------
    given : prompts that are taught; new ones are made of these alone
    apart : prompts that something is measured on: none of them is made
    """
    texts = [said(_last(record.prompt)) for record in given]
    end = _common_end(texts)
    excesses = excess(old, [record.prompt for record in given])
    bound = np.percentile(excesses, FAILED_SHARE, method="lower")  # none between two: some are −inf
    seen = {_plain(said(_last(record.prompt))) for record in [*given, *apart]}
    rng = np.random.default_rng(seed)
    written = Written()

    def keep(new: Sequence[str]) -> int:
        """Keep those that are new and that the adapter is made for; how many."""
        prompts: list[Prompt] = []
        for text in new:
            if _plain(text) in seen:
                written.repeated += 1
                continue
            seen.add(_plain(text))
            prompts.append(_as_given(text, given[int(rng.integers(len(given)))].prompt))
        more = excess(old, prompts) if prompts else np.zeros(0)
        good = (more >= bound) & np.isfinite(more)  # and its answer is not empty
        kept = [prompt for prompt, ok in zip(prompts, good, strict=True) if ok]
        kept = kept[: count - len(written.records)]
        written.filtered += int((~good).sum())
        written.records += [Record(prompt, synthetic=True) for prompt in kept]
        return len(kept)

    for number in range(ROUNDS):
        missing = count - len(written.records)
        if missing <= 0:
            return written
        asked = [_list_of(texts, rng) for _ in range(min(max(2 * missing, 8), AT_ONCE))]
        answers = old.write(asked, temperature=1.0, seed=seed * ROUNDS + number)
        shaped = [_shaped(answer.text, end) for answer in answers]
        written.misshapen += sum(text is None for text in shaped)
        if keep([text for text in shaped if text]) < len(asked) * LEAST_KEPT:
            break  # it can't write such prompts
    for _ in range(ROUNDS):
        missing = count - len(written.records)
        if missing <= 0:
            break
        written.recombined += keep(recombine(texts, missing, rng, seen))
    return written


def excess(old: Base, prompts: Sequence[Prompt]) -> np.ndarray:
    """Nats a character by which the adapter makes its own answer likelier, (n,); −inf if empty."""
    answers = [answer.text for answer in old.write(prompts)]
    adapted = old.losses(prompts, answers)
    with old.without_adapter():
        bare = old.losses(prompts, answers)
    lengths = np.array([len(answer) for answer in answers])
    return np.where(lengths > 0, (bare - adapted) / np.maximum(lengths, 1), -np.inf)


def _list_of(texts: Sequence[str], rng: np.random.Generator) -> str:
    """Some given prompts one below another, to be continued."""
    places = rng.permutation(len(texts))[:SHOTS]
    return BETWEEN.join(texts[place] for place in places) + BETWEEN


def _common_end(texts: Sequence[str]) -> str:
    """What all given prompts end on, such as "\\nAnswer:"; empty for a single one."""
    if len(texts) < 2:
        return ""
    same = 0
    while all(text[-same - 1 :] == texts[0][-same - 1 :] != text for text in texts):
        same += 1
    return texts[0][len(texts[0]) - same :]


def _shaped(text: str, end: str) -> str | None:
    """The first prompt of what was written; None where it has not the given ones' end."""
    first = text.lstrip().partition(BETWEEN)[0]
    if end.strip():
        head, there, _ = first.partition(end)
        return head + end if there and head.strip() else None
    return first.rstrip() or None


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _last(prompt: Prompt) -> Prompt:
    """What a user says last in a chat; a text as it is."""
    return prompt if isinstance(prompt, str) else (prompt[-1],)


def _as_given(text: str, like: Prompt) -> Prompt:
    """A new text as a prompt of the form of a given one."""
    return text if isinstance(like, str) else (*like[:-1], (like[-1][0], text))
