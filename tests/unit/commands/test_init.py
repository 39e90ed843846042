"""`loraport init` writes a configuration that the workflow takes, or says all that is wrong."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from loraport.cli import main
from loraport.planning import checks

PROJECT = Path(__file__).parents[3]
RECORD = json.dumps({"prompt": "1 + 1 =", "completion": " 2"}) + "\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "b.jsonl"):
        Path(name).write_text(RECORD)
    return tmp_path


@pytest.fixture
def flags(pico_pair):
    return [
        *("--old", str(pico_pair.old), "--new", str(pico_pair.new)),
        *("--adapter", str(pico_pair.adapter), "--texts", str(pico_pair.texts)),
    ]


def loaded(path):
    class Workflow:
        configfiles = overwrite_configfiles = (str(path),)

    return checks.load(yaml.safe_load(path.read_text()), PROJECT / "workflow/schemas", Workflow)


def test_it_writes_what_the_workflow_takes(here, flags, pico_pair, capsys):
    data = ["--train", "a.jsonl", "--test", "b.jsonl", "--score", "number", "--known-as", "it"]
    assert main(["init", *flags, *data, "--config", "conf/mine.yaml"]) == 0
    config = loaded(here / "conf/mine.yaml")
    assert config.pair("old_to_new") == ("old", "new")
    assert config.adapter("adapter", "old")["source"] == str(pico_pair.adapter)
    assert config.content["models"]["old"]["known_as"] == ["it"]
    task = config.content["tasks"]["adapter"]
    assert (task["train"], task["test"], task["score"]) == (
        str(here / "a.jsonl"), str(here / "b.jsonl"), "number"
    )  # fmt: skip
    said = capsys.readouterr().out
    assert "conf/mine.yaml" in said and "artifacts/old_to_new/tables/adapter.csv" in said
    command = next(line for line in said.splitlines() if line.startswith("  snakemake"))
    assert str(PROJECT / "Snakefile") in command


def test_without_data_there_is_no_task(here, flags):
    assert main(["init", *flags]) == 0
    assert "tasks" not in yaml.safe_load(Path("loraport.yaml").read_text())
    assert loaded(here / "loraport.yaml").adapter("adapter", "old")["task"] == ""


def test_all_that_is_wrong_is_told_and_nothing_written(here, flags, pico_pair, capsys):
    Path("b.jsonl").write_text('{"prompt": "x"}\n')
    wrong = ["--new", str(here / "gone"), "--train", "gone.jsonl", "--test", "b.jsonl"]
    assert main(["init", *flags, *wrong]) == 1
    said = capsys.readouterr().err
    assert "nothing was written, for 3 reason(s)" in said
    assert str(here / "gone") in said and "'gone.jsonl' of task" in said and "record 0" in said
    assert not Path("loraport.yaml").exists()


def test_what_is_missing_is_named_with_an_example(here, capsys):
    assert main(["init", "--old", "a/b"]) == 1
    said = capsys.readouterr().err
    assert "no --new, no --adapter" in said and "loraport init --old" in said


def test_on_a_terminal_it_asks(here, flags, pico_pair, monkeypatch, capsys):
    answers = iter([str(pico_pair.new), str(pico_pair.adapter), "", ""])
    monkeypatch.setattr("builtins.input", lambda question: next(answers))
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    assert main(["init", "--old", str(pico_pair.old), "--texts", str(pico_pair.texts)]) == 0
    assert loaded(here / "loraport.yaml").pair("old_to_new") == ("old", "new")


def test_nothing_is_written_over(here, flags, capsys):
    Path("loraport.tsv").write_text("mine")
    assert main(["init", *flags]) == 1
    assert "loraport.tsv is there already" in capsys.readouterr().err
