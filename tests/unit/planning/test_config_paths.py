"""Paths in a configuration are relative to the file that says them, where they lie beside it."""

from pathlib import Path

import pytest
import yaml

from loraport.planning.config_paths import beside, rebased


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A working directory, and a folder of a configuration inside and one outside of it."""
    work = tmp_path / "work"
    for folder in (work / "conf", tmp_path / "away"):
        folder.mkdir(parents=True)
        (folder / "a.jsonl").touch()
        (folder / "model").mkdir()
    (work / "b.jsonl").touch()
    monkeypatch.chdir(work)
    return Path("conf"), tmp_path / "away"


def write(folder, content):
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


CONTENT = {
    "models": {"old": {"source": "model", "texts": "a.jsonl"}, "new": {"source": "owner/name"}},
    "adapters": "a.jsonl",
    "tasks": {"t": {"train": "a.jsonl", "test": "b.jsonl", "eval": ["nano_math", "a.jsonl"]}},
    "calibration": {"texts": {"dataset": "owner/name"}},
}


def test_what_lies_beside_the_file_is_meant_there(folders):
    inside, _ = folders
    made = rebased(CONTENT, [write(inside, CONTENT)])
    assert made["adapters"] == "conf/a.jsonl"
    assert made["models"]["old"] == {
        "source": "conf/model", "texts": "conf/a.jsonl", "known_as": ["model"]
    }  # fmt: skip
    assert made["models"]["new"] == CONTENT["models"]["new"]
    assert made["calibration"] == CONTENT["calibration"]
    eval_ = ["nano_math", "conf/a.jsonl"]
    assert made["tasks"]["t"] == {"train": "conf/a.jsonl", "test": "b.jsonl", "eval": eval_}


def test_of_a_file_outside_of_the_working_directory_paths_are_whole(folders):
    _, outside = folders
    made = rebased(CONTENT, [write(outside, CONTENT)])
    assert made["tasks"]["t"]["train"] == str(outside / "a.jsonl")
    assert made["tasks"]["t"]["test"] == "b.jsonl"


def test_a_value_belongs_to_the_last_file_that_says_it_or_to_the_command_line(folders):
    inside, outside = folders
    first, last = write(inside, CONTENT), write(outside, {"adapters": "a.jsonl"})
    made = rebased(CONTENT, [first, last])
    assert made["adapters"] == str(outside / "a.jsonl")
    assert made["models"]["old"]["source"] == "conf/model"
    said = {**CONTENT, "adapters": "model"}  # by --config
    assert rebased(said, [first])["adapters"] == "model"


def test_beside_leaves_what_is_not_there_and_hub_ids(folders):
    inside, _ = folders
    assert beside("owner/name", inside) == "owner/name"
    assert beside("", inside) == ""
    assert beside("a.jsonl", inside) == "conf/a.jsonl"
