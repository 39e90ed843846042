"""Tables of adapters: columns, rows and names."""

from pathlib import Path

from . import Case, Cases
from .configs import NAMES

HEAD = "app\tmodel\tsource\ttask"
ROW = "a\told\tadapter\t"


def _lines(*lines: str, head: str = HEAD):
    return lambda root: Path(root / "adapters.tsv").write_text("\n".join([head, *lines]) + "\n")


def _bytes(content: bytes):
    return lambda root: Path(root / "adapters.tsv").write_bytes(content)


def _named(name: str) -> Case:
    return Case(_lines(f"{name}\told\tadapter\t"), ("adapters.tsv, line 2",))


CASES: Cases = {
    **{f"apps {what}": _named(name) for what, name in NAMES.items() if "newline" not in what},
    "no columns": Case(_bytes(b""), ("wrong columns", "app, model, source, task")),
    "a column is missing": Case(_lines("a\told\tadapter", head="app\tmodel\tsource"), ("columns",)),
    "columns in another order": Case(_lines(ROW, head="model\tapp\tsource\ttask"), ("columns",)),
    "separated by commas": Case(_lines("a,old,adapter,", head="app,model,source,task"), ("tab",)),
    "too many cells": Case(_lines(f"{ROW}x\ty\tz"), ("line 2", "too many columns")),
    "the same row twice": Case(_lines(ROW, ROW), ("line 3", "a second row for")),
    "a model that there is not": Case(_lines("a\tnobody\tadapter\t"), ("'nobody'",)),
    "a task that there is not": Case(_lines("a\told\tadapter\tsums"), ("'sums'", "task")),
    "neither source nor task": Case(_lines("a\told\t\t"), ("neither source nor task",)),
    "an app named like a folder": Case(_lines("maps\told\tadapter\t"), ("reserved",)),
    "a source that is not there": Case(_lines("a\told\tgone\t"), ("adapter_config.json",)),
    "a source with a wildcard": Case(_lines("a\told\t{x}/adapter\t"), ("source", "braces")),
    "a source that is a shell's": Case(_lines("a\told\t$(touch MARK)\t"), ("cannot be read",)),
    "bytes that are no text": Case(_bytes(b"app\tmodel\xff\xfe\x00"), ("cannot be read",)),
    "NUL": Case(_lines("a\0b\told\tadapter\t"), ("line 2",)),
    "one cell of 10\u2076 characters": Case(_lines(f"{'a' * 10**6}\told\tgone\t"), ()),
    "10\u2075 rows and one of them wrong": Case(
        _lines(*(f"a{n}\told\tadapter\t" for n in range(10**5)), "b\tnobody\tadapter\t"),
        ("1 error(s)", "'nobody'"),
    ),
    "10\u2075 rows that are all wrong": Case(
        _lines(*(f"a {n}\told\tadapter\t" for n in range(10**5))), ("and 99950 more",)
    ),
}
