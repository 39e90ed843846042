"""The task files: every one loads, extracts what it should, and reads the published sets."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
import yaml
from lm_eval.tasks import TaskManager

from loraport.errors import LoraportError

TASKS = Path(__file__).parents[3] / "resources" / "tasks"
MATH = ["addsub", "multiarith", "singleeq", "gsm8k", "aqua", "mawps", "svamp"]
COMMONSENSE = [
    "boolq",
    "piqa",
    "siqa",
    "hellaswag",
    "winogrande",
    "arc_challenge",
    "arc_easy",
    "obqa",
]
OTHERS = ["arc_easy_letter", "arc_challenge_letter", "wmt19_cs_en", "wmt19_fr_de"]
NANO = ["nano_math", "nano_mcq", "nano_command"]

spec = importlib.util.spec_from_file_location("tasks_utils", TASKS / "utils.py")
utils = importlib.util.module_from_spec(spec)
spec.loader.exec_module(utils)

published = pytest.mark.skipif("LORAPORT_DATA" not in os.environ, reason="LORAPORT_DATA is not set")
SIZES = {
    "addsub": 395,
    "multiarith": 600,
    "singleeq": 508,
    "gsm8k": 1319,
    "aqua": 254,
    "mawps": 238,
    "svamp": 1000,
    "boolq": 3270,
    "piqa": 1838,
    "siqa": 1954,
    "winogrande": 1267,
    "arc_challenge": 1172,
    "arc_easy": 2376,
    "obqa": 500,
    "arc_easy_letter": 2376,
    "arc_challenge_letter": 1172,
}


def manager(**metadata):
    return TaskManager(include_path=str(TASKS), include_defaults=False, metadata=metadata)


def load(name, **metadata):
    return manager(**metadata).load([name])["tasks"][name]


def correct(score, answer, output, **doc):
    return score({"answer": answer, **doc}, [output])["acc"] == 1


# ---- extraction


@pytest.mark.parametrize(
    ("output", "number"),
    [
        ("The answer is $18.", 18),
        ("She pays 1,234 dollars", 1234),
        ("1,234,567.50", 1234567.5),
        ("12 + 7 = 19. The answer is -3.5", -3.5),
        ("#### 72", 72),
        ("The answer is 15.0.", 15),
        ("It is 7 (see page 12)", 12),  # the published rule takes a number after the answer
        ("50%", 50),
        ("3/4", 4),
        ("٣", 3),  # Python's \d and float agree on digits of other scripts
        ("", float("inf")),
        ("no number at all", float("inf")),
    ],
)
def test_last_number(output, number):
    assert utils.last_number(output) == number


def test_numbers_are_right_within_a_thousandth():
    assert correct(utils.score_number, "18.0", "The answer is $18.")
    assert correct(utils.score_number, "1.8333333333333335", "1.8333")
    assert not correct(utils.score_number, "1.8333333333333335", "1.83")
    assert not correct(utils.score_number, "4", "")
    assert not correct(utils.score_number, "7", "It is 7. Question 2: 9")


def test_aqua_by_the_published_rule_and_by_a_letter_of_its_own():
    def scores(answer, output):
        return utils.score_aqua({"answer": answer}, [output])

    assert scores("B", "Answer: B") == {"acc": 0, "acc_letter": 1}  # the A of "Answer"
    assert scores("A", "Answer: B") == {"acc": 1, "acc_letter": 0}
    assert scores("D", "The rationale is clear.The answer is (D).") == {"acc": 1, "acc_letter": 1}
    assert scores("C", "") == {"acc": 0, "acc_letter": 0}


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        (" B", "B"),
        ("Answer: B", "B"),
        ("(C).", "C"),
        ("b", ""),
        ("BAD", ""),
        ("", ""),
        ("B or C", "B"),
    ],
)
def test_standalone_letter(output, letter):
    assert utils.standalone_letter(output) == letter


@pytest.mark.parametrize(
    ("task", "output", "answer", "right"),
    [
        ("arc_easy", "the answer is answer3.", "answer3", True),
        ("arc_easy", "the correct answer is answer2, not answer3", "answer3", False),
        ("arc_easy", "Answer3", "answer3", False),  # case-sensitive
        ("siqa", "answer5", "answer5", True),
        ("boolq", "true", "true", True),
        ("boolq", "it is untrue, so false", "false", False),  # no word border in the published rule
        ("piqa", "solution2 is better than solution1", "solution2", True),
        ("hellaswag", "ending4", "ending4", True),
        ("winogrande", "", "option1", False),
    ],
)
def test_commonsense_takes_the_first_answer_word(task, output, answer, right):
    settings = yaml.safe_load((TASKS / f"{task}.yaml").read_text())
    pattern = settings["dataset_kwargs"]["pattern"]
    assert correct(utils.score_choice, answer, output, pattern=pattern) is right


def test_commands_are_compared_as_one_line():
    call = "set_alarm(hour=3, minute=0)"
    assert correct(utils.score_exact, call, "  set_alarm(hour=3,  minute=0) \n")
    assert not correct(utils.score_exact, call, "set_alarm(hour=3, minute=00)")
    assert not correct(utils.score_exact, call, "")


# ---- the files


def test_every_task_is_listed_and_has_its_tag():
    found = manager()
    assert sorted(found.all_subtasks) == sorted(MATH + COMMONSENSE + OTHERS + NANO)
    assert {"math", "commonsense", "arc_letter", "wmt19", "nano"} == set(found.all_tags)
    listed = {p.stem for p in TASKS.glob("*.yaml") if not p.name.startswith("_")}
    assert listed == set(found.all_subtasks)


@pytest.mark.parametrize("name", NANO)
def test_nano_tasks_read_the_apps_as_they_were_trained(name):
    app = name.partition("_")[2]
    file = TASKS.parent / "nano" / "data" / f"{app}.test.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    task = load(name)
    docs = list(task.eval_docs)
    assert len(docs) == len(records) >= 400
    for doc, record in zip(docs, records, strict=True):
        assert doc["prompt"] + doc["gold"] == record["prompt"] + record["completion"]
        assert task.process_results(doc, [record["completion"]]) == {"acc": 1}
    assert task.fewshot_context(docs[0], 0) == records[0]["prompt"]
    assert task.config.generation_kwargs["do_sample"] is False


@published
@pytest.mark.parametrize("name", sorted(SIZES))
def test_published_sets_are_read_whole(name):
    task = load(name, data_dir=os.environ["LORAPORT_DATA"], template="question")
    docs = list(task.eval_docs)
    assert len(docs) == SIZES[name]
    assert task.fewshot_context(docs[0], 0) == docs[0]["prompt"]
    assert docs[0]["prompt"].startswith("Question:") and docs[0]["prompt"].endswith("Answer:")
    assert all(doc["gold"].startswith(" ") and doc["gold"].strip() for doc in docs)
    if name in MATH + COMMONSENSE:
        right = [task.process_results(doc, [doc["gold"]])["acc"] for doc in docs]
        assert sum(right) == len(docs)
    else:
        assert all(len(doc["letters"]) >= 3 and doc["label"] < len(doc["letters"]) for doc in docs)


@published
def test_arc_letters_are_cut_out_of_the_instruction():
    doc = load("arc_easy_letter", data_dir=os.environ["LORAPORT_DATA"]).eval_docs[0]
    assert doc["prompt"] == (
        "Question: Which statement best explains why photosynthesis is the foundation of most "
        "food webs?\nA. Sunlight is the source of energy for nearly all ecosystems.\n"
        "B. Most ecosystems are found on land instead of in water.\n"
        "C. Carbon dioxide is more available than other gases.\n"
        "D. The producers in all ecosystems are plants.\nAnswer:"
    )
    assert doc["answer"] == "A"


@published
def test_the_template_of_the_evaluation_is_the_one_of_the_training():
    doc = load("addsub", data_dir=os.environ["LORAPORT_DATA"], template="llm_adapters").eval_docs[0]
    assert "### Instruction:\n                There are 7 crayons" in doc["prompt"]
    assert doc["gold"] == " 4"


def test_arc_of_the_hub_in_both_kinds_of_labels():
    record = {
        "question": "Which?",
        "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]},
        "answerKey": "2",
    }
    assert utils._from_arc(record) == ("Which?", ["x", "y", "z"], 1)


def test_translations_are_read_from_a_file_and_scored(tmp_path):
    (tmp_path / "translation").mkdir()
    line = json.dumps({"translation": {"cs": "Dobrý den.", "en": "Good day."}})
    (tmp_path / "translation" / "wmt19.cs-en.validation.jsonl").write_text(line + "\n")
    task = load("wmt19_cs_en", data_dir=str(tmp_path))
    doc = task.eval_docs[0]
    assert doc["prompt"] == "Translate from Czech to English.\nCzech: Dobrý den.\nEnglish:"
    assert task.process_results(doc, [" Good day."])["chrf"] == ("Good day.", "Good day.")


def test_a_set_that_is_not_there_is_told(tmp_path):
    with pytest.raises(LoraportError, match="evaluation set 'math/AddSub' is not in `data_dir`"):
        load("addsub", data_dir=str(tmp_path))
    (tmp_path / "math").mkdir()
    (tmp_path / "math" / "AddSub.test.json").write_text("[]")
    with pytest.raises(LoraportError, match="holds no item"):
        load("addsub", data_dir=str(tmp_path))
