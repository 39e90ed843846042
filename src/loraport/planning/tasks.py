"""Tasks as they are trained and scored: what an entry of `tasks` stands for, the files that scores
depend on, and what is wrong with any of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import LoraportError
from ..evaluation import own_data, task_files
from ..evaluation.answers import SCORES
from ..training.data import FILES, read_records, to_example
from .queries import Config, near_to
from .schema import problem

AUTO = "auto"
DATA = {"train": "training", "test": "test"}  # key of a task -> what the file is called


def completed(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """A task with its name and template, and everything that it is scored on under `eval`.

    Names and paths of task files stand there as text, own data as `own_data.entry`.
    """
    template = entry["template"]
    if template == AUTO:
        train = Path(entry["train"])
        lost = train.suffix in FILES and not train.is_file()  # which is told of by itself
        template = own_data.template_of(entry["test"] if lost else entry["train"] or entry["test"])
    task = {**entry, "task": name, "template": template}
    scored: list[Any] = list(entry["eval"])
    if entry["test"]:
        scored.append(own_data.entry(name, task))
    elif own_data.is_task_file(entry["score"]):
        scored.append(entry["score"])
    return {**task, "eval": scored}


def files(task: Mapping[str, Any], tasks_dir: str | Path, data_dir: str) -> list[Path]:
    """Files that the scores of a task depend on.

    Raises
    ------
    LoraportError
        If one of them is not there.
    """
    every: list[Path] = []
    for scored in task["eval"]:
        if isinstance(scored, str):
            every += task_files.of_task(scored, tasks_dir, data_dir)
            continue
        every.append(Path(scored["test"]))
        if own_data.is_task_file(scored["score"]):
            every += task_files.read(Path(scored["score"])).files
    return list(dict.fromkeys(every))


def check(
    config: Config, task: Mapping[str, Any], tasks_dir: str | Path, examples: int = 0
) -> None:
    """Refuse a task that can't be trained or scored, with what is wrong with any other.

    Parameters
    ----------
    examples : that a training asks for

    Raises
    ------
    LoraportError
        With everything that is wrong with the tasks of the apps, where this one is at fault.
    """
    if not any(problems(config, task, tasks_dir, examples)):
        return
    used = {row["task"] for row in config.adapters.values() if row["task"]}
    examples = examples or config.content["finetune"]["examples"]
    told = [
        each
        for name in sorted(used)
        for each in problems(
            config, completed(name, config.content["tasks"][name]), tasks_dir, examples
        )
    ]
    different = {str(each): each for each in told}  # tasks may share a file
    if len(different) == 1:
        raise told[0]
    lines = "\n".join(f"- {each}" for each in different)
    raise LoraportError(f"the tasks have {len(different)} errors:\n{lines}")


def problems(
    config: Config, task: Mapping[str, Any], tasks_dir: str | Path, examples: int = 0
) -> Iterator[LoraportError]:
    """What is wrong with a task's files, or with a training on so many of its examples: told before
    anything runs.
    """
    data_dir = config.content["evaluation"]["data_dir"]
    for test in (each for each in task["eval"] if not isinstance(each, str)):
        yield from _errors_of(lambda test=test: _check_test(test))
    if not task["test"] or Path(task["test"]).is_file():
        yield from _errors_of(lambda: files(task, tasks_dir, data_dir))
    path = Path(task["train"])
    if path.suffix in FILES:
        yield from _errors_of(lambda: _check_train(task))
        if path.is_file():
            yield from _errors_of(lambda: _check_examples([str(path)], examples))


def count_examples(files: Sequence[str]) -> int:
    """Records of .jsonl files; 0 where they can't be known without loading a data set."""
    lines = [path for path in files if path.endswith(".jsonl")]
    return sum(bool(line.strip()) for path in lines for line in Path(path).open("rb"))


def _check_examples(files: Sequence[str], asked: int) -> None:
    """Refuse a training on more examples than there are, where they can be counted."""
    held = count_examples(files)
    if held and asked > held:
        raise LoraportError(
            "a training asks for more examples than there are",
            got=f"{asked} asked, {held} in {', '.join(files)}",
            expected=f"1 to {held}, or 0 for all",
            todo="lower `examples` under `finetune`, or name more data in the task's `train`",
        )


def _errors_of(work: Any) -> Iterator[LoraportError]:
    try:
        work()
    except LoraportError as error:
        yield error


def _check_test(test: Mapping[str, str]) -> None:
    path = Path(test["test"])
    if path.suffix in FILES and not path.is_file():
        raise _not_there("test", test)
    if path.suffix not in FILES:
        raise LoraportError(
            f"test data {test['test']!r} of task {test['task']!r} can't be read",
            got=f"a name that ends in {path.suffix or 'nothing'}",
            expected="a .jsonl or .json file",
            todo="write the records as JSON, one a line",
        )
    _check_items(test["test"], test["template"], test["score"], path.stat().st_mtime_ns)


@cache
def _check_items(test: str, template: str, score: str, _changed: int) -> None:
    own_data.items(test, template, score)


def train_files(task: Mapping[str, Any]) -> list[str]:
    """The task's training file; none for a data set of the hub.

    Raises
    ------
    LoraportError
        If it is not there.
    """
    path = Path(task["train"])
    if path.suffix not in FILES:
        return []
    if not path.is_file():
        raise _not_there("train", task)
    return [str(path)]


def _not_there(key: str, task: Mapping[str, Any]) -> LoraportError:
    """The error of a task's missing file; `key` is `train` or `test`."""
    return LoraportError(
        f"{DATA[key]} data {task[key]!r} of task {task['task']!r} is not there",
        got="no such file",
        expected="a .jsonl or .json file (paths are relative to the configuration, or to the "
        "folder that the workflow runs in)",
        todo=f"correct `{key}` of the task in config.yaml, or make the file",
    )


def _check_train(task: Mapping[str, Any]) -> None:
    for file in train_files(task):
        _check_records(file, task["template"], Path(file).stat().st_mtime_ns)


@cache
def _check_records(train: str, template: str, _changed: int) -> None:
    """Put every record into the template, as a training does."""
    unfit: list[LoraportError] = []
    for number, record in enumerate(read_records(train)):
        try:
            to_example(record, template, f"{train}, record {number}")
        except LoraportError as error:
            unfit.append(error)
    if unfit:
        raise own_data.first_of(unfit)


def settings_errors(name: str, task: Mapping[str, Any]) -> Iterator[str]:
    """What an entry of `tasks` says that can't be meant, told with the other errors of the
    configuration.
    """
    score = task["score"]
    if score not in SCORES and not own_data.is_task_file(score):
        yield problem(
            f"config.tasks.{name}.score: there is no such score",
            near_to(score, list(SCORES)),
            f"{', '.join(SCORES)}, or a task file of lm-evaluation-harness (.yaml)",
            "correct it",
        )
