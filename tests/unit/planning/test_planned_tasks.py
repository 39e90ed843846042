"""What is wrong with tasks is told while the workflow is planned, all at once."""

import json
from pathlib import Path

import pytest

from loraport.errors import LoraportError
from loraport.planning import stages, tasks
from loraport.planning.checks import load

PROJECT = Path(__file__).parents[3]
TASKS = PROJECT / "resources" / "tasks"
GOOD = {"prompt": "1 + 1 =", "completion": " 2"}


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("good.jsonl").write_text(json.dumps(GOOD) + "\n")

    def build(examples=1, **entries):
        lines = [f"{name}\told\tadapter\t{name}" for name in entries]
        Path("adapters.tsv").write_text("\n".join(["app\tmodel\tsource\ttask", *lines]) + "\n")
        content = {
            "models": {"old": {"source": "hub/old"}, "new": {"source": "hub/new"}},
            "pairs": {"p": {"old": "old", "new": "new"}},
            "adapters": "adapters.tsv",
            "calibration": {"texts": "texts.txt"},
            "tasks": entries,
            "finetune": {"examples": examples},
        }
        return load(content, PROJECT / "workflow" / "schemas")

    return build


def test_three_lines_are_a_task(made):
    config = made(t={"train": "good.jsonl", "test": "good.jsonl", "score": "exact"})
    task = stages.task_of(config, "t", "old")
    own = {"task": "t", "test": "good.jsonl", "score": "exact", "template": "plain"}
    assert task["eval"] == [own] and task["template"] == "plain"
    assert tasks.files(task, TASKS, "") == [Path("good.jsonl")]
    tasks.check(config, task, TASKS)


def test_a_task_file_is_a_score_with_own_data_or_without(made):
    Path("mine.yaml").write_text("include: base.yaml\ntask: mine\n")
    Path("base.yaml").write_text("output_type: generate_until\n")
    config = made(
        a={"test": "good.jsonl", "score": "mine.yaml"}, b={"score": "mine.yaml"}
    )  # fmt: skip
    alone, own = (stages.task_of(config, app, "old") for app in "ba")
    assert alone["eval"] == ["mine.yaml"]
    both = [Path("mine.yaml"), Path("base.yaml")]
    assert tasks.files(alone, TASKS, "") == both
    assert tasks.files(own, TASKS, "") == [Path("good.jsonl"), *both]


def test_everything_is_told_at_once(made):
    Path("bad.jsonl").write_text('{"prompt": "x"}\n' * 3)
    config = made(
        a={"train": "bad.jsonl", "template": "plain", "eval": ["nano_maths"]},
        b={"train": "gone.jsonl", "test": "bad.jsonl", "template": "plain"},
        c={"train": "good.jsonl", "test": "good.jsonl"},
    )
    with pytest.raises(LoraportError) as told:
        tasks.check(config, stages.task_of(config, "a", "old"), TASKS)
    words = str(told.value)
    assert words.startswith("the tasks have 3 errors:\n- ")
    assert "unknown evaluation task 'nano_maths'" in words and "nano_math," in words
    assert "bad.jsonl, record 0 has no field 'completion' (and 2 more of its records)" in words
    assert "training data 'gone.jsonl' of task 'b' is not there" in words
    tasks.check(config, stages.task_of(config, "c", "old"), TASKS)


def test_what_tasks_share_is_told_once(made):
    Path("bad.jsonl").write_text('{"prompt": "x"}\n')
    same = {"train": "bad.jsonl", "test": "good.jsonl"}
    with pytest.raises(LoraportError, match=r"^bad\.jsonl, record 0 has no field 'completion'\."):
        config = made(a=same, b=same)
        tasks.check(config, stages.task_of(config, "a", "old"), TASKS)


def test_settings_that_fit_no_data_are_told_with_the_rest(made):
    Path("bad.jsonl").write_text('{"prompt": "x"}\n' * 3)
    Path("few.jsonl").write_text((json.dumps(GOOD) + "\n") * 7)
    config = made(
        examples=9,
        a={"train": "bad.jsonl", "template": "plain", "test": "good.jsonl"},
        b={"train": "few.jsonl", "test": "good.jsonl"},
    )
    for app, examples in (("b", 8), ("a", 0)):
        with pytest.raises(LoraportError) as told:
            tasks.check(config, stages.task_of(config, app, "old"), TASKS, examples)
        words = str(told.value)
        assert "record 0 has no field 'completion'" in words
        assert f"{examples or 9} asked, 7 in few.jsonl" in words
    tasks.check(config, stages.task_of(config, "b", "old"), TASKS, 7)


def test_an_unknown_score_is_told_with_the_configuration(made):
    with pytest.raises(LoraportError, match=r"tasks\.t\.score.*'exakt' \(did you mean 'exact'\?\)"):
        made(t={"test": "good.jsonl", "score": "exakt"})


@pytest.mark.parametrize(
    ("test", "match"),
    [
        ("gone.jsonl", r"test data 'gone\.jsonl' of task 't' is not there"),
        ("good.csv", r"'good\.csv' of task 't' can't be read.*\.csv.*\.jsonl or \.json"),
    ],
)
def test_test_data_that_cannot_be_read_is_told(made, test, match):
    config = made(t={"test": test})
    with pytest.raises(LoraportError, match=match):
        tasks.check(config, stages.task_of(config, "t", "old"), TASKS)
