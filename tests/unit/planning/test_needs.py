"""What rules ask for follows the models' sizes."""

from types import SimpleNamespace

import pytest

from loraport.models.families import Dimensions
from loraport.planning import needs

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


@pytest.mark.parametrize("rule", sorted(set(needs.RULES) - {"layers"}))
def test_a_larger_model_asks_for_more_memory_and_no_less_time(rule):
    count = 1 if rule in needs.SIDES_OF else 2
    small, large = (needs.need(rule, *[dims] * count) for dims in (SMALL, LARGE))
    assert large[0] > small[0] or rule == "model_merged"  # by blocks of one size
    assert large[1] >= small[1]


def test_running_a_model_leaves_room_for_its_weights_and_its_reading():
    weights = needs.parameters(LARGE)
    assert weights == pytest.approx(70e9, rel=0.15)
    memory, minutes, *_ = needs.need("activations", LARGE)
    assert memory * 2**20 > 4 * weights  # float32
    assert minutes * 60 > 2 * weights * 512 * 256 / 1e12  # 512 texts of 256 tokens at 1 TFLOP/s


def test_maps_of_an_adapter_leave_room_for_four_models_and_their_walk():
    old, new = (needs.parameters(dims) for dims in (SMALL, LARGE))
    memory, minutes, *_ = needs.need("adapter_maps", SMALL, LARGE)
    kept = 4 * 512 * 256 * sum(needs.walk_widths(SMALL, LARGE))
    assert memory * 2**20 > 2 * 4 * (old + new) + kept
    passes = 2 * old + 4 * new  # of 512 texts of 256 tokens at 1 TFLOP/s
    assert minutes * 60 > 2 * passes * 512 * 256 / 1e12


def test_maps_that_are_fitted_run_side_by_side_as_far_as_threads_and_memory_reach():
    asked, *_ = needs.need("fitted_maps", SMALL, SMALL)
    assert needs.layers_at_once(asked, 8, SMALL, SMALL) == 2
    assert needs.layers_at_once(asked, 2, SMALL, SMALL) == 2
    one = needs.fit_bytes(SMALL, SMALL) / needs.MIB
    assert needs.layers_at_once(needs.BASE_MIB + 3.5 * one, 8, SMALL, SMALL) == 3
    assert needs.layers_at_once(0, 8, SMALL, SMALL) == 1
    assert needs.layers_at_once(needs.need("fitted_maps", LARGE, LARGE)[0], 8, LARGE, LARGE) == 1


def test_a_job_takes_as_many_layers_at_once_as_its_memory_holds(monkeypatch):
    models = [Dimensions(1000, 1024, 4096, 4, 8, 8, 128)] * 2
    one = needs.fit_bytes(*models) / needs.MIB
    left = SimpleNamespace(available=(needs.BASE_MIB + 5.5 * one) * 2**20)
    monkeypatch.setattr("psutil.virtual_memory", lambda: left)
    asked = SimpleNamespace(threads=8)
    assert needs.workers(asked, "cpu", *models) == 5  # what the machine has left
    asked.resources = SimpleNamespace(mem_mb=needs.BASE_MIB + 2.5 * one)
    assert needs.workers(asked, "cpu", *models) == 2
    assert needs.workers(asked, "cuda", *models) == 1


QWEN_OLD = Dimensions(151_936, 2048, 5504, 24, 16, 16, 128)
QWEN_NEW = Dimensions(151_936, 2048, 11_008, 36, 16, 2, 128)
HALF_B = Dimensions(151_936, 896, 4864, 24, 14, 2, 64)
MEASURED = {  # rule, pair -> MiB of memory, of the GPU: by logs, and benchmarks/results/fullsize.md
    ("spec", QWEN_OLD): (1559, None),
    ("spec", QWEN_NEW): (1535, None),
    ("embedding", QWEN_OLD, QWEN_NEW): (1818, None),
    ("cka", QWEN_OLD, QWEN_NEW): (811, None),
    ("heads", QWEN_OLD, QWEN_NEW): (808, None),
    ("maps", QWEN_OLD, QWEN_NEW): (1192, None),
}
ON_GPU = {
    ("activations", QWEN_OLD): (2915, None),
    ("activations", QWEN_NEW): (2916, None),
    ("moments", HALF_B, Dimensions(151_936, 1536, 8960, 28, 12, 2, 128)): (4.4 * 1024, None),
    ("adapter_maps", HALF_B, Dimensions(151_936, 1536, 8960, 28, 12, 2, 128)): (12 * 1024, 27e3),
}


@pytest.mark.parametrize("of", MEASURED | ON_GPU, ids=lambda of: f"{of[0]}-{of[-1].hidden}")
def test_the_plan_is_within_a_factor_of_two_of_what_was_measured(of):
    asked = needs.need(*of)
    host, gpu = (MEASURED | ON_GPU)[of]
    planned = asked.host_mib if of in ON_GPU else asked.mib
    assert host <= planned <= 2 * host
    assert gpu is None or gpu <= asked.gpu_mib <= 2 * gpu


def test_rules_that_stay_on_the_cpu_take_nothing_of_a_gpu():
    rows = {row.rule: row for row in needs.table(SMALL, LARGE)}
    assert rows["transferred"].gpu_mib == rows["spec old"].gpu_mib == 0
    assert rows["activations new"].gpu_mib > 2 * needs.parameters(LARGE) / 2**20  # bfloat16
    assert rows["activations new"].host_mib < rows["activations new"].mib / 10
