"""Whether a written answer is the right one, or the same as another: by the scores of `answers`.

To a gold answer of one line, a text's first line that is not empty is compared: a model that was
not adapted goes on and on.
"""

from collections.abc import Sequence

from ..errors import LoraportError
from .answers import SCORES


def scores(name: str, texts: Sequence[str], golds: Sequence[str]) -> list[float]:
    """Score of each text against its gold answer, 0 to 1.

    Parameters
    ----------
    name : in `answers.SCORES`; the choices of `choice` are all of the gold answers

    Raises
    ------
    LoraportError
        If there is no such score.
    """
    if name not in SCORES:
        raise LoraportError(
            f"unknown way to compare answers {name!r}", expected=f"one of {', '.join(SCORES)}"
        )
    choices = sorted({gold.strip() for gold in golds})
    return [
        float(next(iter(SCORES[name](_item(gold, choices), [_compared(text, gold)]).values())))
        for text, gold in zip(texts, golds, strict=True)
    ]


def _item(gold: str, choices: list[str]) -> dict[str, object]:
    return {"answer": gold.strip(), "choices": choices}


def _compared(text: str, gold: str) -> str:
    """What of a text is compared: one line where the gold answer has one."""
    return text if "\n" in gold.strip() else text.strip().partition("\n")[0]
