"""Calibration texts, and the data and answers of tasks."""

import json
from pathlib import Path

from . import Case, Cases

TEXT = Path("texts.txt")


def _text(content: bytes):
    return lambda root: (root / TEXT).write_bytes(content)


CASES: Cases = {
    "a file that is not there": Case(
        lambda root: (root / TEXT).unlink(), ("calibration texts texts.txt cannot be read",)
    ),
    "empty": Case(_text(b""), ("too few", "0 texts")),
    "blank lines": Case(_text(b"\n \t\n\n" * 50), ("too few", "0 texts")),
    "one line": Case(_text(b"Only one.\n"), ("too few", "1 texts")),
    "binary": Case(_text(bytes(range(256)) * 40), ("cannot be read", "UTF-8")),
    "another encoding": Case(_text("Grüße\n".encode("latin-1") * 9), ("cannot be read",)),
    "one enormous line": Case(_text(b"word " * 2_000_000), ("hold a line that is no text",)),
    "an enormous line among others": Case(
        _text(b"A text.\n" * 9 + b"word " * 2_000_000), ("hold a line that is no text",)
    ),
    "zeros": Case(_text(b"\0" * 1_000_000), ("hold a line that is no text",)),
    "a folder": Case(
        lambda root: ((root / TEXT).unlink(), (root / TEXT).mkdir()), ("cannot be read",)
    ),
}


def _lines(*records: object):
    lines = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in records)
    return lambda root: (root / "train.jsonl").write_text(lines)


SUM = {"prompt": "1 + 1 =", "completion": " 2"}
# a task's training data, read by its template `plain`
TASK_CASES: Cases = {
    "no file": Case(lambda root: None, ("train.jsonl cannot be read",)),
    "no records": Case(_lines(), ("holds no example",)),
    "no answers": Case(_lines(SUM, {"prompt": "2 + 2 ="}), ("record 1", "no field 'completion'")),
    "answers that are null": Case(_lines({**SUM, "completion": None}), ("no field 'completion'",)),
    "answers that are NaN": Case(_lines('{"prompt": "1 +", "completion": NaN}'), ("= nan",)),
    "answers that are a list": Case(_lines({**SUM, "completion": ["2"]}), ("no message",)),
    "answers that are true": Case(_lines({**SUM, "completion": True}), ("no text", "bool")),
    "a conversation without an answer": Case(
        _lines({"messages": [{"role": "user", "content": "?"}]}), ("without an answer",)
    ),
    "a conversation with a picture": Case(
        _lines({"messages": [{"role": "user", "content": [{"type": "image"}]}]}), ("message 0",)
    ),
    "a role that nobody knows": Case(
        _lines({"conversations": [{"from": "observation", "value": "4"}]}), ("'observation'",)
    ),
    "answers that are empty": Case(_lines({**SUM, "completion": " "}), ("has an empty answer",)),
    "records that are lists": Case(_lines([1, 2]), ("train.jsonl cannot be read",)),
    "a record cut short": Case(_lines(SUM, '{"prompt": '), ("train.jsonl cannot be read",)),
    "binary": Case(
        lambda root: (root / "train.jsonl").write_bytes(b"\xff\xfe\0"), ("cannot be read",)
    ),
    "a record of endless depth": Case(_lines("[" * 100_000), ("train.jsonl cannot be read",)),
}


def _items(*items: object):
    lines = "".join(f"{json.dumps(each)}\n" for each in items)
    return lambda root: (root / "items.jsonl").write_text(lines)


ITEM = {**SUM, "answer": "2"}
# the items that a task is scored on, as the task files of resources/tasks read them
ITEM_CASES: Cases = {
    "no items": Case(_items(), ("holds no item",)),
    "an item without an answer": Case(_items(ITEM, SUM), ("item 1 has no answer",)),
    "an answer that is null": Case(_items({**ITEM, "answer": None}), ("item 0 has no answer",)),
    "an answer that is blank": Case(_items({**ITEM, "answer": " "}), ("item 0 has no answer",)),
    "an item with nothing right": Case(
        _items({"prompt": "1 + 1 =", "answer": "2"}), ("item 0 has no completion",)
    ),
    "an item that is empty": Case(
        _items({}), ("item 0 has no prompt and no completion and no answer",)
    ),
}
