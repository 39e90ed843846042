"""Prompts of a file, with answers where there are some: text, or messages of a chat."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import LoraportError
from ..training.chats import ANSWER, Turn, turns_of, without_start
from ..training.data import TEMPLATES, Conversation, Example, is_blank, prompt_of, to_example

Prompt = str | tuple[tuple[str, str], ...]  # a text, or (role, content) of each message
ANSWERS = ("completion", "answer", "output")  # fields of a record that hold its gold answer


@dataclass(frozen=True)
class Record:
    """A prompt, and its gold answer where it has one.

    synthetic : a model wrote the prompt
    """

    prompt: Prompt
    gold: str | None = None
    synthetic: bool = False


def read_prompts(path: str | Path, template: str = "") -> list[Record]:
    """Records of a file, in its order, each prompt once.

    Parameters
    ----------
    path : .jsonl or .json: objects with `prompt` (a text), or a conversation in any form that
        `training.chats` reads, and maybe a gold answer in `completion`, `answer` or `output`; where
        the last message is the assistant's, it is the gold answer. Another ending: one prompt a
        line.
    template : what records of another layout are put into, as in training (`training.data.read`):
        those with `instruction` or `question`, or, for a format string, with the fields it names

    Raises
    ------
    LoraportError
        If the file is missing, holds no prompt, or a record has none.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            entries = json.loads(text)
        elif path.suffix == ".jsonl":
            entries = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            entries = [{"prompt": line} for line in text.splitlines() if line.strip()]
        if not isinstance(entries, list):
            raise ValueError("not a list of JSON objects")
    except (OSError, ValueError, RecursionError) as error:
        raise LoraportError(
            f"prompts {path} cannot be read",
            got=error,
            expected="JSON objects, one a line (.jsonl) or in a list (.json); or one prompt a line",
            todo="correct the path, or make the file",
        ) from error
    records = [
        _record(entry, template, f"{path}, record {n}") for n, entry in enumerate(entries, 1)
    ]
    unique = list({record.prompt: record for record in reversed(records)}.values())[::-1]
    if not unique:
        raise LoraportError(f"prompts {path} hold no prompt", got=0, expected="at least one")
    return unique


def _record(entry: Any, template: str, where: str) -> Record:
    if not isinstance(entry, Mapping):
        raise _without_prompt(entry, where)
    given = next((entry[name] for name in ANSWERS if not is_blank(entry.get(name))), None)
    gold = None if given is None or isinstance(given, list) else str(given)
    if turns := turns_of(entry, where):
        if turns[-1].role == ANSWER:
            turns, gold = turns[:-1], turns[-1].content
        if not turns:
            raise _without_prompt(entry, where)
        return Record(as_messages(turns), gold)
    prompt = entry.get("prompt")
    if isinstance(prompt, str) and prompt.strip():
        return Record(prompt, gold)
    if not template:
        raise _without_prompt(entry, where)
    if gold is None:
        return Record(prompt_of(entry, template, where))
    return Record(*to_example(entry, template, where))


def of_example(example: Example) -> Record:
    """What a training example asks, a text or the messages of a conversation, with its answer."""
    if isinstance(example, Conversation):
        return Record(as_messages(example.turns[:-1]), example.completion)
    return Record(example.prompt, example.completion)


def as_messages(turns: Sequence[Turn]) -> tuple[tuple[str, str], ...]:
    """Turns of a conversation as a prompt."""
    return tuple((turn.role, turn.content) for turn in turns)


def _without_prompt(entry: Any, where: str) -> LoraportError:
    return LoraportError(
        f"{where} has no prompt",
        got=f"fields {', '.join(map(str, entry))}" if isinstance(entry, Mapping) else repr(entry),
        expected="`prompt` (a text), or a conversation: `messages` with `role` and `content` each",
        todo="rename its field, or drop the record; for one with `instruction` or `question` name "
        f"the template that the adapter was trained with: --template {' or '.join(TEMPLATES)}, "
        "or a format string",
    )


def as_text(prompt: Prompt, tokenizer: Any) -> str:
    """A prompt as a model reads it: messages go through the model's own chat template.

    A beginning-of-text token that the template writes is left out where the tokenizer puts one
    before each text anyway.

    Raises
    ------
    LoraportError
        If a prompt is messages and the tokenizer has no chat template.
    """
    if isinstance(prompt, str):
        return prompt
    if not getattr(tokenizer, "chat_template", None):
        raise LoraportError(
            "a prompt is a chat's messages, and the model has no chat template",
            got=f"{len(prompt)} messages; no chat_template in {tokenizer.name_or_path}",
            expected="a tokenizer with a chat template, or prompts as text",
            todo="write each prompt as the text that the adapter was trained on",
        )
    messages = [{"role": role, "content": content} for role, content in prompt]
    text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    return without_start(text, tokenizer)


def said(prompt: Prompt) -> str:
    """A prompt in words, as reports show it."""
    return prompt if isinstance(prompt, str) else "\n".join(content for _, content in prompt)


def labelled(records: Sequence[Record]) -> list[Record]:
    """The records that have a gold answer."""
    return [record for record in records if record.gold is not None]
