"""The student's own samples, scored by the adapted old model, beside that model's own answers.

Generalised knowledge distillation (arXiv 2306.13649) with half of the data from the student. The
loss is `spans.span_divergence`, which two tokenizers can share. TRL's GKD needs one vocabulary, and
its trainers for several hold the teacher's and the student's base in memory a second time; here a
base that is loaded serves for all adapters, so the loop is our own.
"""

from collections.abc import Sequence

from ..prompts import Prompt
from . import Classroom, Target, old

HELP = "the student's samples, scored by the adapted old model"
FROM_STUDENT = 2  # of so many prompts one is answered by the student


def targets(room: Classroom, prompts: Sequence[Prompt]) -> list[Target]:
    """The old adapter's answers with its probabilities."""
    return old.soft_targets(room, prompts)


def again(room: Classroom, prompts: Sequence[Prompt], seed: int) -> list[Target]:
    """Samples of the student, of whom the old adapter says how likely each piece is."""
    prompts = prompts[seed % FROM_STUDENT :: FROM_STUDENT]
    if not prompts:
        return []
    answers = room.new.write(prompts, temperature=room.settings.temperature, seed=seed)
    spans = room.old.spans(prompts, [answer.text for answer in answers])
    return [
        Target(prompt, answer.text, answer.whole, tuple(said), soft=True)
        for prompt, answer, said in zip(prompts, answers, spans, strict=True)
    ]
