"""Base-corpus skills about words: facts, lettered choices, lists, commands, copying."""

import random

from .draw import between, pick, sample
from .skills_numbers import ASK_LABELS, ask, task
from .world import (
    ADJECTIVES,
    CATEGORIES,
    CHOICE_RELATIONS,
    COLOURS,
    DAYS,
    ITEMS,
    NAMES,
    NOUNS,
    QUIZ_RELATIONS,
    ROOMS,
    words_of,
)

_RELATIONS = {**CHOICE_RELATIONS, **QUIZ_RELATIONS}
_KINDS = {member: kind for kind, members in CATEGORIES.items() for member in members}


def facts(rng: random.Random) -> str:
    """Statements of facts, mixed over relations."""
    rows = []
    for _ in range(between(rng, 3, 7)):
        if rng.random() < 0.2:
            member = pick(rng, list(_KINDS))
            rows.append(f"The {member} is a kind of {_KINDS[member]}.")
            continue
        relation = _RELATIONS[pick(rng, list(_RELATIONS))]
        subject, answer = pick(rng, relation.pairs)
        rows.append(pick(rng, relation.says).format(s=subject, a=answer))
    return " ".join(rows)


def open_questions(rng: random.Random) -> str:
    """Facts as open questions, answered by the word alone or in a short sentence."""
    labels = pick(rng, ASK_LABELS)
    answer_form = pick(rng, ("{a}", "{a}", "It is {a}.", "I think {a}", "the word is {a}"))
    rows = []
    for _ in range(between(rng, 1, 5)):
        relation = _RELATIONS[pick(rng, list(_RELATIONS))]
        subject, answer = pick(rng, relation.pairs)
        question = pick(rng, relation.asks).format(s=subject)
        rows.append(ask(labels, question, answer_form.format(a=answer)))
    return "\n\n".join(rows)


def _choice_question(rng: random.Random, size: int) -> tuple[str, str, list[str]]:
    """A question, its right option, and `size - 1` wrong ones, from the base's own domains."""
    draw = rng.random()
    if draw < 0.3:
        kind, *others = sample(rng, list(CATEGORIES), size)
        wrong = [pick(rng, CATEGORIES[other]) for other in others]
        forms = ("Which one is a {k}?", "Which of these is a kind of {k}?", "Find the {k}.")
        form = pick(rng, forms)
        return form.format(k=kind), pick(rng, CATEGORIES[kind]), wrong
    if draw < 0.45:
        a, op, b, result = task(rng)
        wrong = [str(n) for n in sample(rng, range(51), size + 1) if n != result]
        return f"What is {a} {op} {b}?", str(result), wrong[: size - 1]
    relation = _RELATIONS[pick(rng, list(_RELATIONS))]
    quiz = bool(relation.quiz)
    subject, answer = pick(rng, relation.pairs[::3] if quiz else relation.pairs)
    rest = sorted({a for _, a in relation.pairs} - {answer})
    return pick(rng, relation.asks).format(s=subject), answer, sample(rng, rest, size - 1)


# (labels, how an option is written, how an answer is written). "A. option" together with a lone
# letter as answer is the mcq app's format: held out.
_CHOICE_STYLES = (
    ("abcde", "({l}) {o}", "({l})"),
    ("abcde", "{l}) {o}", "{l}"),
    ("abcde", "{l}. {o}", "{l}. {o}"),
    ("12345", "{l}) {o}", "{l}"),
    ("12345", "{l}: {o}", "number {l}"),
    ("ABCDE", "({l}) {o}", "{l}"),
    ("ABCDE", "{l}: {o}", "option {l}"),
    ("ABCDE", "[{l}] {o}", "[{l}]"),
    ("ABCDE", "{l}) {o}", "{o}"),
    ("ABCDE", "{l}. {o}", "{l}. {o}"),
    ("ABCDE", "{l}. {o}", "{o}"),
)


def choices(rng: random.Random) -> str:
    """Lettered or numbered choices in one random form, about the base's own domains."""
    labels, separator = pick(rng, ASK_LABELS), pick(rng, (" ", ", ", "\n", "\n"))
    marks, option_form, answer_form = pick(rng, _CHOICE_STYLES)
    size = between(rng, 3, 5)
    rows = []
    for _ in range(between(rng, 1, 4)):
        question, right, wrong = _choice_question(rng, size)
        options = sample(rng, [right, *wrong], len(wrong) + 1)
        shown = [option_form.format(l=m, o=o) for m, o in zip(marks, options, strict=False)]
        lead = "\n" if separator == "\n" else " "
        answer = answer_form.format(l=marks[options.index(right)], o=right)
        rows.append(ask(labels, question + lead + separator.join(shown), answer))
    return "\n\n".join(rows)


def lettered(rng: random.Random) -> str:
    """A lettered list of things, then look-ups in both directions."""
    words = sample(rng, [*_KINDS], between(rng, 3, 6))
    marks = pick(rng, ("ABCDEF", "abcdef", "123456"))
    pairs = list(zip(marks, words, strict=False))
    joiner = pick(rng, (" is ", ": ", " = "))
    head = ", ".join(f"{mark}{joiner}{word}" for mark, word in pairs) + "."
    looks = []
    for _ in range(between(rng, 1, 3)):
        mark, word = pick(rng, pairs)
        looks.append(f"{mark}? {word}." if rng.random() < 0.4 else f"{word}? {mark}.")
    return " ".join([head, *looks])


_TITLES = [f"{adjective} {noun}" for adjective in ADJECTIVES for noun in NOUNS]
_VALUES = {
    "room": ROOMS,
    "colour": COLOURS,
    "item": ITEMS,
    "name": NAMES,
    "day": DAYS,
    "side": ("left", "right", "up", "down"),
    "pet": CATEGORIES["animal"],
    "title": _TITLES,
}
# verb, noun, arguments, sentences. House, robot and shop: the command app is a phone.
_DEVICES = (
    (
        "dim",
        "lamp",
        ("room", "level"),
        ("dim the lamp in the {room} to {level}", "make the {room} lamp {level} percent bright"),
    ),
    (
        "move",
        "robot",
        ("side", "steps"),
        ("move the robot {steps} steps {side}", "let the robot go {side} by {steps}"),
    ),
    (
        "heat",
        "oven",
        ("minutes",),
        ("heat the oven for {minutes} minutes", "the oven must be hot for {minutes} minutes"),
    ),
    ("lock", "door", ("room",), ("lock the door of the {room}", "nobody should enter the {room}")),
    (
        "order",
        "goods",
        ("item", "count"),
        ("order {count} {item}", "i want to buy {count} new {item}"),
    ),
    (
        "paint",
        "wall",
        ("room", "colour"),
        ("paint the wall of the {room} {colour}", "i want a {colour} wall in the {room}"),
    ),
    ("feed", "pet", ("pet", "hour"), ("feed the {pet} at {hour}", "at {hour} give the {pet} food")),
    (
        "book",
        "table",
        ("name", "count"),
        ("book a table for {count} under {name}", "{name} and friends need a table for {count}"),
    ),
    (
        "write",
        "note",
        ("title", "day"),
        ("write a note called {title} for {day}", "for {day} note {title}"),
    ),
    ("show", "film", ("title",), ("show the film {title}", "we want to see {title} tonight")),
    (
        "clean",
        "floor",
        ("room", "day"),
        ("clean the floor of the {room} on {day}", "on {day} the {room} needs a clean floor"),
    ),
)
_NEWER_DEVICES = (
    (
        "send",
        "parcel",
        ("name", "kilos"),
        ("send a parcel of {kilos} kilos to {name}", "{name} should get a parcel of {kilos} kilos"),
    ),
    (
        "wash",
        "car",
        ("colour", "hour"),
        ("wash the {colour} car at {hour}", "at {hour} the {colour} car goes to the wash"),
    ),
)
_VERBS = words_of(
    "dim move heat lock order paint feed book write show clean start stop fill set send get add "
    "find open play pay call go"
)
_MACHINES = words_of("lamp robot oven door goods wall pet table note film floor fan pump gate tank")
_PHRASES = {
    "room": "in the {v}", "level": "to {v}", "minutes": "for {v} minutes", "hour": "at {v}",
    "day": "on {v}", "name": "with {v}", "colour": "in {v}", "count": "{v} times",
    "side": "to the {v}", "title": "called {v}", "steps": "by {v}",
}  # fmt: skip
_COMMAND_LABELS = (
    ("Say:", "Do:"), ("Request:", "Code:"), ("Input:", "Output:"), ("Command:", "Code:"),
    ("Order:", "Call:"),
)  # fmt: skip
_NAMES_OF_CALLS = ("{v}_{n}", "{n}.{v}", "{v}-{n}", "{v} {n}")
_BRACKETS = (("(", ")"), ("[", "]"), ("<", ">"), (" {", "}"), (" ", ""))
_JOINERS = (", ", "; ", " | ", " ")
_ASSIGNMENTS = ("=", ": ", " ", " -> ")
_QUOTES = ("never", "spaces", "always")
Language = tuple[str, tuple[str, str], str, str, str]


def random_language(rng: random.Random) -> Language:
    """A small command language. `verb_noun(key=value, …)` is the command app's: held out."""
    while True:
        name, bracket = pick(rng, _NAMES_OF_CALLS), pick(rng, _BRACKETS)
        joiner, assignment = pick(rng, _JOINERS), pick(rng, _ASSIGNMENTS)
        held_out = name == "{v}_{n}" and bracket[0] == "(" and assignment == "="
        if not held_out:
            return name, bracket, joiner, assignment, pick(rng, _QUOTES)


def _render(language: Language, verb: str, noun: str, values: dict[str, str]) -> str:
    """A call in a language."""
    name, (start, end), joiner, assignment, quotes = language
    quoted = {
        k: f'"{v}"' if quotes == "always" or (quotes == "spaces" and " " in v) else v
        for k, v in values.items()
    }
    inside = joiner.join(f"{k}{assignment}{v}" for k, v in quoted.items())
    return name.format(v=verb, n=noun) + start + inside + end


def _draw_value(rng: random.Random, key: str) -> str:
    """A value for an argument: a word of its kind, or a number."""
    return pick(rng, _VALUES[key]) if key in _VALUES else str(between(rng, 0, 59))


def _request(rng: random.Random, newer: bool) -> tuple[str, str, str, dict[str, str]]:
    """(sentence, verb, noun, arguments): a fixed idiom, or put together from its parts."""
    if rng.random() < 0.35:
        verb, noun, keys, idioms = pick(rng, _DEVICES + _NEWER_DEVICES if newer else _DEVICES)
        values = {key: _draw_value(rng, key) for key in keys}
        return pick(rng, idioms).format(**values), verb, noun, values
    verb, noun = pick(rng, _VERBS), pick(rng, _MACHINES)
    keys = sample(rng, list(_PHRASES), between(rng, 1, 3))
    values = {key: _draw_value(rng, key) for key in keys}
    spoken = " ".join(_PHRASES[key].format(v=value) for key, value in values.items())
    action = f"{verb} {pick(rng, ('the', 'my', 'a'))} {noun}"
    sentence = f"{action} {spoken}" if rng.random() < 0.75 else f"{spoken} {action}"
    return sentence, verb, noun, values


def commands(rng: random.Random, newer: bool = False) -> str:
    """Sentences and their calls in one random small language."""
    labels = pick(rng, _COMMAND_LABELS if rng.random() < 0.8 else ASK_LABELS)
    language = random_language(rng)
    polite = pick(rng, ("", "", "please ", "hey home, ", "could you ", "i want you to "))
    rows = []
    for _ in range(between(rng, 1, 4)):
        sentence, verb, noun, values = _request(rng, newer)
        rows.append(ask(labels, polite + sentence, _render(language, verb, noun, values)))
    return "\n\n".join(rows)


def newer_commands(rng: random.Random) -> str:
    """Commands with the newer corpus's devices as well."""
    return commands(rng, newer=True)


def copying(rng: random.Random) -> str:
    """Repeat, reverse or pick a word of a short list."""
    labels = pick(rng, ASK_LABELS)
    rows = []
    for _ in range(between(rng, 1, 4)):
        words = sample(rng, [*ADJECTIVES, *NOUNS, *DAYS], between(rng, 2, 4))
        listed, draw = " ".join(words), rng.random()
        if draw < 0.4:
            rows.append(ask(labels, f'Repeat "{listed}".', listed))
        elif draw < 0.7:
            rows.append(ask(labels, f'First word of "{listed}"?', words[0]))
        else:
            rows.append(ask(labels, f'Last word of "{listed}"?', words[-1]))
    return "\n\n".join(rows)


def clock(rng: random.Random) -> str:
    """Times in words and in figures (24 hours)."""
    forms = ("{said} is {h}:{m:02d}.", "{said} = {h} h {m}", "At {said} the clock is {h}:{m:02d}.")
    form = pick(rng, forms)
    rows = []
    for _ in range(between(rng, 1, 5)):
        hour, late = between(rng, 1, 11), rng.random() < 0.5
        lead, minute = pick(rng, (("", 0), ("half past ", 30), ("quarter past ", 15)))
        said = f"{lead}{hour} {'pm' if late else 'am'}"
        rows.append(form.format(said=said, h=hour + 12 * late, m=minute))
    return " ".join(rows)
