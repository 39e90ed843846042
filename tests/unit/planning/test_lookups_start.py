"""Look-ups of a chosen or taught start: what it asks for, and what it is redone for."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from lookupcase import APP

from loraport.evaluation import folds
from loraport.evaluation.start import parts
from loraport.planning import lookups_start, resources, stages
from loraport.planning.specs import read_sizes
from loraport.upgrade import teachers

TAUGHT = {"start": "taught", "examples": 8}
CHOSEN = {"start": "chosen", "examples": 8}


@pytest.mark.parametrize("there", [False, True])
def test_a_taught_start_asks_for_both_models_and_for_the_time_of_an_upgrade_too(
    made, specs, monkeypatch, there
):
    monkeypatch.setattr(resources, "has_gpu", lambda: there)
    inputs = SimpleNamespace(spec=specs["new_spec"], **specs)
    chosen, taught = made(finetune=CHOSEN), made(finetune=TAUGHT)

    def asked(look):
        functions = (look.start_mem_mb(), look.start_gpu_mb(), look.start_runtime())
        return [function(APP, inputs, 1) for function in functions]

    alone = (chosen.mem_mb("finetune"), chosen.gpu_mb("finetune"), chosen.runtime("finetune"))
    assert asked(chosen) == [function(APP, inputs, 1) for function in alone]
    pair = SimpleNamespace(**specs)
    upgrade = [taught.both_mem_mb("upgrade"), taught.both_gpu_mb("upgrade")]
    memory = [function(APP, pair, 1) for function in upgrade]
    assert asked(taught)[:2] == memory and asked(taught)[there] > asked(chosen)[there]
    both = taught.runtime("upgrade")(APP, pair, 1) + chosen.runtime("finetune")(APP, inputs, 1)
    assert asked(taught)[2] == both
    assert taught.start_mem_mb()(APP, inputs, 2) == 2 * memory[0]
    larger = made(finetune={**TAUGHT, "batch_size": 4096})  # the trainings need more than teaching
    assert asked(larger)[there] > memory[there]


def test_a_taught_start_that_is_moved_is_asked_for_where_it_is(made, specs):
    inputs = SimpleNamespace(spec=specs["new_spec"], **specs)
    look = made(finetune={**TAUGHT, "device": "cpu"}, upgrade={"device": "cuda", "gpus": 3})
    old = stages.base_need(read_sizes(specs["old_spec"]), look.config.content["upgrade"])
    assert look.start_gpu_mb()(APP, inputs, 1) == old.gpu_mib > 0 and look.start_gpus(APP) == 3
    only = made(finetune={**CHOSEN, "device": "cpu"}, upgrade={"device": "cuda", "gpus": 3})
    assert only.start_gpu_mb()(APP, inputs, 1) == only.start_gpus(APP) == 0


@pytest.mark.parametrize(
    ("small", "least", "taught"),
    [
        ({"examples": 8}, 6, True),
        ({"examples": 8}, 5, False),
        ({"examples": 0}, 14, True),  # all 20
        ({"examples": 0}, 13, False),
        ({"examples": 8, "answers": "own"}, 5, True),  # some may be left out
    ],
)
def test_a_small_set_that_is_taught_no_start_asks_for_one_model(
    made, specs, monkeypatch, small, least, taught
):
    monkeypatch.setattr(resources, "has_gpu", lambda: True)
    inputs = SimpleNamespace(spec=specs["new_spec"], **specs)

    def asked(start):
        section = {"start": start, **small, "taught_prompts": least}
        look = made(finetune=section, upgrade={"gpus": 2})
        functions = (look.start_mem_mb(), look.start_gpu_mb(), look.start_runtime())
        return [look.start_gpus(APP), *(function(APP, inputs, 1) for function in functions)]

    assert (asked("taught") != asked("chosen")) == taught


@pytest.mark.parametrize("count", range(8))
def test_a_plan_counts_what_a_taught_start_learns(count):
    assert folds.learned(count) == (parts(count) != 0).sum()


def test_a_taught_start_is_redone_for_what_its_teaching_reads_and_a_chosen_one_is_not(made):
    every = {"epochs": 4, "teacher": "old", "match": "number", "seed": 3}
    apart = {"margin": 4, "labels": 5, "verify": 9, "prompts": 30, "level": 0.8, "gpus": 2}
    apart |= {"at_least": 7, "generator": "transformers"}
    chosen, taught = made(finetune=CHOSEN), made(finetune=TAUGHT)
    other = made(finetune=CHOSEN, upgrade=every)
    assert chosen.taught_start(APP) == other.taught_start(APP) == {}
    before = taught.taught_start(APP)
    assert before["old"]["source"] == "hub/old"
    for key, value in every.items():
        after = made(finetune=TAUGHT, upgrade={key: value}).taught_start(APP)
        assert after["settings"] == {**before["settings"], key: value} != before["settings"]
    assert made(finetune=TAUGHT, upgrade=apart).taught_start(APP) == before
    fewer = made(finetune={**TAUGHT, "taught_prompts": 9}).taught_start(APP)
    assert fewer["settings"] == {**before["settings"], "at_least": 9}
    assert (
        chosen.start_code("lora_start")
        == chosen.code("lora_start")
        != taught.start_code("lora_start")
    )


def test_code_of_a_teaching_counts_where_a_start_is_taught(made, monkeypatch):
    read, asked = lookups_start.StartLookups.code, []
    monkeypatch.setattr(
        lookups_start.StartLookups,
        "code",
        lambda self, *names: (asked.append(names), read(self, *names))[1],
    )
    made(finetune=CHOSEN).start_code("lora_start")
    made(finetune=TAUGHT).start_code("lora_start")
    assert asked[0] == ("lora_start",)
    assert {"upgrade.taught_start", "upgrade.teachers.delta"} <= set(asked[1])


def test_code_of_every_teacher_counts_in_an_upgrade(made, monkeypatch):
    asked = []
    monkeypatch.setattr(
        lookups_start.StartLookups, "code", lambda self, *names: asked.append(names)
    )
    made().teaching_code("lora_upgraded")
    assert set(asked[0][1:]) >= {f"upgrade.teachers.{name}" for name in teachers.names()}
    rules = (Path(__file__).parents[3] / "rules/upgrade.smk").read_text()
    assert 'code=look.teaching_code("lora_upgraded")' in rules


def test_what_a_fine_tuning_starts_from_is_what_is_configured(made):
    found = {
        start: made(finetune={"start": start, "examples": 8}).finetuned_from(APP)["start"]
        for start in ("chosen", "taught", "carried")
    }
    assert found["chosen"] == found["taught"] == "artifacts/p/a/lora_start"
    assert found["carried"] == "artifacts/p/a/lora_transferred"
