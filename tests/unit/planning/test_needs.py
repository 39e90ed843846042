"""What rules ask for follows the models' sizes, and is near to what was measured."""

import json
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pico
import pytest
import torch

from loraport.calibration import sites, streams
from loraport.calibration.moments import site_bytes
from loraport.evaluation import gain
from loraport.mapping import in_turn
from loraport.models.families import ROLES, Dimensions
from loraport.models.spec import describe, open_model
from loraport.planning import memory, memory_walks, needs, plan, sizes, times

SMALL = Dimensions(
    vocabulary=32_000,
    hidden=2048,
    intermediate=5504,
    layers=24,
    heads=16,
    kv_heads=16,
    head_dim=128,
)
LARGE = Dimensions(
    vocabulary=128_256, hidden=8192, intermediate=28_672, layers=80, heads=64, kv_heads=8,
    head_dim=128,
)  # fmt: skip


@pytest.mark.parametrize("rule", sorted(set(times.RULES) - {"layers"}))
def test_a_larger_model_asks_for_more_memory_and_no_less_time(rule):
    count = 1 if rule in plan.SIDES_OF else 2
    small, large = (needs.need(rule, *[dims] * count) for dims in (SMALL, LARGE))
    assert large[0] > small[0] or rule == "model_merged"  # by blocks of one size
    assert large.seconds >= small.seconds and large.gpu_seconds >= small.gpu_seconds


@pytest.mark.parametrize(
    ("dims", "largest"),
    [
        (SMALL, 32_000 * 2048),
        (LARGE, 128_256 * 8192),
        (replace(LARGE, vocabulary=1024), 28_672 * 8192),
        (replace(SMALL, per_layer_input=256), 32_000 * 24 * 256),
    ],
)
def test_a_spec_has_room_for_the_largest_matrix_in_float32_and_no_margin(dims, largest):
    assert needs.need("spec", dims).mib == needs.BASES["spec"] + 4 * largest // 2**20


@pytest.mark.parametrize(
    ("dtype", "number", "shards"),
    [(torch.bfloat16, 2, 1), (torch.float32, 4, 1), (torch.float32, 4, 2)],
)
def test_a_spec_is_read_one_tensor_at_a_time_as_it_is_stored(tmp_path, dtype, number, shards):
    sizes = {"hidden": 256, "intermediate": 16_384, "layers": 2, "heads": 4, "kv_heads": 2}
    folder = pico.make_model(
        tmp_path / "model", seed=1, vocab_words=60, dtype=dtype, shards=shards, **sizes
    )
    planned = memory.spec(open_model(folder).dims)
    tracemalloc.start()
    describe(folder, str(folder), "")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert planned == 4 * 256 * 16_384
    held = planned * number / 4
    assert held <= peak < held + 2**21  # and a block that is looked at


def test_a_model_that_is_held_whole_has_room_for_its_weights():
    weights = sizes.parameters(LARGE)
    assert weights == pytest.approx(70e9, rel=0.15)
    asked = needs.need("activations", LARGE, whole=True)
    assert asked.mib * 2**20 > 4 * weights  # float32
    assert asked.gpu_mib * 2**20 > 2 * weights  # bfloat16


def test_a_model_that_is_streamed_has_room_for_its_blocks_and_the_streams_of_all_texts():
    block, embedding = sizes.block_parameters(LARGE), 128_256 * 8192
    assert block == 2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28_672
    streams = 512 * 256 * 8192
    asked, whole = (needs.need("activations", LARGE, whole=whole) for whole in (False, True))
    assert asked.mib * 2**20 > 4 * (2 * block + embedding + streams)
    assert asked.gpu_mib * 2**20 > 2 * (block + embedding)
    assert asked.gpu_mib * 2**20 < 3 * 2 * block + 4 * embedding  # three blocks, and a batch inside
    assert asked.host_mib * 2**20 > 2 * (block + streams)
    assert asked.mib < whole.mib / 10 and asked.gpu_mib < whole.gpu_mib / 10


def test_streams_that_lie_on_disk_are_no_memory():
    _, beside = memory_walks._walk(replace(LARGE, hidden=10 * 8192), 4, whole=True)
    assert beside == memory_walks.STREAMS_BYTES == streams.IN_MEMORY


def test_moments_have_room_for_the_sums_of_one_layer_pair_and_no_more(tmp_path):
    models = [
        open_model(pico.make_model(tmp_path / name, seed=1, vocab_words=60, **sizes))
        for name, sizes in (
            ("old", {"hidden": 32, "intermediate": 56, "layers": 2, "heads": 4, "kv_heads": 2}),
            ("new", {"hidden": 48, "intermediate": 96, "layers": 3, "heads": 6, "kv_heads": 3}),
        )
    ]
    assert {role: sizes.READS_AT.get(role, "linear") for role in ROLES} == sites.READS
    assert set(sizes.STREAM_ROLES) == set(sites.STREAM)
    dims = [model.dims for model in models]
    for roles in (ROLES, "qkvo", ["gate"], ["down"], ["q", "up"], ["o", "down"]):
        assert sizes.site_sums(*dims, list(roles)) == site_bytes(*models, list(roles)), roles
    deeper = replace(SMALL, layers=2 * SMALL.layers)
    assert needs.need("moments", SMALL, SMALL)[0] == needs.need("moments", deeper, deeper)[0]


def test_a_gain_of_a_70b_model_is_chosen_on_one_small_gpu():
    """Around its blocks are embedding and head, behind them the scores of a batch."""
    assert (len(gain.GAINS), gain.EXAMPLES) == (times.GAINS, times.ANSWERS)
    block, table = sizes.block_parameters(LARGE), 128_256 * 8192
    asked = needs.streamed_gain(LARGE, 16, 256)
    streams = 7 * 50 * 256 * 8192
    assert asked.gpu_mib * 2**20 > 2 * 2 * table + 3 * 4 * 16 * 256 * 128_256
    assert asked.gpu_mib < 24 * 1024
    assert asked.host_mib * 2**20 > 2 * (block + streams)
    assert asked.mib * 2**20 > 4 * (2 * block + 2 * table + streams)
    assert asked.mib < 64 * 1024  # float32
    few = needs.streamed_gain(LARGE, 1, 256)
    assert few.gpu_mib * 2**20 > 2 * (2 * table + block)
    assert few.gpu_mib < asked.gpu_mib and few.seconds == asked.seconds
    assert asked.gpu_seconds > 2 * 70e9 / 1e9  # weights in bfloat16, read at 1 GB/s
    assert asked.seconds > asked.gpu_seconds + 2 * 70e9 * 7 * 50 * 256 / 1e12


LLAMA2_13B = Dimensions(32_000, 5120, 13_824, 40, 40, 40, 128)


def test_a_pair_of_70b_is_read_within_one_gpu():
    """By arithmetic from the two configs: the sums of the widest layers, 34 GiB, are most of it, of
    which those of one part of the texts are on the GPU.
    """
    sums = sizes.site_sums(LLAMA2_13B, LARGE) / 2**30
    assert sums == pytest.approx(33.9, abs=0.1)
    for model in (LLAMA2_13B, LARGE):
        asked = needs.need("activations", model)
        assert asked.gpu_mib < 8 * 1024 and asked.host_mib < 10 * 1024
    asked = needs.need("moments", LLAMA2_13B, LARGE)
    assert sums / 2 < asked.gpu_mib / 1024 < 40
    assert sums < asked.host_mib / 1024 < 64
    assert asked.mib < 100 * 1024


def test_maps_of_an_adapter_leave_room_for_four_models_and_their_walk():
    old, new = (sizes.parameters(dims) for dims in (SMALL, LARGE))
    memory, seconds, *_ = needs.need("adapter_maps", SMALL, LARGE, whole=True)
    kept = 4 * 512 * 256 * sum(memory_walks.walk_widths(SMALL, LARGE))
    assert memory * 2**20 > 2 * 4 * (old + new) + kept
    passes = 2 * old + 4 * new  # of 512 texts of 128 tokens at 1 TFLOP/s
    assert seconds > 2 * passes * 512 * 128 / 1e12


def test_maps_of_an_adapter_of_streamed_models_leave_room_for_blocks_and_the_writing_of_answers():
    passed = 4 * 512 * 256 * memory_walks.walk_widths(SMALL, LARGE)[1]
    whole, asked = (needs.need("adapter_maps", SMALL, LARGE, whole=each) for each in (True, False))
    blocks = [sizes.block_parameters(dims) for dims in (SMALL, LARGE)]
    tables = 32_000 * 2048 + 128_256 * 8192  # one for both copies of a base
    assert asked.gpu_mib * 2**20 > 4 * (max(blocks) + tables) + passed
    assert asked.host_mib * 2**20 > 4 * sum(blocks) + 4 * sizes.parameters(SMALL)
    assert asked.gpu_mib < whole.gpu_mib / 2 and asked.mib < whole.mib / 3
    writing = needs.need("adapter_maps", LARGE, SMALL)  # a large old model writes answers
    assert writing.gpu_mib * 2**20 > 4 * sizes.parameters(LARGE)


def test_maps_that_are_fitted_run_side_by_side_as_far_as_threads_and_memory_reach():
    asked, *_ = needs.need("fitted_maps", SMALL, SMALL)
    assert needs.layers_at_once(asked, 8, SMALL, SMALL) == 2
    assert needs.layers_at_once(asked, 2, SMALL, SMALL) == 2
    one = memory.fit_bytes(SMALL, SMALL) / needs.MIB
    assert needs.layers_at_once(needs.BASE_MIB + 3.5 * one, 8, SMALL, SMALL) == 3
    assert needs.layers_at_once(0, 8, SMALL, SMALL) == 1
    assert needs.layers_at_once(needs.need("fitted_maps", LARGE, LARGE)[0], 8, LARGE, LARGE) == 1


def test_a_job_takes_as_many_layers_at_once_as_its_memory_holds(monkeypatch):
    models = [Dimensions(1000, 1024, 4096, 4, 8, 8, 128)] * 2
    one = memory.fit_bytes(*models) / needs.MIB
    left = SimpleNamespace(available=(needs.BASE_MIB + 5.5 * one) * 2**20)
    monkeypatch.setattr("psutil.virtual_memory", lambda: left)
    asked = SimpleNamespace(threads=8)
    assert needs.workers(asked, "cpu", *models) == 5  # what the machine has left
    asked.resources = SimpleNamespace(mem_mb=needs.BASE_MIB + 2.5 * one)
    assert needs.workers(asked, "cpu", *models) == 2
    assert needs.workers(asked, "cuda", *models) == 1


QWEN_OLD = Dimensions(151_936, 2048, 5504, 24, 16, 16, 128)
QWEN_NEW = Dimensions(151_936, 2048, 11_008, 36, 16, 2, 128)
RESULTS = Path(__file__).parents[3] / "benchmarks" / "results" / "plans.json"
MEASURED = json.loads(RESULTS.read_text())
ATTRIBUTES = {  # of a need: where a CPU computes, and where a GPU does
    "core": {"seconds": "seconds", "mib": "mib"},
    "gpu": {"seconds": "gpu_seconds", "mib": "host_mib", "gpu_mib": "gpu_mib"},
}


def name(record):
    return "-".join([record["rule"], record["on"], *dict.fromkeys(record["models"])])


@pytest.mark.parametrize("record", MEASURED["measured"], ids=name)
def test_the_plan_is_within_a_factor_of_two_of_what_was_measured(record, monkeypatch):
    texts = record.get("texts", 512)
    monkeypatch.setattr(times, "TEXTS", texts)
    monkeypatch.setattr(times, "TEXT_TOKENS", record.get("tokens", 128))
    monkeypatch.setattr(needs, "is_cuda_build", lambda: record.get("build") == "cuda")
    dims = [Dimensions(**MEASURED["models"][model]) for model in record["models"]]
    whole, roles = record.get("whole", False), record.get("roles", ROLES)
    asked = needs.need(record["rule"], *dims, whole=whole, roles=roles)
    compared = {key: each for key, each in ATTRIBUTES[record["on"]].items() if key in record}
    assert compared
    for key, attribute in compared.items():
        least = record[key] / 2 if key == "seconds" else record[key]  # memory is never short
        assert least <= getattr(asked, attribute) <= 2 * record[key], key


def test_most_rules_were_measured_and_those_that_were_not_are_told():
    there = {record["rule"] for record in MEASURED["measured"]}
    missing = set(times.RULES) - there
    assert missing == {"gradients", "experts", "output_maps", "model_merged"}
    said = RESULTS.with_suffix(".md").read_text().partition("## What was not measured")[2]
    assert all(f"`{rule}`" in said for rule in missing)


def test_sums_that_have_room_on_a_gpu_stay_there_while_their_maps_are_fitted():
    """By arithmetic: of down's input map at 1.8B → 3B, the sum of both parts (t s and s²), the
    rotation by steps (2 t s and 8 t²), and the maps of three other sites before it.
    """
    assert times.SUMS_ROOM_BYTES == in_turn.SUMS_ROOM_BYTES
    t, s, other = 5504, 11_008, 2048**2
    rows = 4 * 2048 * s
    steps = t * s + s * s + 2 * t * s + 8 * t * t
    sums = sizes.site_sums(QWEN_OLD, QWEN_NEW)
    assert sums < times.SUMS_ROOM_BYTES
    fits = [*sizes.input_fits(QWEN_OLD, QWEN_NEW), *sizes.output_fits(QWEN_OLD, QWEN_NEW)]
    assert memory.fit_bytes_on_gpu(fits, sums) == 8 * (steps + 3 * other + rows) + sums
    tables = 2 * 2 * 151_936 * 2048
    asked = needs.need("maps_in_turn", QWEN_OLD, QWEN_NEW).gpu_mib
    assert asked == int(1.3 * (tables + 8 * (steps + 3 * other + rows) + sums) / 2**20)


def test_sums_that_stay_on_a_gpu_take_nothing_beside_it_and_others_do():
    """By arithmetic: streams of all texts, the next block of both models, two pairs' maps."""
    for (old, new), leave in (((QWEN_OLD, QWEN_NEW), False), ((LLAMA2_13B, LARGE), True)):
        streams = 512 * 256 * (old.hidden + new.hidden)
        read = 2 * (streams + sizes.block_parameters(old) + sizes.block_parameters(new))
        o, n, waist = old.hidden, new.hidden, old.intermediate * new.intermediate
        old_kv, new_kv = (d.kv_heads * d.head_dim for d in (old, new))
        # R at three sites and at down; L of q, k, v, of gate with up, of o and down
        maps = 4 * (3 * o * n + waist + o * n + 2 * old_kv * new_kv + waist + 2 * o * n)
        sums = sizes.site_sums(old, new) if leave else 0
        asked = needs.need("maps_in_turn", old, new).host_mib
        assert asked == needs.GPU_WALK_MIB + int(1.3 * (read + sums + 2 * maps) / 2**20)
        beside = needs.BASE_MIB + needs.CUDA_MIB
        asked_of_kept = needs.need("fitted_maps", old, new).host_mib
        assert asked_of_kept == beside + int(1.3 * (sizes.site_sums(old, new) + 2 * maps) / 2**20)
    assert asked < 64 << 10  # of 13B → 70B


@pytest.mark.parametrize(("seconds", "minutes"), [(0, 10), (30, 12), (3600, 250)])
def test_a_scheduler_is_asked_for_four_times_the_estimate_and_ten_minutes(seconds, minutes):
    assert times.limit_minutes(seconds) == minutes
    assert times.limit_minutes(times.limit_seconds(minutes)) == minutes


def test_a_rule_that_gains_nothing_by_its_cores_ends_within_its_limit():
    hours = [times.limit_minutes(36_000, cores) / 60 for cores in (1, 2, 8, 1000)]
    assert hours == sorted(hours, reverse=True)
    assert hours[0] == pytest.approx(40, abs=0.2) and hours[-1] > 10


def test_a_build_of_torch_for_gpus_takes_more_where_none_is_used_too(monkeypatch):
    asked = {}
    for build in ("2.13.0", "2.13.0+cpu"):
        needs.is_cuda_build.cache_clear()
        monkeypatch.setattr(needs, "version", lambda name, build=build: build)
        asked[build] = {row.rule: row.need.mib for row in plan.table(SMALL, LARGE)}
    needs.is_cuda_build.cache_clear()
    more = {rule: asked["2.13.0"][rule] - mib for rule, mib in asked["2.13.0+cpu"].items()}
    none = {"spec old", "spec new", "layers", "transferred", "model_merged new"}
    extra = needs.CUDA_BUILD_MIB if sys.platform == "linux" else 0
    assert more == {rule: 0 if rule in none else extra for rule in more}


def test_rules_that_stay_on_the_cpu_take_nothing_of_a_gpu():
    rows = {row.rule: row.need for row in plan.table(SMALL, LARGE)}
    assert rows["transferred"].gpu_mib == rows["spec old"].gpu_mib == 0
    assert rows["gradients"].gpu_mib > 2 * sizes.parameters(LARGE) / 2**20  # bfloat16
    assert rows["gradients"].host_mib < rows["gradients"].mib / 10
