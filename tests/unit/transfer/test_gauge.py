"""Gauges of a carried update: the update stays, its factors do not; and gains."""

from dataclasses import replace

import numpy as np
import pytest

from loraport.adapters.lora_weights import LoraWeights
from loraport.numerics.lowrank import balance
from loraport.transfer.gauge import FRESH_ROW_NORM, in_gauge, scaled


def weights(rank=4, of=4, rslora=False, **more):
    """Balanced factors of an update whose rank is `of`."""
    rng = np.random.default_rng(0)
    b, a, _ = balance(rng.standard_normal((9, of)), rng.standard_normal((of, 7)), rank)
    return LoraWeights(b.astype(np.float32), a.astype(np.float32), 8.0, rslora, **more)


def update(each):
    return each.scale * each.b.astype(np.float64) @ each.a.astype(np.float64)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("of", [4, 2, 1])
def test_the_update_is_the_same_and_a_as_large_as_a_fresh_ones(of, rslora):
    before = weights(of=of, rslora=rslora)
    after = in_gauge(before, "fresh", "q")
    assert np.allclose(update(after), update(before), atol=1e-6 * np.abs(update(before)).max())
    assert np.allclose(np.linalg.norm(after.a[:of], axis=1), FRESH_ROW_NORM, rtol=1e-5)


def test_directions_that_the_update_does_not_take_start_as_a_fresh_lora_does():
    after = in_gauge(weights(of=2), "fresh", "layer.q")
    assert not after.b[:, 2:].any()
    assert np.abs(after.a[2:]).max() <= 1 / np.sqrt(7)
    assert np.linalg.norm(after.a[2:], axis=1).min() > 0.1
    assert (after.a == in_gauge(weights(of=2), "fresh", "layer.q").a).all()
    assert (after.a[2:] != in_gauge(weights(of=2), "fresh", "layer.k").a[2:]).any()


def test_an_update_of_zero_becomes_a_fresh_start():
    empty = replace(weights(), b=np.zeros((9, 4), np.float32), a=np.zeros((4, 7), np.float32))
    after = in_gauge(empty, "fresh", "q")
    assert not after.b.any() and after.a.any() and np.isfinite(after.a).all()


def test_balanced_and_adalora_stay_as_they_are():
    for factors, each in (("balanced", weights()), ("fresh", weights(init_rank=6))):
        assert in_gauge(each, factors, "q") is each


def test_rows_of_a_fresh_lora_have_that_norm():
    from peft import LoraConfig, inject_adapter_in_model
    from torch import nn

    config = LoraConfig(r=64, target_modules=["0"])
    layer = inject_adapter_in_model(config, nn.Sequential(nn.Linear(400, 5)))[0]
    norms = layer.lora_A["default"].weight.detach().norm(dim=1).numpy()
    assert norms.mean() == pytest.approx(FRESH_ROW_NORM, rel=0.02)


def test_a_gain_multiplies_the_update_and_the_bias():
    before = weights(bias=np.arange(9, dtype=np.float32))
    after = scaled(before, 0.5)
    assert np.allclose(update(after), update(before) / 2)
    assert np.allclose(after.bias, before.bias / 2)
    assert scaled(before, 1.0) is before


@pytest.mark.parametrize(("gain", "share"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (2.0, 2.0)])
def test_magnitudes_move_from_the_bases_row_norms_by_the_gain(gain, share):
    rows = np.linspace(1, 2, 9)
    before = weights(magnitude=(rows * 1.1).astype(np.float32))
    after = scaled(before, gain, rows)
    assert np.allclose(after.magnitude, rows + share * 0.1 * rows, rtol=1e-6)


def test_a_gain_takes_no_magnitude_below_zero():
    rows = np.ones(9)
    before = weights(magnitude=np.full(9, 0.3, np.float32))
    assert (scaled(before, 2.0, rows).magnitude > 0).all()
