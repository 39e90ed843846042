"""The adapted old model's answers; those that the new model, shown others, gives too count more.

Two models that err on their own seldom give the same wrong answer. So an answer that both give is
more often right than one that only one gives (co-training, Blum and Mitchell, COLT 1998). The other
answers still teach: of a format that the new model can't know, all may be right.
"""

from collections.abc import Sequence
from dataclasses import replace

from ...evaluation.matching import scores
from ..prompts import Prompt
from . import Classroom, Target, context, old

HELP = "the old adapter's answers; those that the new model gives as well count more"


def targets(room: Classroom, prompts: Sequence[Prompt]) -> list[Target]:
    """Answers of `old`, with weight `settings.doubted` where `context` answers otherwise.

    All count alike where there is nothing to show to the new model.
    """
    taught = old.targets(room, prompts)
    if not context.demonstrations(room, prompts):
        return taught
    shown = context.targets(room, prompts)
    same = scores(
        room.settings.match, [each.answer for each in shown], [each.answer for each in taught]
    )
    return [
        target if agrees else replace(target, weight=room.settings.doubted)
        for target, agrees in zip(taught, same, strict=True)
    ]
