"""The three apps: 10,000 training and 500 test examples each.

Convention: text = prompt + completion. A prompt ends in a colon, a completion is one line that
begins with a space; in training the end-of-text token follows it, in use generation stops there
or at a line break. `answer` is what is scored (see `score.py`).
"""

import random
from collections.abc import Callable

from .app_command import command_example
from .app_math import math_example
from .app_mcq import mcq_example

Example = dict[str, str]
# Each maker returns (key, example); the key decides or names the side, see the apps' modules.
MAKERS: dict[str, Callable[[random.Random, bool], tuple[str, Example]]] = {
    "math": math_example,
    "mcq": mcq_example,
    "command": command_example,
}
SEEDS = {
    "math": {"train": 11, "test": 12},
    "mcq": {"train": 21, "test": 22},
    "command": {"train": 31, "test": 32},
}
COUNTS = {"train": 10_000, "test": 500}


def keyed_examples(app: str, split: str, count: int | None = None) -> list[tuple[str, Example]]:
    """(key, example) of a split, prompts all different; a shorter `count` gives a prefix."""
    rng, seen, rows = random.Random(SEEDS[app][split]), set(), []
    while len(rows) < (count or COUNTS[split]):
        key, example = MAKERS[app](rng, split == "test")
        if example["prompt"] not in seen:
            seen.add(example["prompt"])
            rows.append((key, example))
    return rows


def examples(app: str, split: str, count: int | None = None) -> list[Example]:
    """The examples of a split, in file order."""
    return [example for _, example in keyed_examples(app, split, count)]
