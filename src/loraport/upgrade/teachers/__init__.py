"""Teachers of an upgraded adapter: one file each, found by its name. None needs a label.

A teacher is a module with

`HELP` : what it teaches, one line.
`targets(room, prompts)` : a `Target` for each prompt, from the models of a `Classroom`, whose old
    model wears its adapter and whose new model is bare.
`again(room, prompts, seed)` : optional; targets that are made anew in each epoch, while the new
    model wears the adapter that is being taught.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from ...errors import LoraportError
from ...runtime.by_name import did_you_mean, names_of
from ...training.own_answers import Answer
from ..base import Base
from ..prompts import Prompt
from ..spans import Span


@dataclass(frozen=True)
class Target:
    """What the new model is to learn for a prompt.

    Attributes
    ----------
    answer : text, with its own leading space
    whole : its writer ended it itself; others are not learned from
    spans : what the teacher says of it piece by piece; none: each token counts alike
    soft : the spans' probabilities are the target, and not the text alone
    """

    prompt: Prompt
    answer: str
    whole: bool = True
    spans: tuple[Span, ...] = ()
    soft: bool = False


@dataclass(frozen=True)
class Settings:
    """How teachers teach; each reads what concerns it.

    soft : `old`: its probabilities are the target, not its text alone
    alpha : `delta`: what the old adapter's change of the logits is multiplied by
    weighted : `delta`: a piece counts by how much likelier the old adapter makes it
    shots : `context`: demonstrations before each prompt
    temperature : of samples
    seed : of samples, and of the choice of demonstrations
    """

    soft: bool = False
    alpha: float = 1.0
    weighted: bool = False
    shots: int = 8
    temperature: float = 1.0
    seed: int = 0


@dataclass
class Classroom:
    """Both models, and what the adapted old one wrote to the prompts that demonstrations come from.

    Attributes
    ----------
    old : wears its adapter
    new : bare, or with the adapter that is being taught
    shown : (prompt, answer) of the adapted old model
    """

    old: Base
    new: Base
    settings: Settings
    shown: Sequence[tuple[Prompt, str]] = ()
    _said: dict[Prompt, Answer] = field(default_factory=dict, init=False, repr=False)

    def said(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """Greedy answers of the adapted old model; each is written once and kept."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._said]
        if new:
            self._said |= zip(new, self.old.write(new), strict=True)
        return [self._said[prompt] for prompt in prompts]


def names() -> tuple[str, ...]:
    """All teachers, by their files."""
    return names_of(__package__)


def teacher(name: str) -> Any:
    """The module of a teacher."""
    if name not in names():
        raise LoraportError(
            f"unknown teacher {name!r}",
            got=name,
            expected=f"auto, {', '.join(names())}",
            todo=did_you_mean(name, names()),
        )
    return import_module(f"{__package__}.{name}")
