"""`transfer.gain: auto`: the workflow chooses the gain of an app with a task, and of no other."""

import json

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file
from workdir import Workdir

from loraport.evaluation.gain import GAINS
from loraport.report.summary import summarise

CARRIED = "artifacts/p/a/lora_transferred"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    work = Workdir(tmp_path_factory.mktemp("gain"), shared=True)
    rows = [{"prompt": f"word {n} is", "completion": f" number {n}"} for n in range(20)]
    (work.root / "t.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    lines = ["app\tmodel\tsource\ttask", "a\told\tadapter\tt", "b\told\tadapter\t"]
    (work.root / "adapters.tsv").write_text("\n".join(lines) + "\n")
    work.configure(
        tasks={"t": {"train": "t.jsonl", "template": "plain", "eval": []}},
        finetune={"examples": 12, "start": "chosen"},
        transfer={"gain": "auto", "factors": "fresh"},
    )
    return work


def updates(folder):
    """Module -> B A, of an adapter that may change nothing."""
    tensors = load_file(folder / "adapter_model.safetensors")
    names = [name for name in tensors if name.endswith("lora_A.weight")]
    return {name: tensors[name.replace("lora_A", "lora_B")] @ tensors[name] for name in names}


def test_the_gain_is_chosen_on_the_small_set_and_recorded_with_its_curve(work):
    assert {"gain", "transferred"} <= set(work.planned(CARRIED))
    work.run(CARRIED)
    report = json.loads((work.root / CARRIED / "transfer.json").read_text())
    chosen = report["gain"]
    assert chosen["gain"] in GAINS and chosen["examples"] == 12
    assert set(map(float, chosen["curve"])) == set(GAINS)
    assert chosen["chosen_on"] == "the task's answers"
    assert "chosen on the task's answers" in summarise(work.root / CARRIED)
    work.run("--config", "transfer={gain: 1}", "--", CARRIED)
    whole = updates(work.root / CARRIED)
    work.run(CARRIED)
    for place, update in updates(work.root / CARRIED).items():
        assert np.allclose(update, chosen["gain"] * whole[place], atol=1e-6)


def test_an_app_without_a_task_is_carried_as_the_maps_give_it(work):
    assert "gain" not in work.planned("artifacts/p/b/lora_transferred")
    work.run("artifacts/p/b/lora_transferred")
    report = json.loads((work.root / "artifacts/p/b/lora_transferred/transfer.json").read_text())
    assert report["gain"]["gain"] == 1.0 and "no texts" in report["gain"]["chosen_on"]


def test_a_fine_tuning_begins_where_it_ends_best_and_the_trial_is_recorded(work):
    target = "artifacts/p/a/lora_finetuned"
    assert "lora_start" in work.planned(target)
    asked = ("--config", "finetune={examples: 12, start: carried}", "--", target)
    assert "lora_start" not in work.planned(*asked)
    work.run(target)
    told = json.loads((work.root / "artifacts/p/a/lora_start/start.json").read_text())
    assert told["start"] in told["nats"] and told["examples"] == 12
    assert "nothing" in told["nats"] and "carried" in told["nats"]
    assert "lora_start" not in work.planned("artifacts/p/a/norm/seed0/lora_finetuned")


QUICK = {"teacher": "old", "rates": [0.01], "epochs": 2, "new_tokens": 12}
QUICK |= {"device": "cpu"}


@pytest.mark.parametrize("answers", ["given", "own"])
def test_a_fine_tuning_may_begin_from_a_taught_adapter(work, tmp_path, answers):
    taught, target = work.copy(tmp_path / "taught"), "artifacts/p/a/lora_finetuned"
    sections = yaml.safe_load((work.root / "config.yaml").read_text())
    few = {"examples": 12, "taught_prompts": 12}
    sections["finetune"] = {**few, "start": "taught", "answers": answers}
    taught.configure(**{**sections, "upgrade": QUICK})
    assert "lora_start" in taught.planned(target)
    taught.run(target)
    told = json.loads((taught.root / "artifacts/p/a/lora_start/start.json").read_text())
    count = told["examples"]  # an answer of the old model's own may be empty: it is left out
    assert count == 12 if answers == "given" else 4 <= count <= 12
    lesson = told["taught"]["lesson"]
    asked = lesson["prompts"]
    assert asked["labelled"] == count and asked["synthetic"]["kept"] == 0
    assert lesson["choice"]["teacher"] == "labels"  # every prompt has its own answer
    assert "lorasuite" in lesson["start"]["tried"] and lesson["taught"]["epochs"]
    assert told["answers"]["taught"] == -(-count // 3) and told["answers"]["nothing"] == count
    assert told["taught"]["over"] in told["taught"]["nats"] and told["start"] in told["nats"]
    assert np.isfinite(told["taught"]["improvement"] + told["taught"]["standard_error"])
    assert load_file(taught.root / target / "adapter_model.safetensors")
    for change in ({"margin": 9}, {"labels": 3}):  # of verdicts and upgrades alone
        taught.configure(**{**sections, "upgrade": {**QUICK, **change}})
        assert taught.planned(target) == {}
    taught.configure(**{**sections, "upgrade": {**QUICK, "epochs": 1}})
    assert "lora_start" in taught.planned(target)


def test_settings_of_an_upgrade_are_nothing_to_a_start_that_is_not_taught(work):
    target = "artifacts/p/a/lora_start"
    work.run(target)
    for change in ("upgrade={epochs: 3}", "upgrade={teacher: delta}"):
        assert work.planned("--config", change, "--", target) == {}


def test_methods_are_compared_by_whole_updates(work):
    assert "gain_by_method" not in work.planned("artifacts/p/a/norm/lora_transferred")
    work.run("artifacts/p/a/norm/lora_transferred")
    report = json.loads(
        (work.root / "artifacts/p/a/norm/lora_transferred/transfer.json").read_text()
    )
    assert report["gain"]["gain"] == 1.0
