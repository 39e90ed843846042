"""App `math`: two-step word problems, answered by worked steps that end in the number.

Key: template and its three numbers; a hash puts each key on one side. Names and items are
disjoint between the sides as well.
"""

import random

from .draw import between, is_test_key, pick, sample
from .skills_numbers import compute
from .world import TEST_ITEMS, TEST_NAMES, TOP, TRAIN_ITEMS, TRAIN_NAMES

# (first operation, second operation, text). `a op1 b`, then the result `op2 c`;
# "rev" steps put the earlier number first: a op2 (a op1 b).
_TEMPLATES = (
    (
        "+",
        "+",
        "{n} keeps {a} {i}, collects {b} {i} and gets {c} {i} from {m}. What is the "
        "number of {i} in the end?",
    ),
    (
        "+",
        "-",
        "{n} starts with {a} {i}, receives {b} {i} at noon and loses {c} at night. How "
        "many {i} does {n} still own?",
    ),
    ("-", "+", "Of {a} {i}, {n} sells {b}. Later {m} gives {n} {c} {i}. How many {i} are that?"),
    (
        "-",
        "-",
        "{n} carries {a} {i}. First {b} break, then {c} are sold to {m}. How many {i} are left?",
    ),
    (
        "*",
        "+",
        "{n} fills {a} boxes, each holding {b} {i}, and {c} {i} stay outside. How many "
        "{i} are there?",
    ),
    (
        "*",
        "-",
        "{n} gets {a} boxes, each holding {b} {i}, but {c} are broken. How many good {i} "
        "does {n} own?",
    ),
    (
        "+",
        "*",
        "Every day {n} picks up {a} {i} at school and {b} at home. How many {i} are that "
        "after {c} days?",
    ),
    (
        "-",
        "*",
        "{c} children own {a} {i} each, and each loses {b}. How many {i} do the children own now?",
    ),
    (
        "+",
        "rev",
        "{n} owns {a} {i}, and {m} owns {b} {i} more than {n}. How many {i} do the two own?",
    ),
    (
        "-",
        "rev",
        "{n} owns {a} {i}, and {m} owns {b} {i} fewer than {n}. How many {i} do the two own?",
    ),
)


def _numbers(rng: random.Random, template: int) -> tuple[int, int, int] | None:
    """Three numbers whose steps stay in [0, TOP], or None where this draw does not."""
    first, second, _ = _TEMPLATES[template]
    small = "*" in (first, second)
    a, b = between(rng, 2, 9 if small else 30), between(rng, 2, 9 if small else 20)
    c = between(rng, 2, 5 if second == "*" else 20)
    middle = compute(a, first, b)
    last = a + middle if second == "rev" else compute(middle, second, c)
    return (a, b, c) if 0 < middle <= TOP and 0 <= last <= TOP else None


def math_example(rng: random.Random, test: bool) -> tuple[str, dict[str, str]]:
    """One (key, example) of the wanted side."""
    while True:
        template = between(rng, 0, len(_TEMPLATES) - 1)
        numbers = _numbers(rng, template)
        if numbers is None:
            continue
        first, second, text = _TEMPLATES[template]
        a, b, c = numbers
        key = f"{template}:{a},{b}" if second == "rev" else f"{template}:{a},{b},{c}"
        if is_test_key(key) == test:
            break
    name, other = sample(rng, TEST_NAMES if test else TRAIN_NAMES, 2)
    item = pick(rng, TEST_ITEMS if test else TRAIN_ITEMS)
    middle = compute(a, first, b)
    if second == "rev":
        last, step = a + middle, f"{a} + {middle}"
    else:
        last, step = compute(middle, second, c), f"{middle} {second} {c}"
    question = text.format(n=name, m=other, i=item, a=a, b=b, c=c)
    done = f" {a} {first} {b} = {middle}. {step} = {last}. The answer is {last}."
    example = {"prompt": f"Question: {question}\nAnswer:", "completion": done, "answer": str(last)}
    return key, example
