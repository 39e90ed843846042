"""Conversations in training data: told by their fields, and written out by a model's chat template.

Known are `messages` (role, content), ShareGPT's `conversations` (from, value), and `prompt` and
`completion` that are lists of messages. The last answer is what is learnt; what stands before it is
the prompt. Each model writes them out by its own template, so that a small set serves both.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import LoraportError, words

ROLES = {  # as data sets call them -> as chat templates do
    "system": "system",
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "chatgpt", "model"), "assistant"),
}
ANSWER = "assistant"


class Turn(NamedTuple):
    """One message of a conversation."""

    role: str
    content: str


def conversation(record: Mapping[str, Any], where: str) -> tuple[Turn, ...]:
    """The turns of a record that is a conversation, up to its last answer; none of any other.

    Raises
    ------
    LoraportError
        For a message without a known role or a text, and a conversation that nobody answers.
    """
    every = turns_of(record, where)
    turns = list(every)
    while turns and turns[-1].role != ANSWER:
        turns.pop()
    if every and len(turns) < 2:
        raise LoraportError(
            f"{where} is a conversation without an answer",
            got=f"{len(every)} messages",
            expected="a message of the user's, and one of the assistant's behind it",
            todo="drop the record",
        )
    return tuple(turns)


def turns_of(record: Mapping[str, Any], where: str) -> tuple[Turn, ...]:
    """All turns of a record that is a conversation, answered or not; none of any other.

    Raises
    ------
    LoraportError
        For a message without a known role or a text.
    """
    messages = _messages(record)
    return tuple(_turn(message, f"{where}, message {n}") for n, message in enumerate(messages))


def _messages(record: Mapping[str, Any]) -> list[Any]:
    for name in ("messages", "conversations"):
        if isinstance(record.get(name), list):
            return record[name]
    prompt, completion = record.get("prompt"), record.get("completion")
    if not isinstance(prompt, list) and not isinstance(completion, list):
        return []
    asked = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    if isinstance(completion, list):
        return [*asked, *completion]
    return asked if completion is None else [*asked, {"role": ANSWER, "content": completion}]


def _turn(message: Any, where: str) -> Turn:
    held = message if isinstance(message, Mapping) else {}
    role, content = held.get("role", held.get("from")), held.get("content", held.get("value"))
    if isinstance(content, list):  # parts, of which those of text are read
        texts = [part.get("text") for part in content if isinstance(part, Mapping)]
        whole = len(texts) == len(content) and all(isinstance(text, str) for text in texts)
        content = "".join(map(str, texts)) if whole else content
    if role not in ROLES or not isinstance(content, str) or not content.strip():
        shown = repr(message)
        raise LoraportError(
            f"{where} is no message of a conversation that loraport reads",
            got=shown if len(shown) <= 120 else f"{shown[:119]}…",
            expected=f"a role ({', '.join(ROLES)}) and a text",
            todo="drop the record, or write calls of tools and pictures out as text",
        )
    return Turn(ROLES[role], content)


def written_out(turns: Sequence[Turn], tokenizer: Any) -> tuple[str, str]:
    """Prompt and completion of a conversation by a model's chat template.

    A start-of-text token that the tokenizer puts before each text itself is left out.

    Raises
    ------
    LoraportError
        Where the model has no chat template, or its template refuses the turns.
    """
    messages = [turn._asdict() for turn in turns]
    try:
        before = tokenizer.apply_chat_template(
            messages[:-1], add_generation_prompt=True, tokenize=False
        )
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception as error:  # a template is a program: it raises what it likes
        raise LoraportError(
            f"the chat template of {getattr(tokenizer, 'name_or_path', 'the model')} can't write "
            "a conversation of the training data",
            got=words(error),
            expected="a model for chats, whose template takes these roles in this order",
            todo="give records with prompt and completion as texts, or save a chat_template "
            "beside both models' tokenizers",
        ) from error
    answer = whole.removeprefix(before) if whole.startswith(before) else turns[-1].content
    end = tokenizer.eos_token or ""
    if end and answer.rstrip().endswith(end):  # which `encode` puts behind each text itself
        answer = answer.rstrip().removesuffix(end)
    return without_start(before, tokenizer), answer


def without_start(text: str, tokenizer: Any) -> str:
    """A template's text without the start-of-text token that the tokenizer itself puts there."""
    start = tokenizer.bos_token or ""
    if start and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]:
        return text.removeprefix(start)
    return text
