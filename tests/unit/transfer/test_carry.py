"""Carrying an adapter: the same bytes by any number of workers, and in the precision asked for."""

import dataclasses

import methodcase
import ml_dtypes
import numpy as np
import pico
import pytest
import threadpoolctl
import torch

from loraport.errors import LoraportError
from loraport.methods.lorasuite import HiddenMap, _intermediate
from loraport.transfer import carry, files
from loraport.transfer.maps import ModuleMap, open_maps, write_maps

RNG = np.random.default_rng(5)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A function that carries an adapter to a deeper and wider model."""
    root = tmp_path_factory.mktemp("carried")
    old, new = pico.make_pair(root, "deeper")
    adapter = pico.make_adapter(root / "lora", old, seed=3, targets=pico.ALL_LINEAR)
    pair = methodcase.make_method_pair(old, new, [(0, 0), (1, 2), (2, 3)])
    return lambda **how: methodcase.transferred(root, "crosslora", pair, adapter, **how)


def arrays(each):
    held = dataclasses.asdict(each).values()
    return [value.tobytes() if isinstance(value, np.ndarray) else value for value in held]


@pytest.mark.parametrize("workers", [2, 3, 50])
def test_any_number_of_workers_makes_the_same(case, workers):
    alone, told = case()
    weights, report = case(workers=workers)
    assert list(weights) == list(alone) and list(report["modules"]) == list(told["modules"])
    assert report == told
    assert all(arrays(weights[place]) == arrays(alone[place]) for place in alone)


def test_each_module_has_one_thread_of_the_linear_algebras(case, monkeypatch):
    seen, carry_module = [], carry.carry_module

    def spied(*given):
        seen.append({pool["num_threads"] for pool in threadpoolctl.threadpool_info()})
        return carry_module(*given)

    monkeypatch.setattr(carry, "carry_module", spied)
    with threadpoolctl.threadpool_limits(2):
        case(workers=2)
    assert seen and all(each == {1} for each in seen)


def test_an_error_of_a_worker_ends_the_transfer(case, monkeypatch):
    def fail(*given):
        raise LoraportError("a module that cannot be carried")

    monkeypatch.setattr(carry, "carry_module", fail)
    with pytest.raises(LoraportError, match="cannot be carried"):
        case(workers=3)


def narrow_map(path, condition):
    """LoRASuite's map of an up projection whose old weight has this condition, as it is stored."""
    bases, singular = [], np.geomspace(1, 1 / condition, 96)
    for height in (256, 512):
        left = np.linalg.qr(RNG.standard_normal((height, 96)))[0]
        right = np.linalg.qr(RNG.standard_normal((96, 96)))[0]
        made = (left * singular) @ right.T
        bases.append(made.astype(ml_dtypes.bfloat16).astype(np.float64))
    term = _intermediate("up", *map(torch.from_numpy, bases), HiddenMap(None, "code"))
    write_maps(path, "lorasuite", {}, [ModuleMap(0, "up", 0, (term,), 1.0, 1.0)])
    return len(term.left)


@pytest.mark.parametrize(("condition", "most"), [(1, 1e-6), (30, 1e-5), (1000, 2e-4)])
def test_float32_products_lose_less_than_bfloat16_does(tmp_path, condition, most):
    """Which is 2e-3; of worse conditioned weights the map is not stored in this form."""
    assert narrow_map(tmp_path / "maps.h5", condition) == 3
    b = RNG.standard_normal((256, 8))
    with open_maps(tmp_path / "maps.h5") as maps:
        term = maps.module(0, "up").terms[0]
        exact, quick = term.carry_left(b), term.carry_left(b.astype(np.float32))
    assert quick.dtype == np.float32
    assert 0 < np.linalg.norm(quick - exact) <= most * np.linalg.norm(exact)


def test_maps_of_worse_conditioned_weights_are_stored_in_two_factors(tmp_path):
    assert narrow_map(tmp_path / "maps.h5", 3000) == 2


def test_float32_adapters_are_made_by_float64_products(case):
    assert {"float32": np.float64, "bfloat16": np.float32} == files.PRECISIONS
    exact, quick = case()[0], case(precision=np.float32)[0]
    assert any(arrays(quick[place]) != arrays(exact[place]) for place in exact)
    for place, each in exact.items():
        update, other = methodcase.dense(each), methodcase.dense(quick[place])
        assert np.linalg.norm(other - update) <= 1e-6 * np.linalg.norm(update), place
