"""README's list of rooms is complete: what is there is named, and what is named is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "loraport"
TREE = (ROOT / "README.md").read_text().partition("## What is where")[2].partition("\n## ")[0]


def test_every_room_is_listed_and_no_other():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert set(re.findall(r"^  (\w+)/ ", TREE, re.M)) == rooms


def test_what_is_listed_is_there():
    for name in re.findall(r"^(\S+)  ", TREE, re.M):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\b(\w+)/: ", TREE):
        assert any(path.is_dir() for path in ROOT.glob(f"*/**/{name}")), name
