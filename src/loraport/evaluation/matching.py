"""Whether a written answer is the right one, or the same as another: functions found by name.

Each takes the text that a model wrote and the gold answer, and gives 1 or 0.
"""

import re
from collections.abc import Callable, Sequence

from ..errors import LoraportError

NUMBER = re.compile(r"-?\d+(?:,\d{3})+(?:\.\d+)?|-?\d*\.?\d+")
CLOSE = 1e-3  # of two numbers that count as one


def exact(text: str, gold: str) -> int:
    """The same but for spaces; to a gold answer of one line, the first line that is not empty."""
    return int(_plain(text, gold) == _words(gold))


def contains(text: str, gold: str) -> int:
    """The gold answer stands in the text, spaces and case aside."""
    return int(bool(gold.strip()) and _words(gold).lower() in _words(text).lower())


def number(text: str, gold: str) -> int:
    """The last number of the text (of its first line, where the gold is one line) is the gold's."""
    said, true = last_number(_plain(text, gold)), last_number(gold)
    return int(said is not None and true is not None and abs(said - true) <= CLOSE)


def last_number(text: str) -> float | None:
    """The last number in a text; None without one.

    Examples
    --------
    >>> last_number("6 * 3 = 18. The answer is 1,018.")
    1018.0
    """
    numbers = NUMBER.findall(text)
    return float(numbers[-1].replace(",", "")) if numbers else None


def _plain(text: str, gold: str) -> str:
    """What of a text is compared: one line where the gold answer has one."""
    if "\n" not in gold.strip():
        text = text.strip().partition("\n")[0]
    return _words(text)


def _words(text: str) -> str:
    return " ".join(text.split())


MATCHES: dict[str, Callable[[str, str], int]] = {
    "exact": exact,
    "contains": contains,
    "number": number,
}


def match(name: str) -> Callable[[str, str], int]:
    """A function of this module by its name in `MATCHES`."""
    if name not in MATCHES:
        raise LoraportError(
            f"unknown way to compare answers {name!r}", expected=f"one of {', '.join(MATCHES)}"
        )
    return MATCHES[name]


def scores(name: str, texts: Sequence[str], golds: Sequence[str]) -> list[int]:
    """1 or 0 for each text and its gold answer."""
    one = match(name)
    return [one(text, gold) for text, gold in zip(texts, golds, strict=True)]
