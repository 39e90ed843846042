"""What is trained and scored for an app, as the configuration says it."""

from pathlib import Path

import pytest
import yaml

from loraport.errors import LoraportError
from loraport.evaluation.evaluate import Settings as Evaluation
from loraport.models.families import Dimensions
from loraport.planning import checks, stages, tasks
from loraport.training.settings import Settings as Training

PROJECT = Path(__file__).parents[3]
CONTENT = {
    "models": {"old": {"source": "old"}, "new": {"source": "new"}},
    "pairs": {"p": {"old": "old", "new": "new"}},
    "adapters": "adapters.tsv",
    "calibration": {"texts": "texts.txt"},
    "tasks": {
        "sums": {"train": "sums.jsonl", "template": "plain", "eval": ["nano_math"]},
        "hub": {"train": "openai/gsm8k", "name": "main"},
        "nothing": {},
    },
}
ROWS = ["a\told\tadapter\tsums", "b\told\tadapter\t", "a\tnew\tgiven\t", "c\told\t\thub"]


@pytest.fixture
def load(tmp_path, monkeypatch):
    """A configuration with the table above; `sections` are added to it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adapters.tsv").write_text("\n".join(["app\tmodel\tsource\ttask", *ROWS]) + "\n")

    def made(**sections):
        return checks.load({**CONTENT, **sections}, PROJECT / "workflow" / "schemas")

    return made


def test_every_default_and_every_shipped_key_is_a_setting(load):
    shipped = yaml.safe_load((PROJECT / "config" / "config.yaml").read_text())
    for made in (load(), load(**{key: shipped[key] for key in ("finetune", "evaluation")})):
        for kind in ("lft", "small", "full"):
            Training(**stages.training(made, kind))
        Evaluation(**stages.scoring(made))
    bare = load()
    assert bare.content["finetune"] == made.content["finetune"]
    pinned = {"revisions": made.content["evaluation"]["revisions"]}  # the shipped file's alone
    assert {**bare.content["evaluation"], **pinned} == made.content["evaluation"]


def test_the_matched_baseline_has_lfts_settings_and_the_small_one_the_published(load):
    made = load(finetune={"learning_rate": 0.003, "seeds": [7, 8]})
    lft, small = stages.training(made), stages.training(made, "small")
    assert lft["learning_rate"] == 0.003 and lft["warmup_steps"] == 0 and lft["seed"] == 7
    assert small["learning_rate"] == 3e-4 and small["warmup_steps"] == 100
    assert {**small, "learning_rate": 0.003, "warmup_steps": 0} == lft
    assert stages.training(made, "full")["examples"] == 0
    assert stages.training(made, seed=8)["seed"] == 8


def test_an_apps_task_is_found_by_any_row_of_it_that_names_one(load):
    made = load()
    assert stages.task_of(made, "a", "new", "old")["task"] == "sums"
    assert stages.train_data(stages.task_of(made, "c"))["name"] == "main"
    with pytest.raises(LoraportError, match="app 'b' has no task"):
        stages.task_of(made, "b", "new", "old")


def test_missing_training_data_is_told_before_any_rule_runs(load, tmp_path):
    made = load()
    task = stages.task_of(made, "a")
    with pytest.raises(LoraportError, match=r"'sums\.jsonl' of task 'sums' is not there"):
        tasks.train_files(task)
    (tmp_path / "sums.jsonl").write_text("")
    assert tasks.train_files(task) == ["sums.jsonl"]
    assert tasks.train_files(stages.task_of(made, "c")) == []
    with pytest.raises(LoraportError, match="names no training data"):
        stages.train_data({"task": "nothing", **made.content["tasks"]["nothing"]})


def test_a_small_set_with_own_answers_is_a_file_that_is_the_draw(load, tmp_path):
    (tmp_path / "sums.jsonl").write_text("")
    sets = {}
    for answers in ("given", "own"):
        made = load(finetune={"answers": answers, "examples": 40})
        task = stages.task_of(made, "a")
        sets[answers] = stages.small_set(made, "p", "a", task, stages.training(made))
    assert sets["given"]["files"] == ["sums.jsonl"] and sets["given"]["settings"]["examples"] == 40
    assert sets["own"]["files"] == ["artifacts/p/a/own_answers/40.jsonl"]
    assert sets["own"]["data"]["source"] == sets["own"]["files"][0]
    assert sets["own"]["settings"] == {**sets["given"]["settings"], "examples": 0}


def test_stages_and_their_adapters(load):
    made = load(evaluation={"stages": ["new", "finetuned", "old"]})
    adapters = stages.adapters_of_pair(made, "p", "a")
    assert list(adapters) == list(stages.STAGES)
    assert adapters["old_lora"] == "adapter" and adapters["lora_full"] == "given"
    assert adapters["new"] == "" and adapters["finetuned"] == "artifacts/p/a/lora_finetuned"
    trained = stages.adapters_of_pair(made, "p", "c")
    assert trained["lora_full"] == "artifacts/models/new/c/lora_trained"
    assert stages.wanted(made, "new") == ["new", "finetuned"]
    assert stages.wanted(made, "old") == ["old"]
    method = stages.method_adapters(made, "p", "a", "m")
    assert list(method) == stages.method_stages(made)
    assert method["finetuned_seed0"] == "artifacts/p/a/m/seed0/lora_finetuned"


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"finetune": {"lr": 1}}, "unknown key"),
        ({"finetune": {"new_layers": "none"}}, "init, zero"),
        ({"finetune": {"seeds": []}}, "not allowed"),
        ({"evaluation": {"stages": ["best"]}}, "one of old, old_lora"),
        ({"evaluation": {"batch_size": "many"}}, "batch_size"),
        ({"tasks": {"a b": {}}}, "not a usable name"),
        ({"tasks": {"t": {"template": "alpaka"}}}, r"tasks\.t\.template.*did you mean 'alpaca'"),
        ({"finetune": {"batch_size": 10, "micro_batch": 4}}, "10 and 4.*whole number of micro"),
        ({"finetune": {"micro_batch": 32}}, "16 and 32"),
        ({"finetune": {"micro_batch": 8, "full": {"batch_size": 12}}}, r"finetune\.full.*12 and 8"),
    ],
)
def test_bad_sections_are_told(load, sections, message):
    with pytest.raises(LoraportError, match=message):
        load(**sections)


def test_larger_models_and_batches_ask_for_more():
    def asked(dims, **settings):
        return stages.base_need(dims, settings)[0]

    sizes = set(Dimensions.__dataclass_fields__) - {"lacks", "by_layer"}
    small, large = (Dimensions(**dict.fromkeys(sizes, size)) for size in (64, 1024))
    assert asked(large, batch_size=16) > asked(small, batch_size=16)
    batch = {"batch_size": 64, "cutoff": 256}
    assert asked(small, **batch) > asked(small, **batch, micro_batch=1)
