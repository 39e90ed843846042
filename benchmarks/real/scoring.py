"""Whether a written answer is right: one rule a kind of app, 1 or 0 an item."""

import re
from collections.abc import Callable
from typing import Any

from .extract import fields, right_fields

CLOSE = 1e-3  # of numbers, as LLM-Adapters has it


def choice(written: str, item: dict[str, Any]) -> int:
    """The first `answerN` is the right one (LLM-Adapters' rule)."""
    first = re.search(r"answer[1-5]", written)
    return int(first is not None and first[0] == item["answer"])


def line(written: str, item: dict[str, Any]) -> int:
    """The first line is the answer, but for spaces around it."""
    return int(written.strip().partition("\n")[0].strip() == item["answer"].strip())


def number(written: str, item: dict[str, Any]) -> int:
    """The last number is right within 0.001; a model that asks a next question is cut there."""
    text = written.partition("\nQuestion:")[0].replace(",", "")
    numbers = re.findall(r"-?\d+\.?\d*", text)
    return int(bool(numbers) and abs(float(numbers[-1]) - float(item["answer"])) <= CLOSE)


def json_object(written: str, item: dict[str, Any]) -> int:
    """All fields of the first JSON object are right, and there are no others."""
    right = right_fields(written, item["answer"])
    return int(all(right) and len(fields(written)) == len(right))


RULES: dict[str, Callable[[str, dict[str, Any]], int]] = {
    "choice": choice,
    "line": line,
    "number": number,
    "json": json_object,
}
