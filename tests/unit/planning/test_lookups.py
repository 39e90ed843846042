"""Look-ups of the rules, asked without Snakemake: what a rule is given for its wildcards."""

import inspect
import json
from pathlib import Path
from types import SimpleNamespace

import families
import pico
import pytest

from loraport.errors import LoraportError
from loraport.evaluation import folds
from loraport.evaluation.start import parts
from loraport.planning import (
    contenders,
    layout,
    lookups_start,
    needs,
    preflight,
    resources,
    stages,
    times,
)
from loraport.planning.checks import load
from loraport.planning.lookups import Lookups, Told, told
from loraport.planning.prospect import Prospect
from loraport.planning.specs import read, read_sizes
from loraport.upgrade import teachers

PROJECT = Path(__file__).parents[3]
SIZES = {"vocabulary": 100, "hidden": 64, "intermediate": 128, "layers": 2, "heads": 4}
DIMENSIONS = {**SIZES, "kv_heads": 4, "head_dim": 16}


class Wildcards(SimpleNamespace):
    """A rule's wildcards: attributes, and items as Snakemake's have."""

    def items(self):
        return vars(self).items()


PAIR = Wildcards(pair="p")
APP = Wildcards(pair="p", app="a")
VARIANT = Wildcards(pair="p", app="a", method="v")


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Look-ups of a configuration with two hub models, to which `sections` are added."""
    monkeypatch.chdir(tmp_path)
    lines = ["app\tmodel\tsource\ttask", "a\told\tgiven\tsums", "b\told\t\tsums"]
    Path("adapters.tsv").write_text("\n".join(lines) + "\n")
    Path("sums.jsonl").write_text('{"prompt": "1 + 1 =", "completion": " 2"}\n' * 20)
    Path("texts.txt").write_text("a text of some words\n" * 40)

    def build(**sections):
        content = {
            "models": {"old": {"source": "hub/old"}, "new": {"source": "hub/new"}},
            "pairs": {"p": {"old": "old", "new": "new"}},
            "run": ["p"],
            "adapters": "adapters.tsv",
            "calibration": {"texts": "texts.txt", "examples": 20},
            "finetune": {"examples": 8},
            "tasks": {"sums": {"train": "sums.jsonl", "template": "plain", "eval": ["nano_math"]}},
            "variants": {"v": {"method": "lorasuite", "mapping": {"heads": "none"}}},
            **sections,
        }
        config = load(content, PROJECT / "workflow" / "schemas")
        return Lookups(config, given=lambda file: ("given", file), source=PROJECT.joinpath)

    return build


def test_a_variant_reads_its_own_heads_and_the_pairs_other_artifacts(made):
    assert made().maps_inputs(Wildcards(pair="p", method="v")) == {
        "old_spec": "artifacts/models/old/spec.json",
        "new_spec": "artifacts/models/new/spec.json",
        "layers": "artifacts/p/layers.json",
        "embedding": "artifacts/p/embedding.h5",
        "heads": "artifacts/p/variants/v/heads.h5",
    }


def test_an_adapter_of_experts_needs_their_match_and_a_method_of_pairs(made, tmp_path):
    base = families.make_model(tmp_path / "base", "mixtral", seed=1)
    given = {"targets": ["q_proj"], "target_parameters": ["experts.down_proj"]}
    pico.make_adapter(tmp_path / "given", base, seed=2, **given)
    assert made().other_inputs(APP) == {"experts": "artifacts/p/experts.h5"}
    assert made().other_inputs(Wildcards(pair="p", app="b")) == {}
    with pytest.raises(LoraportError, match="does not carry adapters of experts"):
        made().other_inputs(Wildcards(pair="p", app="a", method="aligned_sequential"))


def test_maps_of_one_adapter_are_asked_for_in_its_folder(made):
    look = made(transfer={"method": "aligned_sequential"})
    b = Wildcards(pair="p", app="b")
    assert look.transfer_inputs(b)["maps"] == "artifacts/p/b/maps/aligned_sequential.h5"
    assert made().transfer_inputs(b)["maps"] == "artifacts/p/maps/lorasuite.h5"
    with pytest.raises(LoraportError, match="maps of method 'aligned_sequential' have another"):
        look.maps_inputs(Wildcards(pair="p", method="aligned_sequential"))


def test_an_adapter_that_is_made_here_is_a_folder_and_a_given_one_its_files(made):
    look = made()
    assert look.old_adapter(Wildcards(pair="p", app="b")) == "artifacts/models/old/b/lora_trained"
    files = look.adapter_inputs("", "artifacts/p/b/lora_transferred", "given")
    assert files == [
        "artifacts/p/b/lora_transferred",
        ("given", "given/adapter_config.json"),
        ("given", "given/adapter_model.safetensors"),
    ]
    with pytest.raises(LoraportError, match="no adapter 'c' of model 'old'"):
        look.old_adapter(Wildcards(pair="p", app="c"))


def test_what_stands_against_adapters_is_told_of_all_of_the_model(made, pico_pair, tmp_path):
    """Where the one that is asked for is at fault; a good one is carried beside bad ones."""
    rows = ["app\tmodel\tsource\ttask", f"good\told\t{pico_pair.adapter}\t"]
    for name, base in (("one", pico_pair.new), ("two", pico_pair.new)):
        folder = pico.make_adapter(tmp_path / name, base, seed=4, targets=["q_proj"])
        rows.append(f"{name}\told\t{folder}\t")
    rows.append("gone\told\tnowhere/\t")
    Path("adapters.tsv").write_text("\n".join(rows) + "\n")
    sources = {"old": {"source": str(pico_pair.old)}, "new": {"source": str(pico_pair.new)}}
    look = made(models=sources)
    assert look.old_adapter(Wildcards(pair="p", app="good"))
    with pytest.raises(LoraportError) as refused:
        look.old_adapter(Wildcards(pair="p", app="two"))
    told = str(refused.value)
    assert "3 adapters can't be carried, for 3 reasons:" in told
    assert all(f"{tmp_path / name} " in told for name in ("one", "two")) and "nowhere" in told


def test_a_revision_of_a_model_is_the_one_that_is_looked_at(made, pico_pair, monkeypatch):
    asked = []

    def at_hand(source, revision=""):
        asked.append((source, revision))

    monkeypatch.setattr(preflight, "_config_at_hand", at_hand)
    Path("adapters.tsv").write_text(f"app\tmodel\tsource\ttask\na\told\t{pico_pair.adapter}\t\n")
    names = {"known_as": [str(pico_pair.old)], "revision": "v1.2"}
    models = {"old": {"source": "hub/old", **names}, "new": {"source": "hub/new"}}
    made(models=models).old_adapter(APP)
    assert asked == [("hub/old", "v1.2"), ("hub/new", "")]


def test_everything_is_each_adapter_of_each_pair_that_is_run(made):
    assert made().everything() == [f"artifacts/p/{app}/lora_transferred" for app in "ab"]
    whole = made(transfer={"merged_model": "base"}).everything()
    assert whole[:2] == ["artifacts/p/a/lora_transferred", "artifacts/p/a/model_merged"]


def test_a_transfer_records_what_the_adapter_was_called_and_no_path(made, monkeypatch):
    monkeypatch.setattr(Lookups, "_known_as", lambda *names: [])
    Path("adapters.tsv").write_text(
        "app\tmodel\tsource\ttask\na\told\t/home/me/tickets\t\nb\told\towner/name\t\n"
    )
    look = made()
    named = [look.transfer_params(Wildcards(pair="p", app=app))["of"]["source"] for app in "ab"]
    assert named == ["tickets", "owner/name"]


def test_where_things_are_is_no_part_of_what_a_result_is(made):
    look = made()
    assert look.sources(PAIR)["old"] == "hub/old" and json.dumps(look.sources(PAIR)) == "{}"
    reading = look.reading(PAIR)
    assert "texts.txt" not in json.dumps(reading) and reading["texts_version"]


def test_texts_that_are_gone_are_told_unless_the_model_is_described(made):
    look = made(calibration={"texts": "gone.txt"})
    with pytest.raises(LoraportError, match=r"gone\.txt"):
        look.texts_version(Wildcards(model="old"))
    spec = Path(layout.path(layout.SPEC, model="old"))
    spec.parent.mkdir(parents=True)
    spec.write_text("{}")
    assert look.texts_version(Wildcards(model="old")) == ""


@pytest.fixture
def specs(made):
    """Inputs of a pair's rule: specs of two models."""
    names = {}
    for side in ("old", "new"):
        path = Path(layout.path(layout.SPEC, model=side))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"dimensions": DIMENSIONS}))
        names[f"{side}_spec"] = str(path)
    return names


def test_memory_and_time_follow_the_models_and_the_attempt(made, specs):
    look, pair = made(), SimpleNamespace(**specs)
    dims = read(pair)
    for rule in ("embedding", "maps"):
        memory, seconds, *_ = needs.need(rule, *dims)
        assert look.mem_mb(rule)(PAIR, pair, 1) == memory
        assert look.runtime(rule)(PAIR, pair, 3) == 3 * times.limit_minutes(seconds)
        assert look.runtime(rule)(PAIR, pair, 1, threads=8) == times.limit_minutes(seconds, 8)
    fitted = SimpleNamespace(**specs, moments="artifacts/p/moments.h5")
    assert look.mem_mb("maps")(PAIR, fitted, 1) == needs.need("fitted_maps", *dims)[0]
    one = SimpleNamespace(spec=specs["old_spec"])
    larger = made(finetune={"batch_size": 512})
    asked = [each.mem_mb("finetune")(APP, one, 1) for each in (look, larger)]
    assert asked[0] < asked[1]
    assert look.mem_mb("spec")(PAIR, one, 1) == needs.need("spec", dims[0])[0]


def test_moments_and_maps_of_fewer_modules_ask_for_less(made, specs):
    pair, fitted = SimpleNamespace(**specs), SimpleNamespace(**specs, moments="m.h5")
    dims, few = read(pair), ["q", "v"]
    variants = {"down": {"method": "aligned", "mapping": {"modules": [*few, "down"]}}}
    by_q_and_v, by_down = (made(mapping={"modules": few}, variants=each) for each in ({}, variants))
    asked = by_q_and_v.mem_mb("moments")(PAIR, pair, 1)
    assert asked == needs.need("moments", *dims, roles=few).mib
    assert asked < needs.need("moments", *dims).mib
    whole = by_down.mem_mb("moments")(PAIR, pair, 1)  # which serve the variant as well
    assert whole == needs.need("moments", *dims, roles=[*few, "down"]).mib > asked
    method = Wildcards(pair="p", method="aligned")
    seconds = needs.need("fitted_maps", *dims, roles=few).seconds
    assert by_q_and_v.runtime("maps")(method, fitted, 1) == times.limit_minutes(seconds)


def test_a_gain_is_chosen_on_a_streamed_model_unless_that_is_to_be_whole(made, specs):
    one = SimpleNamespace(spec=specs["new_spec"])
    dims = read(one)[0]
    streamed = needs.streamed_gain(dims, 4, 128)
    for stream, device_map, expected in (
        ("auto", "", streamed),
        ("auto", "auto", None),
        ("never", "", None),
        ("always", "auto", streamed),
    ):
        small = {"batch_size": 16, "micro_batch": 4, "cutoff": 128, "device": "cpu"}
        look = made(
            calibration={"texts": "texts.txt", "stream": stream},
            finetune={**small, "examples": 8, "device_map": device_map},
        )
        expected = expected or stages.base_need(dims, look.config.content["finetune"])
        assert look.mem_mb("gain")(APP, one, 2) == 2 * expected.mib
        assert look.runtime("gain")(APP, one, 1) == times.limit_minutes(expected.seconds)
        assert look.gpu_mb("gain")(APP, one, 1) == 0
        settings = look.gain_settings(APP)
        assert settings.pop("stream") == stream
        assert settings == look.small_settings("lft")(APP)


@pytest.mark.parametrize("stream", ["auto", "never"])
def test_models_that_are_held_whole_ask_for_the_memory_of_that(made, specs, stream):
    for spec in specs.values():
        deep = {**DIMENSIONS, "layers": 40, "hidden": 1024, "intermediate": 4096}
        Path(spec).write_text(json.dumps({"dimensions": deep}))
    look, pair = (
        made(calibration={"texts": "texts.txt", "stream": stream}),
        SimpleNamespace(**specs),
    )
    dims = read(pair)
    for rule in ("moments", "adapter_maps"):
        whole, streamed = (needs.need(rule, *dims, whole=each).mib for each in (True, False))
        assert whole != streamed
        asked = look.mem_mb(rule)(Wildcards(pair="p", app="a", method="aligned"), pair, 1)
        assert asked == (whole if stream == "never" else streamed)


def test_maps_are_fitted_while_moments_are_summed_where_these_are_not_to_be_kept(made, specs):
    pair = SimpleNamespace(**specs)
    aligned, variant, sequential, lorasuite = (
        Wildcards(pair="p", method=name)
        for name in ("aligned", "v", "aligned_sequential", "lorasuite")
    )
    for keep in (True, False):
        look = made(
            calibration={"texts": "texts.txt"},
            mapping={"keep_moments": keep},
            variants={"v": {"method": "aligned", "mapping": {"keep_moments": not keep}}},
        )
        for wildcards, stays in ((aligned, keep), (variant, not keep)):
            inputs, summed = look.maps_inputs(wildcards), look.summed_in_turn(wildcards)
            assert ("moments" in inputs) == stays == (summed == {})
            assert "layers" in inputs and "old_spec" in inputs
            if not stays:
                assert set(summed) == {"reading", "modules"} and summed["modules"]
                asked = needs.need("maps_in_turn", *read(pair))
                assert look.mem_mb("maps")(wildcards, pair, 1) == asked.mib
        logs = contenders.shared_logs(look.config, "p", "aligned")
        assert ("artifacts/p/logs/moments.log" in logs) == keep
        assert look.summed_in_turn(lorasuite) == look.summed_in_turn(sequential) == {}
        assert "moments" not in look.maps_inputs(lorasuite)
        assert "moments" in look.output_maps_inputs(sequential)


def test_whole_tables_of_an_adapter_count_in_its_transfer(made, pico_pair, specs, tmp_path):
    whole = pico.make_adapter(
        tmp_path / "whole", pico_pair.old, seed=5, targets=["q_proj"], modules_to_save=["lm_head"]
    )
    rows = [f"a\told\t{pico_pair.adapter}\t", f"b\told\t{whole}\t", "c\told\t\tsums"]
    Path("adapters.tsv").write_text("\n".join(["app\tmodel\tsource\ttask", *rows]) + "\n")
    look, given = made(), SimpleNamespace(**specs)
    dims = read(given)
    bare = needs.need("transferred", *dims).mib
    asked = {
        app: look.mem_mb("transferred")(Wildcards(pair="p", app=app), given, 1) for app in "abc"
    }
    held, carried = preflight.whole_tables(str(whole), dims[-1].vocabulary)
    old, _ = (len(pico.read_tensors(m)["lm_head.weight"]) for m in (pico_pair.old, pico_pair.new))
    assert (held, carried) == (32 * old, 32 * dims[-1].vocabulary)
    assert asked == {"a": bare, "b": needs.with_tables(_asked(bare), held, carried).mib, "c": bare}
    measured = 1040 - 66  # two tables of 60,000 by 512, to a model of as many rows
    planned = needs.with_tables(_asked(0), *[2 * 60_000 * 512] * 2).mib
    assert measured < planned < 2 * measured


def _asked(mib):
    return needs.Need(mib, 5, 0, 0, 0)


def test_models_that_are_not_streamed_are_planned_whole(made, specs):
    pair, one = SimpleNamespace(**specs), SimpleNamespace(spec=specs["old_spec"])
    model = Wildcards(model="old")
    for settings, whole in (
        ({}, (False, False)),
        ({"stream": "never"}, (True, True)),
        ({"device_map": "balanced"}, (True, False)),  # which moments do not read
    ):
        look = made(calibration={"texts": "texts.txt", "device": "cuda", **settings})
        for rule, of, given, held in zip(
            ("activations", "moments"), (model, PAIR), (one, pair), whole, strict=True
        ):
            asked = needs.need(rule, *read(given), whole=held)
            assert look.mem_mb(rule)(of, given, 1) == asked.host_mib, (rule, settings)
            other = needs.need(rule, *read(given), whole=not held)
            assert other.host_mib != asked.host_mib


@pytest.mark.parametrize(("device", "there"), [("cuda", False), ("auto", True), ("auto", False)])
def test_where_a_gpu_computes_the_models_are_in_its_memory(made, specs, monkeypatch, device, there):
    monkeypatch.setattr(resources, "has_gpu", lambda: there)
    on_gpu, pair = device == "cuda" or there, SimpleNamespace(**specs)
    reading = {"device": device, "texts": "texts.txt"}
    look = made(calibration=reading, finetune={"device": device})
    asked = needs.need("moments", *read(pair))
    assert look.mem_mb("moments")(PAIR, pair, 1) == (asked.host_mib if on_gpu else asked.mib)
    assert look.gpu_mb("moments")(PAIR, pair, 2) == (2 * asked.gpu_mib if on_gpu else 0)
    seconds = asked.gpu_seconds if on_gpu else asked.seconds
    assert look.runtime("moments")(PAIR, pair, 1) == times.limit_minutes(seconds)
    one = SimpleNamespace(spec=specs["old_spec"])
    assert (look.gpu_mb("finetune")(APP, one, 1) > 0) == on_gpu
    assert look.gpu_mb("spec")(PAIR, one, 1) == 0
    host = look.mem_mb("finetune")(APP, one, 1)
    assert (host == needs.GPU_HOST_MIB) == on_gpu


def test_a_model_of_the_hub_is_described_with_room_to_spare(made):
    look, nothing, model = made(), SimpleNamespace(), Wildcards(model="old")
    assert look.mem_mb("spec")(model, nothing, 2) == 16000
    assert look.runtime("spec")(model, nothing, 1) == 120


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


@pytest.mark.parametrize(("device", "count"), [("auto", 2), ("cuda", 2), ("cpu", 0), ("cuda:1", 0)])
def test_gpus_are_asked_for_where_the_device_is_not_named(made, device, count):
    assert made(finetune={"device": device, "gpus": 2}).gpus("finetune") == count


def test_a_seed_in_a_target_is_the_trainings_own(made):
    look = made(finetune={"seeds": [5, 6], "examples": 8})
    assert look.training("lft")(APP)["seed"] == 5
    assert look.training("lft")(Wildcards(pair="p", app="a", seed="6"))["seed"] == 6
    assert look.small_settings("small")(APP)["warmup_steps"] == 100


def test_a_training_on_more_examples_than_there_are_is_refused_before_anything_runs(made):
    look = made(finetune={"examples": 21, "small": {"examples": 20}, "full": {"examples": 30}})
    assert look.small_files("small")(APP) == ["sums.jsonl"]
    with pytest.raises(LoraportError, match=r"21 asked, 20 in sums\.jsonl"):
        look.small_files("lft")(APP)
    with pytest.raises(LoraportError, match="30 asked"):
        look.full_files(Wildcards(model="new", app="a"))
    assert made().full_files(Wildcards(model="new", app="a")) == [("given", "sums.jsonl")]


def test_stages_of_the_new_model_are_scored_one_by_one_where_failures_are_shown(made):
    look, shown = made(), made(report={"failures": "show"})
    assert look.score_files("new")[0] == "artifacts/{pair}/{app}/eval/new.json"
    assert look.scores_log("new") == layout.LOGS["evaluated_new"]
    assert shown.score_files("new") == layout.SCORES
    assert shown.scores_log("new") == layout.STAGE_LOG
    assert shown.score_files("old") == look.score_files("old")
    one = Wildcards(pair="p", app="b", stage="transferred")
    assert shown.pair_adapters("new")(one) == {"transferred": "artifacts/p/b/lora_transferred"}


def test_what_the_run_page_tells_of_is_what_was_needed_once(made):
    logs = made(report={"methods": ["aligned"]}).account_logs(PAIR)
    assert "artifacts/p/logs/moments.log" in logs and "artifacts/p/logs/maps/aligned.log" in logs
    assert "artifacts/p/logs/moments.log" not in made().account_logs(PAIR)
    own = made(transfer={"method": "aligned_sequential"}).account_logs(PAIR)
    assert "artifacts/p/logs/output_maps/aligned_sequential.log" in own
    assert "artifacts/p/logs/maps/aligned_sequential.log" not in own


def test_apps_with_a_task_are_reported(made):
    look = made()
    assert look.reported_apps(PAIR) == ["a", "b"]
    assert look.of_apps(f"{layout.TABLE}.csv")(PAIR)[1] == "artifacts/p/tables/b.csv"
    assert look.comparisons(PAIR) == []
    shown = made(report={"comparison": True, "apps": ["b"]}).comparisons(PAIR)
    assert shown == [
        "artifacts/p/tables/b.methods.html",
        "artifacts/p/b/plots/methods.svg",
        "artifacts/p/plots/methods.svg",
    ]
    Path("adapters.tsv").write_text("app\tmodel\tsource\ttask\na\told\tgiven\t\n")
    with pytest.raises(LoraportError, match="no app of old has a task"):
        made().reported_apps(PAIR)


def test_points_of_a_sweep_start_from_the_cut_adapter_or_the_carried_one(made):
    look = made(sweeps={"rank": [2], "examples": [8]})
    rank = Wildcards(pair="p", app="b", name="rank", value="2")
    examples = Wildcards(pair="p", app="b", name="examples", value="8")
    assert look.point_start(rank) == "artifacts/p/b/sweeps/rank/2/lora_transferred"
    assert look.point_start(examples) == "artifacts/p/b/lora_transferred"
    assert look.point(rank) == {"rank": 2}
    assert look.point_settings()(examples)["examples"] == 8
    assert look.point_transfer(rank)["adapter"] == "artifacts/p/b/sweeps/rank/2/lora_source"
    fitted = made(transfer={"method": "aligned_sequential"}, sweeps={"rank": [2]})
    with pytest.raises(LoraportError, match="fits maps to a whole one"):
        fitted.point_transfer(rank)
    points = look.sweep_points(examples)
    assert [point["value"] for point in points] == ["", "", "8", "8"]
    assert points[-1]["adapter"] == "artifacts/p/b/sweeps/examples/8/lora_small_matched"


def test_points_of_a_sweep_of_epochs_differ_in_epochs_alone(made):
    look = made(sweeps={"epochs": [1, 2.5]})
    few, more = (
        Wildcards(pair="p", app="b", name="epochs", value=value)
        for value in look.sweep_values(Wildcards(name="epochs"))
    )
    settings = [look.point_settings()(point) for point in (few, more)]
    assert [each.pop("epochs") for each in settings] == [1, 2.5]
    assert settings[0] == settings[1]
    assert look.point_start(few) == look.point_start(more) == "artifacts/p/b/lora_transferred"
    assert len(look.sweep_points(few)) == 2 + 2 * 2
    with pytest.raises(LoraportError, match="the same number of steps"):
        made(finetune={"max_steps": 3}).point_files()(few)


def test_merges_are_of_a_models_adapters_or_of_carried_ones(made):
    look = made(merges={"both": {"apps": ["a", "b"]}})
    assert look.merges() == "both"
    own = look.merged_folders(Wildcards(model="old", app="both"))
    assert own == ["given", "artifacts/models/old/b/lora_trained"]
    after = Wildcards(pair="p", app="both", method="v")
    assert look.merged_folders(after)[1] == "artifacts/p/b/v/lora_transferred"
    assert look.merge_stages(Wildcards(pair="p", app="both")) == {
        "new": "",
        "before": "artifacts/p/both/lora_transferred",
        "after": "artifacts/p/both/after/lora_transferred",
    }


def test_what_the_code_is_follows_the_script_and_the_method(made):
    look = made()
    codes = [look.code("spec"), look.code("maps"), look.code_with_method("maps")(VARIANT)]
    assert len({each["code"] for each in codes}) == 3
    assert {"python", "torch"} <= set(codes[0]["versions"])


def test_errors_are_told_also_of_functions_that_a_look_up_returns(made):
    errors = []
    look = Told(made(), errors.append)
    lost = Wildcards(pair="nowhere", app="a")
    assert look.pair_specs(lost) is None
    assert look.spec_of("new")(lost) is None
    assert ["pairs has no 'nowhere'" in str(error) for error in errors] == [True, True]
    assert look.merges() == "(?!)"  # what is not called is given as it is
    with pytest.raises(AttributeError):
        look.pair_specs(Wildcards())


def test_a_told_function_keeps_its_parameters(made):
    look = Told(made(), print)
    assert list(inspect.signature(look.mem_mb("maps")).parameters) == [
        *("wildcards", "input", "attempt"),
    ]
    assert told(3, print) == 3


def test_what_adapters_lose_is_told_before_the_first_job(made, pico_pair, tmp_path, monkeypatch):
    sources = {"old": {"source": str(pico_pair.old)}, "new": {"source": str(pico_pair.new)}}
    rows = ["app\tmodel\tsource\ttask", f"a\told\t{pico_pair.adapter}\t", "b\told\t\tsums"]
    Path("adapters.tsv").write_text("\n".join(rows) + "\n")
    look = made(models=sources)

    def job(rule, **wildcards):
        return SimpleNamespace(rule=SimpleNamespace(name=rule), wildcards=Wildcards(**wildcards))

    jobs = [job("spec", model="old"), *(job("transferred", pair="p", app=a) for a in "aab")]
    assert look.notes(jobs) == []
    monkeypatch.setattr(preflight, "told_of_transfer", lambda *of: Prospect("by maps", [], ["x"]))
    assert look.notes(jobs) == ["a: left behind: x"]
