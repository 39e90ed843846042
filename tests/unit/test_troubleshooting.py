"""The page of errors names messages that the code writes."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
NAMED = [
    message
    for cell in re.findall(r"^\| (`.+?) \| ", PAGE, re.M)
    for message in re.findall(r"`([^`]+)`", cell)
]


def words_of(node: ast.expr) -> str:
    """A text of the code, with … for what is put in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(words_of, node.values))
    if isinstance(node, ast.BinOp):
        return words_of(node.left) + words_of(node.right)
    return "…"


def told() -> list[str]:
    """What the errors of the package say is wrong."""
    files = sorted((ROOT / "src" / "loraport").rglob("*.py"))
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text()))]
    errors = {"LoraportError"} | {
        node.name
        for node in nodes
        if isinstance(node, ast.ClassDef)
        and "LoraportError" in [getattr(base, "id", "") for base in node.bases]
    }
    calls = [
        node
        for node in nodes
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in errors
    ]
    return [words_of(call.args[0]) for call in calls if call.args]


TOLD = told()


def plain(text: str) -> str:
    """A message without what stands for names."""
    return " ".join(text.replace("…", " ").replace("'", " ").split())


@pytest.mark.parametrize("message", NAMED)
def test_the_code_tells_it(message):
    assert any(plain(message) in plain(each) for each in TOLD)


def test_there_are_messages():
    assert len(NAMED) > 30 and len(TOLD) > 150
