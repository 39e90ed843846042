"""Training examples of a task: read, put into a template, drawn, and turned into tokens.

Three record layouts are known by their fields: `prompt, completion` (used as they are);
`instruction, input, output` (LLM-Adapters); `question, answer` (GSM8K, whose calculator marks
`<<…>>` are taken out and whose `#### N` becomes "The answer is N.").
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import LoraportError, words

IGNORED = -100  # label that the loss skips, by torch's convention
FILES = (".jsonl", ".json")


class Example(NamedTuple):
    """One training text in two parts; the completion carries its own leading space, if any."""

    prompt: str
    completion: str


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
    if template == "plain":
        example = Example(
            str(_field(record, "prompt", where)), str(_field(record, "completion", where))
        )
    elif template in TEMPLATES:
        fields = instruction_fields(record, where)
        chosen = TEMPLATES[template]
        prompt = chosen.with_input if fields["input"] else chosen.prompt
        example = Example(prompt.format(**fields), chosen.completion.format(**fields))
    elif "{" in template:
        try:
            prompt = template.format(**record)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise LoraportError(
                f"{where} does not fill the template {template!r}",
                got=f"fields {', '.join(record)}",
                expected=f"a field for each name in braces ({error})",
            ) from error
        example = Example(prompt, " " + instruction_fields(record, where)["output"])
    else:
        raise LoraportError(
            f"unknown template {template!r}",
            expected=f"plain, {', '.join(TEMPLATES)}, or a format string with {{instruction}}",
        )
    if not example.completion.strip():
        raise LoraportError(
            f"{where} has an empty answer",
            got=repr(example.completion),
            expected="something to learn",
            todo="drop the record",
        )
    return example


def instruction_fields(record: Mapping[str, Any], where: str) -> dict[str, str]:
    """`instruction`, `input` and `output` of a record of either question layout."""
    if "question" in record and "instruction" not in record:
        answer = str(_field(record, "answer", where))
        return {
            "instruction": str(record["question"]).strip(),
            "input": "",
            "output": worked_answer(answer),
        }
    return {
        "instruction": str(_field(record, "instruction", where)).strip(),
        "input": str(record.get("input") or "").strip(),
        "output": str(_field(record, "output", where)).strip(),
    }


def worked_answer(answer: str) -> str:
    """A GSM8K solution without calculator marks, its `#### N` as "The answer is N."."""
    plain = re.sub(r"<<[^>]*>>", "", answer).strip()
    return re.sub(r"\s*####\s*(\S+)\s*$", r"\nThe answer is \1.", plain)


def _field(record: Mapping[str, Any], name: str, where: str) -> Any:
    if record.get(name) is None:
        raise LoraportError(
            f"{where} has no field {name!r}",
            got=f"fields {', '.join(record)}",
            expected="prompt, completion (template plain), or instruction, output, "
            "or question, answer",
            todo="choose the `template` that fits the data",
        )
    return record[name]


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
        digest.update(json.dumps(list(example)).encode() + b"\n")
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
    for prompt, completion in examples:
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
