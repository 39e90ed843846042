"""Base-corpus skills about numbers: stories, arithmetic, worked chains, one-step problems."""

import random
from collections.abc import Sequence

from .draw import between, pick, sample
from .world import ITEMS, NAMES, TOP

ASK_LABELS = [("Question:", "Answer:"), ("Q:", "A:"), ("Problem:", "Solution:"), ("Ask:", "Reply:")]
GAINS = ("finds", "buys", "gets", "picks up", "wins", "collects", "receives")
LOSSES = ("loses", "sells", "drops", "breaks", "gives away", "uses up", "throws away")
WORDS = {"+": "plus", "-": "minus", "*": "times"}
STEP_SEPARATORS = ("; ", ", ", " then ", " -> ", ". ")
THE_ANSWER = "the answer is {r}."
FINALS = ("so {r}", "Result {r}.", "total {r}", "We get {r}.", "final: {r}", THE_ANSWER)


def compute(a: int, op: str, b: int) -> int:
    """a op b for op in + - *."""
    return a + b if op == "+" else a - b if op == "-" else a * b


def operand(rng: random.Random, a: int) -> tuple[str, int]:
    """An operation and a second number that keep the result of `a op b` in [0, TOP]."""
    draw = rng.random()
    if draw < 0.2 and 1 <= a <= 10:
        return "*", between(rng, 2, min(10, max(2, TOP // a)))
    if (draw < 0.6 and a < TOP) or a == 0:
        return "+", between(rng, 1, min(TOP - a, 40))
    return "-", between(rng, 1, a)


def task(rng: random.Random) -> tuple[int, str, int, int]:
    """One exercise (a, op, b, result)."""
    a = between(rng, 1, 10) if rng.random() < 0.25 else between(rng, 0, 40)
    op, b = operand(rng, a)
    return a, op, b, compute(a, op, b)


def ask(labels: tuple[str, str], question: str, answer: str) -> str:
    """A question and its answer under the two labels."""
    return f"{labels[0]} {question}\n{labels[1]} {answer}"


def story(rng: random.Random) -> str:
    """A person whose count of things is restated after every event."""
    (name, other), item = sample(rng, NAMES, 2), pick(rng, ITEMS)
    count = between(rng, 0, 30)
    parts = [f"{name} has {count} {item}."]
    now = pick(rng, ("Now {n} has {c} {i}.", "That makes {c} {i}.", "So {n} has {c} {i} now."))
    for _ in range(between(rng, 2, 5)):
        if rng.random() < 0.5 and count < TOP:
            step = between(rng, 1, min(20, TOP - count))
            count += step
            gain = f"{name} {pick(rng, GAINS)} {step} {item}."
            parts.append(gain if rng.random() < 0.7 else f"{other} gives {name} {step} {item}.")
        elif count:
            step = between(rng, 1, count)
            count -= step
            loss = f"{name} {pick(rng, LOSSES)} {step} {item}."
            parts.append(loss if rng.random() < 0.7 else f"{name} gives {other} {step} {item}.")
        parts.append(now.format(n=name, c=count, i=item))
    return " ".join(parts)


def two_people(rng: random.Random) -> str:
    """Two people with counts, a gift between them, and their total."""
    (one, two), item = sample(rng, NAMES, 2), pick(rng, ITEMS)
    a, b = between(rng, 1, 25), between(rng, 1, 25)
    gift = between(rng, 1, a)
    text = f"{one} has {a} {item} and {two} has {b} {item}. Both have {a} + {b} = {a + b} {item}."
    if rng.random() < 0.5:
        text += f" {one} gives {two} {gift} {item}."
        text += f" Now {one} has {a - gift} and {two} has {b + gift}."
    elif a != b:
        high, low = (one, two) if a > b else (two, one)
        text += f" {high} has {abs(a - b)} {item} more than {low}."
    return text


_ARITHMETIC = (
    ("What is {a} {op} {b}?", "{r}"),
    ("{a} {op} {b}", "{r}"),
    ("What is {a} {w} {b}?", "It is {r}."),
    ("Compute {a} {op} {b}.", "{a} {op} {b} = {r}"),
    ("How much is {a} {w} {b}?", "{a} {w} {b} is {r}"),
)


def arithmetic(rng: random.Random) -> str:
    """Several exercises in one random form."""
    labels = pick(rng, ASK_LABELS)
    style = between(rng, -2, len(_ARITHMETIC) - 1)
    rows = []
    for _ in range(between(rng, 1, 8)):
        a, op, b, r = task(rng)
        if style == -2:
            rows.append(f"{a} {op} {b} = {r}")
        elif style == -1:
            rows.append(f"{a} {WORDS[op]} {b} is {r}.")
        else:
            question, answer = _ARITHMETIC[style]
            fields = {"a": a, "op": op, "b": b, "r": r, "w": WORDS[op]}
            rows.append(ask(labels, question.format(**fields), answer.format(**fields)))
    return ("\n" if style < 0 else "\n\n").join(rows)


def worked(steps: Sequence[tuple[int, str, int, int]], form: int, separator: str, end: str) -> str:
    """Steps written out in one of three forms, then the final phrase."""
    if form == 0:
        texts = [f"{a} {op} {b} = {r}" for a, op, b, r in steps]
    elif form == 1:
        texts = [f"{a} {WORDS[op]} {b} is {r}" for a, op, b, r in steps]
    else:
        texts = [f"{r} = {a} {op} {b}" for a, op, b, r in steps]
    return separator.join([*texts, end.format(r=steps[-1][3])])


def ending(rng: random.Random) -> tuple[str, str]:
    """A step separator and a final phrase. ". " with "The answer is": the math app's, held out."""
    while True:
        separator, end = pick(rng, STEP_SEPARATORS), pick(rng, FINALS)
        if not (separator == ". " and end == THE_ANSWER):
            return separator, end


def chain(rng: random.Random) -> str:
    """Expressions of two to four operations, read from left to right, with worked steps."""
    labels, form = pick(rng, ASK_LABELS), between(rng, 0, 2)
    separator, end = ending(rng)
    lead = pick(rng, ("Start with {a},", "Take {a},", "Compute {a},"))
    rows = []
    for _ in range(between(rng, 1, 4)):
        steps, value = [], between(rng, 1, 30)
        text = [lead.format(a=value)]
        for _ in range(between(rng, 2, 3)):
            op, b = operand(rng, value)
            result = compute(value, op, b)
            steps.append((value, op, b, result))
            text.append(f"{WORDS[op]} {b},")
            value = result
        question = " ".join(text)[:-1] + "."
        rows.append(ask(labels, question, worked(steps, form, separator, end)))
    return "\n\n".join(rows)


def one_step(rng: random.Random, name: str, item: str) -> tuple[str, tuple[int, str, int, int]]:
    """A one-step word problem and its step."""
    a, b, kind = between(rng, 1, 30), between(rng, 1, 20), between(rng, 0, 4)
    if kind == 0:
        text = f"{name} has {a} {item} and {pick(rng, GAINS)} {b}. How many {item} has {name}?"
        return text, (a, "+", b, a + b)
    if kind == 1:
        a, b = max(a, b), min(a, b)
        text = f"{name} has {a} {item} and {pick(rng, LOSSES)} {b}. How many {item} has {name}?"
        return text, (a, "-", b, a - b)
    if kind == 2:
        a, b = between(rng, 2, 7), between(rng, 2, 7)
        text = f"There are {a} boxes with {b} {item} in each. How many {item} are there?"
        return text, (a, "*", b, a * b)
    other = pick(rng, NAMES)
    if kind == 3:
        text = f"{name} has {a} {item}. {other} has {b} more. How many {item} has {other}?"
        return text, (a, "+", b, a + b)
    text = f"{name} has {a} {item}, {other} has {b}. How many {item} are there for both?"
    return text, (a, "+", b, a + b)


def problems(rng: random.Random) -> str:
    """One-step word problems, answered by a worked step in one random form."""
    labels, form = pick(rng, ASK_LABELS), between(rng, 0, 2)
    separator, end = ending(rng)
    bare = rng.random() < 0.25
    rows = []
    for _ in range(between(rng, 1, 4)):
        question, step = one_step(rng, pick(rng, NAMES), pick(rng, ITEMS))
        answer = str(step[3]) if bare else worked([step], form, separator, end)
        rows.append(ask(labels, question, answer))
    return "\n\n".join(rows)


def counts(rng: random.Random) -> str:
    """A person's events without the counts between them; the answer works them out."""
    labels, form = pick(rng, ASK_LABELS), between(rng, 0, 2)
    separator, end = ending(rng)
    lead = pick(rng, ("Count the {i}.", "Work out the {i}.", "Follow the {i}."))
    rows = []
    for _ in range(between(rng, 1, 3)):
        name, item, value = pick(rng, NAMES), pick(rng, ITEMS), between(rng, 1, 30)
        parts, steps = [f"{name} has {value} {item}."], []
        for _ in range(between(rng, 1, 3)):
            gain = value < TOP and (value == 0 or rng.random() < 0.5)
            number = between(rng, 1, min(20, TOP - value)) if gain else between(rng, 1, value)
            op, verb = ("+", pick(rng, GAINS)) if gain else ("-", pick(rng, LOSSES))
            steps.append((value, op, number, compute(value, op, number)))
            value = steps[-1][3]
            parts.append(f"{name} {verb} {number} {item}.")
        question = " ".join([*parts, lead.format(i=item)])
        rows.append(ask(labels, question, worked(steps, form, separator, end)))
    return "\n\n".join(rows)


def order(rng: random.Random) -> str:
    """Sorting and comparing numbers (a skill of the newer corpus)."""
    labels = pick(rng, ASK_LABELS)
    rows = []
    for _ in range(between(rng, 1, 4)):
        numbers = sample(rng, range(TOP + 1), between(rng, 3, 5))
        listed = " ".join(map(str, numbers))
        if rng.random() < 0.5:
            rows.append(ask(labels, f"Sort {listed}.", " ".join(map(str, sorted(numbers)))))
        else:
            rows.append(ask(labels, f"Which is the largest of {listed}?", str(max(numbers))))
    return "\n\n".join(rows)
