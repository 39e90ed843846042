"""Data of a training: layouts, templates, subsets, and the tokens that are learnt."""

import json
import os
from pathlib import Path

import pytest
from traincase import sums
from transformers import AutoTokenizer

from loraport.errors import LoraportError
from loraport.training import data
from loraport.training.data import IGNORED, Example

pytestmark = pytest.mark.usefixtures("one_thread")

GSM8K = {
    "question": "Natalia sold clips to 48 friends, then half as many. How many in all?",
    "answer": "She sold 48/2 = <<48/2=24>>24 clips.\nIn all 48+24 = <<48+24=72>>72.\n#### 72",
}
ADAPTERS = {"instruction": "What is 3 + 4? ", "input": "", "output": "\nA: It is 7.", "answer": "7"}


def test_the_three_layouts_and_the_templates():
    assert data.to_example(GSM8K, "question", "x") == Example(
        f"Question: {GSM8K['question']}\nAnswer:",
        " She sold 48/2 = 24 clips.\nIn all 48+24 = 72.\nThe answer is 72.",
    )
    assert data.to_example(ADAPTERS, "question", "x") == Example(
        "Question: What is 3 + 4?\nAnswer:", " A: It is 7."
    )
    with_input = {**ADAPTERS, "input": "Three and four."}
    assert data.to_example(with_input, "question", "x").prompt.startswith("Context: Three and")
    assert "### Input:\n" in data.to_example(with_input, "alpaca", "x").prompt
    literal = data.to_example(ADAPTERS, "llm_adapters", "x").prompt
    assert literal.endswith("### Response:\n" + 16 * " ")
    assert data.to_example(ADAPTERS, "Q: {instruction}A:", "x").prompt == "Q: What is 3 + 4? A:"


def test_reading_json_jsonl_and_a_dataset_directory(tmp_path):
    record = {"prompt": "1 + 1 =", "completion": " 2"}
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n\n")
    (tmp_path / "b.json").write_text(json.dumps([record, record]))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text(json.dumps(record) + "\n")
    assert data.read(str(tmp_path / "a.jsonl"), "plain") == [Example("1 + 1 =", " 2")]
    assert len(data.read(str(tmp_path / "b.json"), "plain")) == 2
    assert data.read(str(tmp_path / "set"), "plain") == [Example("1 + 1 =", " 2")]


@pytest.mark.skipif("LORAPORT_DATA" not in os.environ, reason="LORAPORT_DATA is not set")
def test_the_published_training_sets_are_read():
    root = Path(os.environ["LORAPORT_DATA"])
    gsm8k = data.read(str(root / "math/gsm8k.train.jsonl"), "question")
    assert len(gsm8k) == 7473
    assert not any("<<" in e.completion or "####" in e.completion for e in gsm8k)
    assert all(e.completion.rstrip(".").rsplit(" ", 1)[1][-1].isdigit() for e in gsm8k)
    assert len(data.read(str(root / "commonsense/boolq.train.json"), "llm_adapters")) == 9427


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: data.read(str(p / "none.jsonl"), "plain"), "cannot be read"),
        (lambda p: data.read(str(p / "none"), "plain"), "could not be loaded"),
        (lambda p: data.read(str(p / "empty.jsonl"), "plain"), "holds no example"),
        (lambda p: data.read(str(p / "bad.jsonl"), "plain"), "cannot be read"),
        (lambda p: data.to_example(ADAPTERS, "plain", "x"), "no field 'prompt'"),
        (lambda p: data.to_example(GSM8K, "nonsense", "x"), "unknown template"),
        (lambda p: data.to_example(GSM8K, "{story}", "x"), "does not fill"),
        (lambda p: data.to_example({"prompt": "a", "completion": " "}, "plain", "x"), "empty"),
        (lambda p: data.subset(sums(5), 6, 0), "6 asked, 5 there"),
        (lambda p: data.subset([], 0, 0), "0 there"),
    ],
)
def test_bad_data_is_told(tmp_path, make, message):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "bad.jsonl").write_text('{"prompt": ')
    with pytest.raises(LoraportError, match=message):
        make(tmp_path)


def test_subsets_are_nested_and_do_not_depend_on_the_method():
    examples = sums(63)
    small, large = data.subset(examples, 10, seed=4), data.subset(examples, 30, seed=4)
    assert large[:10] == small
    assert data.subset(examples, 10, seed=5) != small
    assert data.subset(examples, 0, seed=5) == examples


def test_labels_cover_the_answer_and_the_end_only(model):
    tokenizer = AutoTokenizer.from_pretrained(model)
    example = Example("1 + 2 =", " 3")
    (row,) = data.encode([example], tokenizer, 64, "answer").rows
    prompt = tokenizer(example.prompt)["input_ids"]
    assert row["input_ids"][: len(prompt)] == prompt
    assert row["labels"][: len(prompt)] == [IGNORED] * len(prompt)
    learnt = row["labels"][len(prompt) :]
    assert tokenizer.decode(learnt[:-1]) == " 3" and learnt[-1] == tokenizer.eos_token_id
    (row,) = data.encode([example], tokenizer, 64, "text").rows
    assert row["labels"] == row["input_ids"]


def test_the_prompt_keeps_its_tokens_where_the_tokenizer_merges_across_the_border(model):
    tokenizer = AutoTokenizer.from_pretrained(model)
    merged = next(  # a word that is one token, cut in two
        word
        for word in (tokenizer.decode([i]) for i in range(100, len(tokenizer)))
        if len(word) == 2 and word.isalpha() and len(tokenizer(word)["input_ids"]) == 2
    )
    (row,) = data.encode([Example(merged[0], merged[1])], tokenizer, 64, "answer").rows
    prompt = tokenizer(merged[0])["input_ids"]
    assert row["input_ids"][: len(prompt)] == prompt
    assert [tokenizer.decode([t]) for t in row["labels"][len(prompt) : -1]] == [merged[1]]


def test_long_examples_are_counted_cut_or_dropped(model):
    tokenizer = AutoTokenizer.from_pretrained(model)
    long_answer = Example("1 =", " 1" * 50)
    long_prompt = Example("1 " * 50, " 2")
    encoded = data.encode([*sums(3), long_answer, long_prompt], tokenizer, 20, "answer")
    assert (len(encoded.rows), encoded.truncated, encoded.dropped) == (4, 2, 1)
    assert max(len(row["input_ids"]) for row in encoded.rows) == 20
    with pytest.raises(LoraportError, match="within the cutoff"):
        data.encode([long_prompt], tokenizer, 20, "answer")
