"""What the task files share: where items come from, and when an answer is right.

Every item is a document with `prompt` (what the model is given, template applied), `gold` (the
text that its likelihood is measured on), `answer` (what the extracted answer is compared with)
and, where the answer is one of a few words, `pattern`. Settings come from
`TaskManager(metadata=…)`:

data_dir : directory with `math/AddSub.test.json` and so on (LLM-Adapters' layout); else the hub
template : how an instruction is put to the model, a name in `loraport.training.data.TEMPLATES`
revisions : source -> revision to read from the hub; a source that is not named: its newest
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from loraport.errors import LoraportError, words
from loraport.evaluation.answers import (  # noqa: F401  (task files name them)
    first_match,
    last_number,
    normalised,
    score_choice,
    score_exact,
    score_number,
    standalone_letter,
)
from loraport.training.data import read_records, to_example

HERE = Path(__file__).parent
LLM_ADAPTERS = "https://raw.githubusercontent.com/AGI-Edgerunners/LLM-Adapters"
LETTERS = "ABCDE"
LANGUAGES = {"cs": "Czech", "de": "German", "en": "English", "fr": "French"}


# ---- where items come from (`custom_dataset`)


def own_file(*, file: str, **_: Any) -> dict[str, Dataset]:
    """Items of a file beside the task files: prompt, completion, answer, used as they are."""
    keys = {"prompt": "prompt", "gold": "completion", "answer": "answer"}
    records = read_records(str((HERE / file).resolve()))
    return _test(
        [{**{k: _text(r.get(field)) for k, field in keys.items()}, "pattern": ""} for r in records],
        file,
    )


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def numbers(**settings: Any) -> dict[str, Dataset]:
    """A math set of LLM-Adapters; gold is the bare answer ("15.0" as "15"), one space before it.

    The sets' `output` is not used: a model wrote it, and it is sometimes wrong.
    """
    return _instructions(settings, lambda record: " " + _short(record["answer"]))


def choices(**settings: Any) -> dict[str, Dataset]:
    """A commonsense set of LLM-Adapters; gold is its `output`, "the correct answer is …"."""
    return _instructions(settings, None)


def letters(
    *,
    set: str,
    hub: str,
    name: str,
    split: str = "test",
    data_dir: str = "",
    revisions: Mapping[str, str] | None = None,
    **_: Any,
) -> dict[str, Dataset]:
    """ARC with lettered choices: question, one choice a line, "Answer:"; the letter is scored."""
    if data_dir:
        records = [_lettered(record) for record in _local(data_dir, set)]
    else:
        found = read_records(hub, name=name, split=split, revision=(revisions or {}).get(hub, ""))
        records = [_from_arc(record) for record in found]
    items = []
    for question, texts, label in records:
        shown = "\n".join(f"{LETTERS[i]}. {text}" for i, text in enumerate(texts))
        items.append(
            {
                "prompt": f"Question: {question}\n{shown}\nAnswer:",
                "gold": " " + LETTERS[label],
                "answer": LETTERS[label],
                "label": label,
                "letters": list(LETTERS[: len(texts)]),
            }
        )
    return _test(items, set)


def translations(
    *,
    set: str,
    hub: str,
    name: str,
    split: str,
    data_dir: str = "",
    revisions: Mapping[str, str] | None = None,
    **_: Any,
) -> dict[str, Dataset]:
    """A language pair of WMT: `{data_dir}/{set}.{split}.jsonl` holds what the hub does."""
    first, second = name.split("-")
    if data_dir:
        records = read_records(str(Path(data_dir) / f"{set}.{split}.jsonl"))
    else:
        records = read_records(hub, name=name, split=split, revision=(revisions or {}).get(hub, ""))
    items = []
    for record in records:
        source, target = record["translation"][first], record["translation"][second]
        items.append(
            {
                "prompt": f"Translate from {LANGUAGES[first]} to {LANGUAGES[second]}.\n"
                f"{LANGUAGES[first]}: {source}\n{LANGUAGES[second]}:",
                "gold": " " + target,
                "answer": target,
                "source": source,
            }
        )
    return _test(items, set)


def _instructions(
    settings: Mapping[str, Any], gold: Callable[[Mapping[str, Any]], str] | None
) -> dict[str, Dataset]:
    name = settings["set"]
    if settings.get("data_dir"):
        records = _local(settings["data_dir"], name)
    else:
        records = _remote(name, (settings.get("revisions") or {}).get("llm_adapters", ""))
    template = settings.get("template") or "question"
    items = []
    for number, record in enumerate(records):
        # MAWPS has no `output`; the prompt does not need one
        example = to_example({**record, "output": record["output"] or "-"}, template, name)
        items.append(
            {
                "prompt": example.prompt,
                "gold": gold(record) if gold else _led(example.prompt) + record["output"].strip(),
                "answer": str(record["answer"]),
                "pattern": settings.get("pattern", ""),
                "number": number,
            }
        )
    return _test(items, name)


def _led(prompt: str) -> str:
    """The space between a prompt and its answer, where the prompt does not end in one."""
    return "" if prompt[-1].isspace() else " "


def _local(data_dir: str, name: str) -> list[dict[str, Any]]:
    path = Path(data_dir) / f"{name}.test.json"
    if not path.is_file():
        raise LoraportError(
            f"evaluation set {name!r} is not in `data_dir`",
            got=f"no file {path}",
            expected="LLM-Adapters' test.json under that name",
            todo="add it, or leave `evaluation.data_dir` empty to read the sets from the hub",
        )
    return read_records(str(path))


def _remote(name: str, revision: str) -> list[dict[str, Any]]:
    from datasets import load_dataset

    url = f"{LLM_ADAPTERS}/{revision or 'main'}/dataset/{name.split('/')[-1]}/test.json"
    try:
        return [dict(r) for r in load_dataset("json", data_files=url, split="train")]
    except Exception as error:  # the library raises many kinds, network errors among them
        raise LoraportError(
            f"evaluation set {name!r} could not be read",
            got=words(error),
            expected=url,
            todo="check the network, or set `evaluation.data_dir` to a local copy",
        ) from error


def _test(items: list[dict[str, Any]], name: str) -> dict[str, Dataset]:
    if not items:
        raise LoraportError(
            f"evaluation set {name!r} holds no item", got=0, expected="some", todo="fill it"
        )
    named = {"prompt": "prompt", "gold": "completion", "answer": "answer"}
    for number, item in enumerate(items):
        if lacking := [name for key, name in named.items() if not item[key].strip()]:
            raise LoraportError(
                f"evaluation set {name!r}: item {number} has no {' and no '.join(lacking)}",
                got=str(item)[:200],
                expected="a prompt, the text that is right, and the answer to compare with",
                todo="complete the item, or remove it",
            )
    return {"test": Dataset.from_list(items)}


def _short(answer: str) -> str:
    try:
        value = float(answer)
    except ValueError:
        return answer  # AQuA's letters
    return str(int(value)) if value.is_integer() else repr(value)


def _lettered(record: Mapping[str, Any]) -> tuple[str, list[str], int]:
    """Question, choices and the right one, out of an LLM-Adapters instruction."""
    body = record["instruction"].split(":", 1)[1].rsplit("Answer format:", 1)[0]
    question, *texts = re.split(r"\s*\bAnswer\d: ?", body)
    return question.strip(), [t.strip() for t in texts], int(record["answer"][-1]) - 1


def _from_arc(record: Mapping[str, Any]) -> tuple[str, list[str], int]:
    labels = list(record["choices"]["label"])  # letters, in some items digits
    return record["question"], list(record["choices"]["text"]), labels.index(record["answerKey"])


# ---- when an answer is right (`process_results`)


def score_aqua(doc: Mapping[str, Any], results: list[str]) -> dict[str, float]:
    """The published rule, and beside it one that does not take the A of "Answer" for a choice."""
    published = first_match(results[0], "A|B|C|D|E")
    return {
        "acc": float(published == doc["answer"]),
        "acc_letter": float(standalone_letter(results[0]) == doc["answer"]),
    }


def score_translation(doc: Mapping[str, Any], results: list[str]) -> dict[str, tuple[str, str]]:
    pair = (doc["answer"], results[0].strip())
    return {"bleu": pair, "chrf": pair}
