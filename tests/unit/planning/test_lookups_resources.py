"""Look-ups of memory, time and GPUs: they follow the models and the settings."""

import json
from pathlib import Path
from types import SimpleNamespace

import pico
import pytest
from lookupcase import APP, DIMENSIONS, PAIR, Wildcards

from loraport.planning import needs, preflight, resources, stages, times
from loraport.planning.specs import read


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


@pytest.mark.parametrize(("device", "count"), [("auto", 2), ("cuda", 2), ("cpu", 0), ("cuda:1", 0)])
def test_gpus_are_asked_for_where_the_device_is_not_named(made, device, count):
    assert made(finetune={"device": device, "gpus": 2}).gpus("finetune") == count
