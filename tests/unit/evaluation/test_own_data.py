"""A task of own data: its template, its items, and the harness's task that it becomes."""

import json

import pico
import pytest

from loraport.errors import LoraportError
from loraport.evaluation import own_data
from loraport.evaluation.evaluate import Settings, Stage, load_tasks


@pytest.fixture
def write(tmp_path):
    def records(*records, name="test.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(each) + "\n" for each in records))
        return str(path)

    return records


def about(test, score="exact", template="plain"):
    return {"task": "own", "test": test, "score": score, "template": template}


PLAIN = {"prompt": "1 + 1 =", "completion": " It is 2", "answer": "2"}
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TALK = [{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "2"}]
QUESTION = {"question": "How many?", "answer": "One and one. #### 2"}


def test_the_template_is_that_of_the_first_record(write):
    assert own_data.template_of(write(PLAIN)) == "plain"
    assert own_data.template_of(write(QUESTION, name="q.jsonl")) == "question"
    assert own_data.template_of("owner/name") == "question"
    both = {"prompt": "unused", **QUESTION}
    assert own_data.template_of(write({"prompt": "1 + 1 ="}, name="p.jsonl")) == "plain"
    assert own_data.template_of(write(both, name="b.jsonl")) == "question"


def test_what_is_compared_is_the_answer_beside_a_completion_or_the_completion(write):
    bare = {key: PLAIN[key] for key in ("prompt", "completion")}
    first, second = own_data.items(write(PLAIN, bare), "plain", "exact")
    assert (first["answer"], first["gold"]) == ("2", " It is 2")
    assert second["answer"] == "It is 2"
    item = own_data.items(write(QUESTION), "question", "number")[0]
    assert item["prompt"] == "Question: How many?\nAnswer:"
    assert item["answer"].endswith("The answer is 2.")


def test_choices_are_the_records_own_or_all_answers_of_the_file(write):
    records = [{**PLAIN, "answer": each} for each in ("b", "a", "b")]
    assert own_data.items(write(*records), "plain", "choice")[0]["choices"] == ["a", "b"]
    records[0]["choices"] = ["b", "c"]
    assert own_data.items(write(*records), "plain", "choice")[0]["choices"] == ["b", "c"]


@pytest.mark.parametrize(
    ("record", "score", "match"),
    [
        ({"prompt": "x"}, "exact", r"record 1 has no field 'completion'.*: fields prompt"),
        ({**PLAIN, "completion": " "}, "exact", "record 1 has an empty answer"),
        ({**PLAIN, "answer": "two"}, "number", "record 1 can't be scored by 'number'.*two"),
        ({**PLAIN, "answer": "{2"}, "json", "record 1 can't be scored by 'json'"),
        ({**PLAIN, "choices": ["1"]}, "choice", "record 1 can't be scored by 'choice'"),
    ],
)
def test_records_that_cannot_be_scored_are_told_with_their_number(write, record, score, match):
    good = {**PLAIN, "choices": ["2"]}
    with pytest.raises(LoraportError, match=match) as told:
        own_data.items(write(good, record, good, record), "plain", score)
    assert "(and 1 more of its records)" in str(told.value)


def test_an_empty_file_is_refused(write):
    with pytest.raises(LoraportError, match="holds no record"):
        own_data.items(write(), "plain", "exact")


def harness_task(about, tmp_path):
    stage = Stage("new", None, tmp_path / "out.json", (about,), "plain")
    return load_tasks([stage], tmp_path, Settings())["new", stage.out]["own"]


@pytest.mark.parametrize("score", ["exact", "number", "choice", "json", "contains", "rouge"])
def test_each_score_is_a_task_of_the_harness(write, tmp_path, score):
    task = harness_task(about(write(PLAIN), score), tmp_path)
    document = task.eval_docs[0]
    assert task.doc_to_text(document) == PLAIN["prompt"]
    values = task.process_results(document, ["2"])
    assert values == {"rougeL" if score == "rouge" else "acc": 1.0}
    assert task.config.generation_kwargs["until"] == ["\n"]
    assert task.config.generation_kwargs["max_gen_toks"] == own_data.LEAST_TOKENS


@pytest.mark.parametrize("completion", ["\n2", " 2\n3"])
def test_answers_with_line_breaks_are_not_stopped_at_one(write, tmp_path, completion):
    task = harness_task(about(write({**PLAIN, "completion": completion})), tmp_path)
    assert "\n" not in task.config.generation_kwargs["until"]


def test_a_task_file_in_place_of_a_score_reads_the_test_data(write, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "task: mine\noutput_type: generate_until\n"
        "process_results: !function loraport.evaluation.answers.score_contains\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
        "generation_kwargs: {do_sample: false, max_gen_toks: 5, until: ['.']}\n"
    )
    task = harness_task(about(write(PLAIN), str(path)), tmp_path)
    assert task.config.generation_kwargs["max_gen_toks"] == 5
    assert task.process_results(task.eval_docs[0], ["it is 2, or so"]) == {"acc": 1.0}


def test_conversations_are_asked_by_the_chat_template_of_the_model(write, tmp_path):
    test = write({"conversations": TALK, "answer": "two"}, PLAIN)
    items = own_data.items(test, "plain", "exact")
    assert [item["prompt"] for item in items] == ["1 + 1?", "1 + 1 ="]
    stage = Stage("old", None, tmp_path / "out.json", (about(test),), "plain")
    [task] = load_tasks([stage], tmp_path, Settings())["old", stage.out].values()
    assert own_data.are_chats(task)
    tokenizer = pico.make_tokenizer(1, 200)
    with pytest.raises(LoraportError, match="chat template"):
        own_data.write_out(task, tokenizer)
    tokenizer.chat_template = CHAT
    own_data.write_out(task, tokenizer)
    chat, plain = task.eval_docs
    assert task.doc_to_text(chat) == chat["prompt"] == "<user>1 + 1?\n<assistant>"
    assert (chat["bare"], chat["gold"], chat["answer"]) == ("1 + 1?", "2\n", "2")
    assert task.doc_to_text(plain) == plain["bare"] == "1 + 1 ="


def test_a_task_without_conversations_stays_as_it_is(write, tmp_path):
    stage = Stage("old", None, tmp_path / "out.json", (about(write(PLAIN)),), "plain")
    [task] = load_tasks([stage], tmp_path, Settings())["old", stage.out].values()
    assert not own_data.are_chats(task) and "turns" not in task.eval_docs[0]
