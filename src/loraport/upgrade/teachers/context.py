"""The bare new model, shown what the old adapter answers to other prompts: context distillation.

The demonstrations give the form, the new model the knowledge; what it writes behind them is then
taught to it without them. It serves where the new model is the stronger one.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...errors import LoraportError
from ..prompts import Prompt
from . import Classroom, Target

HELP = "the new model with prompts and answers of the old adapter in its context"
BETWEEN = "\n\n"  # demonstrations that are texts
ROOM = 1.5  # tokens of an answer, as a multiple of the longest demonstrated one


def targets(room: Classroom, prompts: Sequence[Prompt]) -> list[Target]:
    """Greedy answers of the bare new model behind demonstrations, one draw of them for all.

    Raises
    ------
    LoraportError
        If there is no demonstration that fits in the new model's context.
    """
    shown = demonstrations(room, prompts)
    if not shown:
        raise LoraportError(
            "the teacher `context` has nothing to show",
            got="no answer of the old adapter that it ended itself and that leaves room for a "
            "prompt in the new model's context",
            expected="at least one",
            todo="raise --new-tokens, or use another --teacher",
        )
    limits, least = room.new.limits, _answer_room(room, shown)
    most = _context(room.new.model) - least
    room.new.limits = replace(limits, max_tokens=most, new_tokens=least)
    try:
        answers = room.new.write(
            [behind(others(shown, prompt, room.settings.shots), prompt) for prompt in prompts]
        )
    finally:
        room.new.limits = replace(limits, batch_size=room.new.limits.batch_size)
    one_line = all("\n" not in answer.strip() for _, answer in shown)
    return [
        _cut(prompt, answer.text, answer.whole, "\n" if one_line else BETWEEN)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def demonstrations(room: Classroom, prompts: Sequence[Prompt]) -> list[tuple[Prompt, str]]:
    """Pairs of a prompt and the old adapter's answer, drawn by the seed, that fit before prompts.

    One more than `shots`: it stands in where a prompt that is asked is among the others. Empty
    where there is none, or where not even one fits in the new model's context.
    """
    pairs = [pair for pair in room.shown if pair[1].strip()]
    order = np.random.default_rng(room.settings.seed).permutation(len(pairs))
    drawn = [pairs[place] for place in order[: room.settings.shots + 1]]
    longest = prompts[int(np.argmax([len(text) for text in room.new.texts(prompts)]))]
    most = _context(room.new.model)
    while drawn and _tokens(room, behind(drawn, longest)) + _answer_room(room, drawn) > most:
        drawn.pop()
    return drawn


def others(
    shown: Sequence[tuple[Prompt, str]], prompt: Prompt, shots: int
) -> list[tuple[Prompt, str]]:
    """Demonstrations for a prompt: its own answer is never shown to it."""
    return [pair for pair in shown if pair[0] != prompt][:shots]


def behind(shown: Sequence[tuple[Prompt, str]], prompt: Prompt) -> Prompt:
    """A prompt with demonstrations before it: as turns of a chat, or as text."""
    if isinstance(prompt, str):
        texts = [f"{before}{answer}" for before, answer in shown if isinstance(before, str)]
        return BETWEEN.join([*texts, prompt])
    turns: list[tuple[str, str]] = []
    for before, answer in shown:
        asked = [turn for turn in before if not isinstance(turn, str)]
        turns += [turn for turn in asked if turn[0] != "system" or not turns]
        turns.append(("assistant", answer))
    return (*turns, *(turn for turn in prompt if turn[0] != "system"))


def _tokens(room: Classroom, prompt: Prompt) -> int:
    """How many tokens the new model reads a prompt as."""
    (text,) = room.new.texts([prompt])
    return len(room.new.tokenizer(text, verbose=False)["input_ids"])  # too many are no fault yet


def _answer_room(room: Classroom, shown: Sequence[tuple[Prompt, str]]) -> int:
    """Tokens that an answer like those shown may take."""
    longest = max(len(room.new.tokenizer(answer)["input_ids"]) for _, answer in shown)
    return min(room.new.limits.new_tokens, int(ROOM * longest) + 8)


def _context(model: object) -> int:
    """Tokens that a model can read."""
    config = getattr(model, "config", None)
    return int(getattr(config, "max_position_embeddings", 0) or 2048)


def _cut(prompt: Prompt, text: str, whole: bool, end: str) -> Target:
    """An answer up to where the next demonstration would begin."""
    lead = text[: len(text) - len(text.lstrip())]
    answer, found, _ = text.lstrip().partition(end)
    if "\n" in lead:
        lead = ""
    return Target(prompt, lead + answer.rstrip(), bool(answer.strip()) and (whole or bool(found)))
