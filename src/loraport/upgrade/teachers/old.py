"""The adapted old model's own answers; with `soft`, what it holds of each of their pieces."""

from collections.abc import Sequence

from ..prompts import Prompt
from . import Classroom, Target

HELP = "the adapted old model's answers"


def targets(room: Classroom, prompts: Sequence[Prompt]) -> list[Target]:
    """Greedy answers of the old model with its adapter."""
    answers = room.said(prompts)
    pairs = list(zip(prompts, answers, strict=True))
    if not room.settings.soft:
        return [Target(prompt, answer.text, answer.whole) for prompt, answer in pairs]
    spans = room.old.spans(prompts, [answer.text for answer in answers])
    return [
        Target(prompt, answer.text, answer.whole, tuple(said), soft=True)
        for (prompt, answer), said in zip(pairs, spans, strict=True)
    ]
