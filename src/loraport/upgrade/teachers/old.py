"""The adapted old model's own answers; with `soft`, what it holds of each of their pieces."""

from collections.abc import Sequence

from ..prompts import Prompt
from . import Classroom, Target

HELP = "the adapted old model's answers"


def targets(room: Classroom, prompts: Sequence[Prompt]) -> list[Target]:
    """Greedy answers of the old model with its adapter."""
    if room.settings.soft:
        return soft_targets(room, prompts)
    pairs = zip(prompts, room.said(prompts), strict=True)
    return [Target(prompt, answer.text, answer.whole) for prompt, answer in pairs]


def soft_targets(room: Classroom, prompts: Sequence[Prompt]) -> list[Target]:
    """The same answers with the probabilities of their pieces."""
    answers = room.said(prompts)
    spans = room.old.spans(prompts, [answer.text for answer in answers])
    return [
        Target(prompt, answer.text, answer.whole, tuple(said), soft=True)
        for prompt, answer, said in zip(prompts, answers, spans, strict=True)
    ]
