"""Training examples of a task: read, put into a template, drawn, and turned into tokens.

Three record layouts are known by their fields: `prompt, completion` (used as they are);
`instruction, input, output` (LLM-Adapters); `question, answer` (GSM8K, whose calculator marks
`<<…>>` are taken out and whose `#### N` becomes "The answer is N."). Conversations are told by
their own (`loraport.training.chats`). A blank cell, null or NaN, is no text and is refused.
"""

import hashlib
import json
import math
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import LoraportError, words
from .chats import Turn, conversation, written_out

IGNORED = -100  # label that the loss skips, by torch's convention
FILES = (".jsonl", ".json")


class Example(NamedTuple):
    """One training text in two parts; the completion carries its own leading space, if any."""

    prompt: str
    completion: str

    def written(self, tokenizer: Any) -> "Example":
        """The two parts as a model reads them."""
        return self

    def answered(self, answer: str) -> "Example":
        """The same prompt with another answer."""
        return Example(self.prompt, answer)

    def record(self) -> dict[str, Any]:
        """The example as a line of JSON holds it, for the template `plain`."""
        return self._asdict()


class Conversation(Example):
    """An example whose text a model's chat template makes of its turns; prompt and completion are
    the bare contents.
    """

    turns: tuple[Turn, ...]

    def __new__(cls, turns: Sequence[Turn]) -> "Conversation":
        before = "\n".join(turn.content for turn in turns[:-1])
        made = super().__new__(cls, before, turns[-1].content)
        made.turns = tuple(turns)
        return made

    def written(self, tokenizer: Any) -> Example:
        """The two parts as the chat template writes them."""
        return Example(*written_out(self.turns, tokenizer))

    def answered(self, answer: str) -> Example:
        """The same turns with another last one."""
        return Conversation([*self.turns[:-1], self.turns[-1]._replace(content=answer)])

    def record(self) -> dict[str, Any]:
        """The example as a line of JSON holds it, with its `messages`."""
        return {"messages": [turn._asdict() for turn in self.turns]}


@dataclass(frozen=True)
class Template:
    """Format strings over `instruction`, `input`, `output`; `with_input` where there is input."""

    prompt: str
    with_input: str
    completion: str


# The LLM-Adapters scripts print their prompt from an indented literal: the spaces are part of it.
_INDENT = " " * 16
_BELOW = "Below is an instruction that describes a task"
TEMPLATES = {
    # LoRASuite's authors
    "question": Template(
        "Question: {instruction}\nAnswer:",
        "Context: {input}\nQuestion: {instruction}\nAnswer:",
        " {output}",
    ),
    # LLM-Adapters: evaluate.py, commonsense_evaluate.py
    "llm_adapters": Template(
        f"{_BELOW}. Write a response that appropriately completes the request. \n\n"
        f"{_INDENT}### Instruction:\n{_INDENT}{{instruction}}\n\n"
        f"{_INDENT}### Response:\n{_INDENT}",
        f"{_BELOW}, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        f"{_INDENT}### Instruction:\n{_INDENT}{{instruction}}\n\n"
        f"{_INDENT}### Input:\n{_INDENT}{{input}}\n\n{_INDENT}### Response:\n{_INDENT}",
        "{output}",
    ),
    # Stanford Alpaca, of which the one above is a copy
    "alpaca": Template(
        f"{_BELOW}. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Response:",
        f"{_BELOW}, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:",
        "\n{output}",
    ),
}


def read(
    source: str,
    template: str = "question",
    *,
    name: str = "",
    split: str = "train",
    revision: str = "",
) -> list[Example]:
    """All examples of a training set, in its order.

    Parameters
    ----------
    source : a `.jsonl` or `.json` file (a list of records), a local dataset directory, or a hub id
    template : a name in `TEMPLATES`, `plain` (records already hold `prompt` and `completion`), or
        a format string over the record's own fields, the completion then being " {output}"
    name, split, revision : of a hub dataset

    Raises
    ------
    LoraportError
        If the data is missing, empty, or of another layout than the template needs.
    """
    records = read_records(source, name=name, split=split, revision=revision)
    if not records:
        raise LoraportError(
            f"training data {source} holds no example",
            got=0,
            expected="at least one record",
            todo="correct the task's `train` in config.yaml",
        )
    return [
        to_example(record, template, f"{source}, record {n}") for n, record in enumerate(records)
    ]


def read_records(
    source: str, *, name: str = "", split: str = "train", revision: str = ""
) -> list[dict[str, Any]]:
    """Records of a local JSON or JSONL file, a dataset directory, or a dataset of the hub."""
    path = Path(source)
    if path.suffix in FILES:
        return _read_file(path)
    from datasets import load_dataset  # imports pandas and pyarrow: only where it is needed

    try:
        loaded = load_dataset(source, name or None, split=split, revision=revision or None)
    except Exception as error:  # the library raises many kinds, network errors among them
        raise LoraportError(
            f"training data {source!r} could not be loaded",
            got=words(error),
            expected="a .json or .jsonl file, a dataset directory, or a dataset of the hub",
            todo="correct the task's `train` in config.yaml (paths are relative to the working "
            "directory), or download the set and name the file",
        ) from error
    return [dict(record) for record in loaded]


def _read_file(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            records = json.loads(text)
        else:
            records = [json.loads(line) for line in text.split("\n") if line.strip()]
        if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
            raise ValueError("not a list of JSON objects")
    except (OSError, ValueError, RecursionError) as error:
        raise LoraportError(
            f"training data {path} cannot be read",
            got=error,
            expected="JSON objects, one a line (.jsonl) or in one list (.json)",
            todo="correct the task's `train` in config.yaml, or make the file",
        ) from error
    return records


def to_example(record: Mapping[str, Any], template: str, where: str) -> Example:
    """One record put into a template (see `read`)."""
    if "{" not in template and (turns := conversation(record, where)):
        example: Example = Conversation(turns)
    elif template == "plain":
        example = Example(_text(record, "prompt", where), _text(record, "completion", where))
    else:
        prompt, answer = prompt_of(record, template, where), answer_of(record, where)
        named = TEMPLATES.get(template)
        example = Example(prompt, named.completion.format(output=answer) if named else f" {answer}")
    if not example.completion.strip():
        raise LoraportError(
            f"{where} has an empty answer",
            got=repr(example.completion),
            expected="something to learn",
            todo="drop the record",
        )
    return example


def prompt_of(record: Mapping[str, Any], template: str, where: str) -> str:
    """What a record asks, put into a template (see `read`); it need not hold an answer."""
    if template in TEMPLATES:
        asked = dict.fromkeys(("instruction", "input"), "")
        question = "question" in record and "instruction" not in record
        asked["instruction"] = _text(record, "question" if question else "instruction", where)
        if not question and not is_blank(record.get("input")):
            asked["input"] = _text(record, "input", where)
        asked = {name: text.strip() for name, text in asked.items()}
        chosen = TEMPLATES[template]
        return (chosen.with_input if asked["input"] else chosen.prompt).format(**asked)
    if "{" in template:
        return _filled(template, record, where)
    raise LoraportError(
        f"unknown template {template!r}",
        expected=f"plain, {', '.join(TEMPLATES)}, or a format string with {{instruction}}",
    )


def answer_of(record: Mapping[str, Any], where: str) -> str:
    """The answer of a record of either question layout."""
    if "question" in record and "instruction" not in record:
        return worked_answer(_text(record, "answer", where))
    return _text(record, "output", where).strip()


def _filled(template: str, record: Mapping[str, Any], where: str) -> str:
    """A format string over a record's fields, each of which must hold a text or a number."""
    try:
        named = {name for _, name, _, _ in string.Formatter().parse(template) if name}
        whole = {re.split(r"[.\[]", name)[0] for name in named}
        return template.format(**{name: _text(record, name, where) for name in whole & set(record)})
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise LoraportError(
            f"{where} does not fill the template {template!r}",
            got=f"fields {', '.join(record)}",
            expected=f"a field for each name in braces ({error})",
        ) from error


def worked_answer(answer: str) -> str:
    """A GSM8K solution without calculator marks, its `#### N` as "The answer is N."."""
    plain = re.sub(r"<<[^>]*>>", "", answer).strip()
    return re.sub(r"\s*####\s*(\S+)\s*$", r"\nThe answer is \1.", plain)


def is_blank(value: Any) -> bool:
    """Whether a cell held nothing: null, or NaN as pandas writes it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _text(record: Mapping[str, Any], name: str, where: str) -> str:
    """A field that is a text, or a number in its usual form."""
    value = record.get(name)
    if is_blank(value):
        held = f"{name} = {value}" if name in record else f"fields {', '.join(record)}"
        raise LoraportError(
            f"{where} has no field {name!r}",
            got=held,
            expected="prompt, completion (template plain), or instruction, output, "
            "or question, answer, or messages",
            todo="drop records with blank cells, or choose the `template` that fits the data",
        )
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        shown = repr(value)
        raise LoraportError(
            f"{where} has no text in its field {name!r}",
            got=f"{type(value).__name__}: {shown if len(shown) <= 80 else shown[:79] + '…'}",
            expected="a text or a number",
            todo="write it out as one text, or choose the `template` that fits the data",
        )
    return str(value)


def subset(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """A fixed random draw of `count` examples: the first ones of one seeded permutation.

    Draws of other sizes with the same seed are nested, and nothing but the data and the seed
    decides which examples a method sees. `count` 0 takes all of them, in their order.
    """
    if count < 0 or count > len(examples) or not examples:
        raise LoraportError(
            "the small training set asks for more examples than there are",
            got=f"{count} asked, {len(examples)} there",
            expected=f"1 to {len(examples)}, or 0 for all",
            todo="lower `examples` under `finetune`, or give more training data",
        )
    if count == 0:
        return list(examples)
    order = np.random.default_rng(seed).permutation(len(examples))
    return [examples[i] for i in order[:count]]


def fingerprint(examples: Iterable[Example]) -> str:
    """SHA-256 of the examples' texts, in their order."""
    digest = hashlib.sha256()
    for example in examples:
        parts = example.turns if isinstance(example, Conversation) else list(example)
        digest.update(json.dumps(parts).encode() + b"\n")
    return digest.hexdigest()


@dataclass(frozen=True)
class Encoded:
    """Tokens of a training set: `rows` of `input_ids` and `labels`, and what was cut."""

    rows: list[dict[str, list[int]]]
    truncated: int
    dropped: int
    longest: int


def encode(examples: Sequence[Example], tokenizer: Any, cutoff: int, loss: str) -> Encoded:
    """Token ids and labels, cut at `cutoff` tokens; an end-of-text token closes each whole text.

    The prompt's tokens are those that the model is given when it answers: where the tokenizer
    merges across the border, prompt and completion are encoded apart. With `loss` "answer" the
    prompt's labels are ignored; an example whose answer lies wholly behind the cutoff is dropped.
    """
    if tokenizer.eos_token_id is None:
        raise LoraportError(
            "the tokenizer has no end-of-text token, so no model can learn to stop",
            todo="set `eos_token` in the model's tokenizer_config.json",
        )
    rows: list[dict[str, list[int]]] = []
    truncated = longest = 0
    for example in examples:
        prompt, completion = example.written(tokenizer)
        first = tokenizer(prompt)["input_ids"]
        whole = tokenizer(prompt + completion)["input_ids"]
        if whole[: len(first)] != first:
            whole = first + tokenizer(completion, add_special_tokens=False)["input_ids"]
        if whole[-1] != tokenizer.eos_token_id:
            whole = [*whole, tokenizer.eos_token_id]
        longest = max(longest, len(whole))
        truncated += len(whole) > cutoff
        masked = len(first) if loss == "answer" else 0
        labels = [IGNORED] * masked + whole[masked:]
        if masked < cutoff:
            rows.append({"input_ids": whole[:cutoff], "labels": labels[:cutoff]})
    if not rows:
        raise LoraportError(
            "no training example keeps any of its answer within the cutoff",
            got=f"texts up to {longest} tokens",
            expected=f"answers that begin before token {cutoff}",
            todo="raise `cutoff` under `finetune`",
        )
    return Encoded(rows, truncated, len(examples) - len(rows), longest)
