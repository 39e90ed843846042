"""What a record may hold: texts, numbers and conversations; a blank cell is never a word."""

import json

import pico
import pytest
from transformers import AutoTokenizer

from loraport.errors import LoraportError
from loraport.training import data
from loraport.training.data import IGNORED
from loraport.training.own_answers import Answer, own_examples, task_texts

CHAT = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TURNS = [("system", "Be short."), ("user", "1 + 1?"), ("assistant", "2"), ("user", "2 + 2?")]
TURNS += [("assistant", "4")]
MESSAGES = {"messages": [{"role": role, "content": text} for role, text in TURNS]}
SHAREGPT = {
    "conversations": [
        {"from": {"user": "human", "assistant": "gpt"}.get(role, role), "value": text}
        for role, text in TURNS
    ]
}
SPLIT = {"prompt": MESSAGES["messages"][:-1], "completion": MESSAGES["messages"][-1:]}
PARTS = {
    "messages": [
        {"role": role, "content": [{"type": "text", "text": text}]} for role, text in TURNS
    ]
}
WRITTEN = "<system>Be short.\n<user>1 + 1?\n<assistant>2</s>\n<user>2 + 2?\n<assistant>"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A pico tokenizer with a chat template; it puts <s> before each text itself."""
    made = pico.make_tokenizer(1, 200)
    made.chat_template = CHAT
    folder = tmp_path_factory.mktemp("chat")
    made.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


BLANK = {
    "a question": ('{"question": null, "answer": "4"}', "question"),
    "an answer": ('{"question": "2 + 2?", "answer": NaN}', "question"),
    "an output": ('{"instruction": "Add", "input": "", "output": NaN}', "alpaca"),
    "a prompt": ('{"prompt": null, "completion": "4"}', "plain"),
    "a field of a template": ('{"instruction": "Add", "x": null, "output": "4"}', "{x}: "),
    "a message": ('{"messages": [{"role": "user", "content": null}]}', "plain"),
}


@pytest.mark.parametrize("name", BLANK)
def test_a_blank_cell_is_refused(tmp_path, name):
    line, template = BLANK[name]
    (tmp_path / "data.jsonl").write_text(line + "\n")
    with pytest.raises(LoraportError, match=r"record 0.*(no field|no message)"):
        data.read(str(tmp_path / "data.jsonl"), template)


@pytest.mark.parametrize("blank", ["NaN", "null", '""'])
def test_an_input_may_be_blank_and_numbers_are_written_out(tmp_path, blank):
    (tmp_path / "a.jsonl").write_text(
        f'{{"instruction": "Add", "input": {blank}, "output": 4}}\n'
        '{"instruction": 5, "input": 6, "output": 1.5}\n'
    )
    without, with_input = data.read(str(tmp_path / "a.jsonl"), "question")
    assert without == data.Example("Question: Add\nAnswer:", " 4")
    assert with_input == data.Example("Context: 6\nQuestion: 5\nAnswer:", " 1.5")
    assert data.to_example({"n": 3, "instruction": "x", "output": "y"}, "{n}!", "r").prompt == "3!"


@pytest.mark.parametrize("value", [["a"], {"a": 1}, True])
def test_other_values_are_refused_by_their_type(value):
    record = {"instruction": "x", "output": value}
    with pytest.raises(
        LoraportError, match=f"no text in its field 'output'.*{type(value).__name__}"
    ):
        data.to_example(record, "question", "record 0")


@pytest.mark.parametrize("record", [MESSAGES, SHAREGPT, SPLIT, PARTS])
@pytest.mark.parametrize("template", ["plain", "question"])
def test_conversations_are_written_out_by_the_chat_template(tokenizer, record, template):
    example = data.to_example(record, template, "x")
    assert example.written(tokenizer) == data.Example(WRITTEN, "4")
    (row,) = data.encode([example], tokenizer, 256, "answer").rows
    ids, labels = row["input_ids"], row["labels"]
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
    learnt = [label for label in labels if label != IGNORED]
    assert tokenizer.decode(learnt) == "4</s>"
    assert tokenizer.decode(ids[1:]) == f"{WRITTEN}4</s>"


def test_messages_behind_the_last_answer_are_left_out(tokenizer):
    longer = {"messages": [*MESSAGES["messages"], {"role": "user", "content": "Thanks."}]}
    assert data.to_example(longer, "plain", "x") == data.to_example(MESSAGES, "plain", "x")


def test_a_model_without_a_chat_template_is_told(tokenizer):
    bare = pico.make_tokenizer(1, 200)
    with pytest.raises(LoraportError, match=r"chat template.*prompt and completion as texts"):
        data.encode([data.to_example(MESSAGES, "plain", "x")], bare, 64, "answer")


def test_own_answers_stand_in_for_the_last_turn_and_are_read_again(tokenizer, tmp_path):
    example = data.to_example(MESSAGES, "plain", "x")
    kept, _ = own_examples([example], [Answer("four", True)])
    assert kept[0].turns == (*example.turns[:-1], ("assistant", "four"))
    line = json.dumps(kept[0].record())
    (tmp_path / "own.jsonl").write_text(line + "\n")
    (again,) = data.read(str(tmp_path / "own.jsonl"), "plain")
    assert again.turns == kept[0].turns
    assert task_texts("inputs", [example], None, tokenizer) == [WRITTEN]


def test_the_fingerprint_of_plain_examples_is_of_their_two_texts():
    one, two = data.Example("a", "b"), data.to_example(MESSAGES, "plain", "x")
    assert data.fingerprint([one]) != data.fingerprint([two])
    other = two.answered("5")
    assert data.fingerprint([two]) != data.fingerprint([other])
