"""A task of one's own data: a file of test records and the way to score them, no task file needed.

    tasks: { tickets: { train: a.jsonl, test: b.jsonl, score: exact } }

The prompt of a record is made by the task's template, as in training; that of a conversation by the
chat template of the model that is asked. What is compared with the model's text is its field
`answer` where the record has one beside prompt and completion, and else the completion.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import LoraportError
from ..training.chats import Turn, written_out
from ..training.data import FILES, Conversation, Example, read_records, to_example
from .answers import METRICS, SCORES, first_json, number_of

LEAST_TOKENS, MOST_TOKENS = 16, 1024  # that an answer may have
PROMPTED = {"doc_to_text": "prompt", "doc_to_target": "answer"}
STOPS = ("\nQuestion:", "### Instruction:")  # where a model goes on to a next question


def entry(name: str, task: Mapping[str, Any]) -> dict[str, str]:
    """What an evaluation needs to know of a task that has a `test` file."""
    return {"task": name, **{key: task[key] for key in ("test", "score", "template")}}


def template_of(source: str) -> str:
    """The template that the first record of a file asks for: `plain` where it has a prompt and a
    completion, or a prompt and nothing of another layout, and else `question`; for what is no file
    here, `question`.
    """
    path = Path(source)
    if path.suffix not in FILES or not path.is_file():
        return "question"
    return _template_of(source, path.stat().st_mtime_ns)


@cache
def _template_of(source: str, _changed: int) -> str:
    try:
        records = read_records(source)
    except LoraportError:
        return "question"
    names = records[0].keys() if records else set()
    fits = "completion" in names or not {"instruction", "question"} & names
    return "plain" if "prompt" in names and fits else "question"


def items(test: str, template: str, score: str) -> list[dict[str, Any]]:
    """The items of a test file: `prompt`, `gold` (the text whose likelihood is measured),
    `answer` (what the model's text is compared with) and, of a choice, `choices`. A conversation
    has its `turns` beside them, and its contents alone as prompt and gold.

    Raises
    ------
    LoraportError
        With the first record that can't be scored, and how many more there are.
    """
    records = read_records(test)
    if not records:
        raise LoraportError(
            f"test data {test} holds no record",
            got=0,
            expected="at least one record",
            todo="correct the task's `test` in config.yaml",
        )
    made: list[dict[str, Any]] = []
    problems: list[LoraportError] = []
    for number, record in enumerate(records):
        try:
            made.append(_item(record, template, score, f"{test}, record {number}"))
        except LoraportError as error:
            problems.append(error)
    if problems:
        raise first_of(problems)
    if any("turns" in item for item in made):
        made = [{"turns": [], **item} for item in made]  # a data set has the same fields throughout
    if score == "choice":
        every = sorted({item["answer"] for item in made})
        for item in made:
            item["choices"] = item["choices"] or every
    return made


def first_of(problems: Sequence[LoraportError]) -> LoraportError:
    """The first of several problems of one file, and how many more there are."""
    first, more = problems[0], len(problems) - 1
    what = f"{first.what} (and {more} more of its records)" if more else first.what
    return LoraportError(what, got=first.got, expected=first.expected, todo=first.todo)


def _item(record: Mapping[str, Any], template: str, score: str, where: str) -> dict[str, Any]:
    example: Example = to_example(record, template, where)
    own = record.get("answer") if "completion" in record else None
    answer = str(example.completion if own is None else own).strip()
    expected = {
        "number": "an answer with a number in it",
        "json": "an answer that is JSON",
        "choice": "an answer that is among the record's `choices`",
    }
    choices = [str(choice).strip() for choice in record.get("choices") or []]
    unfit = {
        "number": score == "number" and number_of(answer) == float("inf"),
        "json": score == "json" and first_json(answer) is None and answer != "null",
        "choice": score == "choice" and bool(choices) and answer not in choices,
    }
    for name, is_unfit in unfit.items():
        if is_unfit:
            raise LoraportError(
                f"{where} can't be scored by {name!r}",
                got=answer[:80],
                expected=expected[name],
                todo="correct the record, or choose another `score` for the task",
            )
    item: dict[str, Any] = {
        "prompt": example.prompt,
        "gold": example.completion,
        "answer": answer,
        "choices": choices,
    }
    if isinstance(example, Conversation):
        item["turns"] = [turn._asdict() for turn in example.turns]
    return item


def are_chats(task: Any) -> bool:
    """Whether any item of a harness task is a conversation of own data."""
    mine = task.config.custom_dataset is dataset
    return mine and any(doc.get("turns") for doc in task.eval_docs)


def write_out(task: Any, tokenizer: Any) -> None:
    """Write a task's conversations out by a model's chat template, in place.

    The contents alone stay as `bare`: they are the same for every model.

    Raises
    ------
    LoraportError
        Where the model has no chat template, or its template refuses the turns.
    """
    from datasets import Dataset

    docs = [dict(doc) for doc in task.eval_docs]
    for doc in docs:
        doc["bare"] = doc["prompt"]
        if doc.get("turns"):
            turns = [Turn(each["role"], each["content"]) for each in doc["turns"]]
            doc["prompt"], doc["gold"] = written_out(turns, tokenizer)
    task.dataset["test"] = Dataset.from_list(docs)


def dataset(*, test: str, template: str, score: str, **_: Any) -> dict[str, Any]:
    """The items as the harness takes them (`custom_dataset`), which gives every task a template."""
    from datasets import Dataset  # imports pandas and pyarrow: only where it is needed

    return {"test": Dataset.from_list(items(test, template, score))}


def is_task_file(score: str) -> bool:
    """Whether `score` names a task file of the harness, and not one of `SCORES`."""
    return Path(score).suffix in (".yaml", ".yml")


def harness_config(about: Mapping[str, str]) -> dict[str, Any]:
    """A task of own data as a configuration of lm-evaluation-harness.

    Settings of a task file that `score` names stand, but for its data.

    Parameters
    ----------
    about : as made by `entry`

    Notes
    -----
    A model may write as many tokens as the longest right answer has bytes, between 16 and 1,024.
    It stops at a line break where no right answer has one.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    score = about["score"]
    golds = [item["gold"] for item in items(about["test"], about["template"], score)]
    lines = any("\n" in gold.rstrip() for gold in golds)
    stops = [stop for stop in STOPS if not any(stop in gold for gold in golds)]
    longest = max(len(gold.encode()) for gold in golds)
    data = {
        "task": about["task"],
        "custom_dataset": dataset,
        "dataset_kwargs": {key: about[key] for key in ("test", "score")},
        "test_split": "test",
    }
    if is_task_file(score):
        return {**PROMPTED, **load_yaml(score), **data}
    return {
        **PROMPTED,
        **data,
        "output_type": "generate_until",
        "num_fewshot": 0,
        "target_delimiter": "",
        "process_results": SCORES[score],
        "metric_list": [
            {
                "metric": METRICS.get(score, "acc"),
                "aggregation": "mean",
                "higher_is_better": True,
            }
        ],
        "generation_kwargs": {
            "do_sample": False,
            "max_gen_toks": min(max(longest, LEAST_TOKENS), MOST_TOKENS),
            "until": stops if lines else ["\n"],
        },
        "metadata": {"version": 1.0},
    }
