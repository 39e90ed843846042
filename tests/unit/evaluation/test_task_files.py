"""Every file that a score depends on is found without running anything."""

import os
from pathlib import Path

import pytest

from loraport.errors import LoraportError
from loraport.evaluation import task_files

TASKS = Path(__file__).parents[3] / "resources" / "tasks"


@pytest.fixture
def folder(tmp_path):
    """A task file that includes another one, with helpers and data beside it."""
    for name, text in {
        "sums.yaml": "include: _base.yaml\ntask: sums\ntag: mine\n"
        "dataset_kwargs: {file: data/sums.jsonl}\n",
        "_base.yaml": "process_results: !function helpers.score\n",
        "helpers.py": "from inner import right\n",
        "inner.py": "def right(): pass\n",
        "unused.py": "",
        "data/sums.jsonl": "{}\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def names(paths, folder):
    return sorted(str(path.relative_to(folder)) for path in paths)


NEEDED = ["_base.yaml", "data/sums.jsonl", "helpers.py", "inner.py", "sums.yaml"]


@pytest.mark.parametrize("by", ["sums", "mine", "path"])
def test_of_a_task_by_name_tag_or_path(folder, by):
    name = str(folder / "sums.yaml") if by == "path" else by
    tasks_dir = folder / "none" if by == "path" else folder
    assert names(task_files.of_task(name, tasks_dir), folder) == NEEDED


def test_of_a_group(folder):
    (folder / "all.yaml").write_text("group: everything\ntask: [sums]\n")
    files = names(task_files.of_task("everything", folder), folder)
    assert files == sorted([*NEEDED, "all.yaml"])


@pytest.mark.parametrize("changed", NEEDED)
def test_a_change_of_each_changes_the_version_though_its_time_stays(folder, changed):
    def version():
        return task_files.version(task_files.of_task("sums", folder))

    before, stat = version(), (folder / changed).stat()
    assert version() == before
    with (folder / changed).open("a") as file:
        file.write("# another\n")
    os.utime(folder / changed, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert version() != before


def test_shipped_tasks_have_their_data(tmp_path):
    assert TASKS / "../nano/data/math.test.jsonl" in task_files.of_task("nano_math", TASKS)
    copy = tmp_path / "math" / "AddSub.test.json"
    copy.parent.mkdir()
    copy.write_text("[]")
    assert copy not in task_files.of_task("addsub", TASKS)
    assert copy in task_files.of_task("addsub", TASKS, str(tmp_path))
    assert copy not in task_files.of_task("gsm8k", TASKS, str(tmp_path))


def test_data_files_of_the_harness_and_a_folder_of_data(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "json.yaml").write_text(
        "task: j\ndataset_path: json\ndataset_kwargs: {data_files: {test: data/*.jsonl}}\n"
    )
    (folder / "folder.yaml").write_text("task: f\ndataset_path: data\n")
    for name in ("json.yaml", "folder.yaml"):
        assert [path.name for path in task_files.of_task(name, "none")][1:] == ["sums.jsonl"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"data/sums.jsonl": None}, r"data/sums\.jsonl.*is not there"),
        ({"_base.yaml": None}, r"_base\.yaml, included by .*sums\.yaml, cannot be read"),
        ({"_base.yaml": "include: sums.yaml"}, "includes itself"),
        ({"_base.yaml": "[1, 2"}, "cannot be read"),
    ],
)
def test_what_is_not_there_is_told(folder, change, match):
    for name, text in change.items():
        (folder / name).unlink()
        if text:
            (folder / name).write_text(text)
    with pytest.raises(LoraportError, match=match):
        task_files.of_task(str(folder / "sums.yaml"), "none")


def test_an_unknown_name_is_told_with_those_that_are_near(folder):
    with pytest.raises(LoraportError, match=r"unknown evaluation task 'sum'.*such as sums"):
        task_files.of_task("sum", folder)
    with pytest.raises(LoraportError, match=r"'gone\.yaml'.*a task file there"):
        task_files.of_task("gone.yaml", folder)
