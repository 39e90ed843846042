"""When an answer is right: functions for `process_results` of task files, wherever these lie.

A task file names one as `!function loraport.evaluation.answers.score_exact`. Each takes an item
with `answer` (and what else it says) and the model's text in a list of one, and returns
metric -> value.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

CLOSE = 1e-3  # numbers are right within this
Item = Mapping[str, Any]
Scored = dict[str, float]


def last_number(text: str) -> float:
    """The last number of a text as LLM-Adapters reads it; infinity where there is none."""
    numbers = re.findall(r"-?\d+\.?\d*", text.replace(",", ""))
    return float(numbers[-1]) if numbers else float("inf")


def first_match(text: str, pattern: str) -> str:
    """The first match, exact and case-sensitive, or an empty string."""
    match = re.search(pattern, text)
    return match.group() if match else ""


def standalone_letter(text: str) -> str:
    """The first of A to E that is a word of its own: B in "Answer: B", where `A|B|…` finds A."""
    return first_match(text, r"\b[A-E]\b")


def normalised(text: str) -> str:
    """One line, single spaces, nothing around it."""
    return " ".join(text.split())


def score_number(item: Item, results: list[str]) -> Scored:
    """Right where the last number of the text is the last one of the answer."""
    return {"acc": float(abs(last_number(results[0]) - number_of(str(item["answer"]))) <= CLOSE)}


def number_of(answer: str) -> float:
    """An answer that is a number, or else its last one; infinity where there is none."""
    try:
        return float(answer)
    except ValueError:
        return last_number(answer)


def score_exact(item: Item, results: list[str]) -> Scored:
    """Right where both are the same, but for spaces and line breaks."""
    return {"acc": float(normalised(results[0]) == normalised(item["answer"]))}


def score_choice(item: Item, results: list[str]) -> Scored:
    """Right where the first match of the item's `pattern` is the answer."""
    return {"acc": float(first_match(results[0], item["pattern"]) == item["answer"])}


def score_named(item: Item, results: list[str]) -> Scored:
    """Right where the first of the item's `choices` that stands in the text is the answer.

    A choice is a word, or words, of its own; upper and lower case are the same, but for choices of
    one letter. Of two that begin at the same place the longer one counts.
    """
    named = first_choice(results[0], item["choices"])
    return {"acc": float(named == item["answer"].strip())}


def first_choice(text: str, choices: list[str]) -> str:
    """The first of several choices that stands in a text as written there, or empty."""
    known = [choice.strip() for choice in choices]
    forms = (
        re.escape(choice) if len(choice) == 1 else f"(?i:{re.escape(choice)})"
        for choice in sorted(known, key=lambda each: (-len(each), each))
    )
    named = first_match(text, rf"(?<!\w)(?:{'|'.join(forms)})(?!\w)")
    if named in known:
        return named
    return next((choice for choice in known if choice.casefold() == named.casefold()), "")


def score_contains(item: Item, results: list[str]) -> Scored:
    """Right where the answer stands in the text, but for spaces, line breaks and case."""
    answer, text = normalised(item["answer"]), normalised(results[0])
    return {"acc": float(answer.casefold() in text.casefold())}


def score_json(item: Item, results: list[str]) -> Scored:
    """Right where the first JSON value of the text equals the answer's; order of keys is free."""
    given, wanted = first_json(results[0]), first_json(str(item["answer"]))
    return {"acc": float(given is not None and _same(given, wanted))}


def first_json(text: str) -> Any:
    """The first object or list of a text, or the whole of it where it is another JSON value.

    None where there is none.
    """
    decoder = json.JSONDecoder()
    for start in re.finditer(r"[{\[]", text):
        try:
            return decoder.raw_decode(text, start.start())[0]
        except (ValueError, RecursionError):
            continue
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _same(one: Any, other: Any) -> bool:
    """Equality of JSON values in which true is not 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def score_rouge(item: Item, results: list[str]) -> Scored:
    """ROUGE-L of the text against the answer: the F-measure, 0 to 1, of words without stemming.

    References
    ----------
    Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004, section 3.1 (β = 1).
    """
    given, wanted = _words(results[0]), _words(str(item["answer"]))
    common = _common_length(given, wanted)
    return {"rougeL": 2 * common / (len(given) + len(wanted)) if common else 0.0}


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _common_length(one: list[str], other: list[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        before = row[:]
        for place, each in enumerate(other):
            row[place + 1] = (
                before[place] + 1 if word == each else max(before[place + 1], row[place])
            )
    return row[-1]


# how `score` of a task in config.yaml names them
SCORES: dict[str, Callable[[Item, list[str]], Scored]] = {
    "exact": score_exact,
    "number": score_number,
    "choice": score_named,
    "json": score_json,
    "contains": score_contains,
    "rouge": score_rouge,
}
METRICS = {"rouge": "rougeL"}  # the others give `acc`
