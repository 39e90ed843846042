"""README's list of files is complete: what is there is named, and what is named is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TREE = (ROOT / "README.md").read_text().partition("## What is where")[2]
FOLDERS = ("rules", "src/loraport", "src/loraport/commands", "src/loraport/methods", "docs")


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_is_listed(folder: str):
    there = {
        path.name
        for path in (ROOT / folder).iterdir()
        if path.suffix in (".py", ".smk", ".md") and not path.name.startswith("_")
    }
    assert there <= set(re.findall(r"^ +(\S+)", TREE, flags=re.MULTILINE))


def test_no_file_is_listed_that_is_gone():
    listed = re.findall(r"^ +(\S+\.(?:py|smk|md)) ", TREE, flags=re.MULTILINE)
    assert listed
    for name in listed:
        assert any((ROOT / folder / name).is_file() for folder in FOLDERS), name
