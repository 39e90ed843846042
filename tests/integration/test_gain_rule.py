"""`transfer.gain: auto`: the workflow chooses the gain of an app with a task, and of no other."""

import json

import numpy as np
import pytest
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
        finetune={"examples": 12},
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


def test_methods_are_compared_by_whole_updates(work):
    assert "gain_by_method" not in work.planned("artifacts/p/a/norm/lora_transferred")
    work.run("artifacts/p/a/norm/lora_transferred")
    report = json.loads(
        (work.root / "artifacts/p/a/norm/lora_transferred/transfer.json").read_text()
    )
    assert report["gain"]["gain"] == 1.0
