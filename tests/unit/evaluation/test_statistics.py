"""Known answers for the statistics."""

import numpy as np
import pytest

from loraport.errors import LoraportError
from loraport.evaluation.statistics import (
    average,
    average_interval,
    bootstrap,
    difference,
    flips,
    mcnemar,
    retention,
)


def items(right, n):
    return np.arange(n) < right


def test_bootstrap_of_a_proportion_is_close_to_the_binomial_interval():
    interval = bootstrap(items(300, 1000), resamples=5000)
    assert interval.mean == 0.3
    half = 1.96 * (0.3 * 0.7 / 1000) ** 0.5
    assert interval.low == pytest.approx(0.3 - half, abs=0.004)
    assert interval.high == pytest.approx(0.3 + half, abs=0.004)


def test_bootstrap_is_repeatable_and_constant_items_have_no_width():
    values = np.random.default_rng(1).normal(size=50)
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3)
    assert bootstrap(np.ones(20)).half_width == 0
    assert bootstrap([0.25]).low == 0.25


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(100):
        interval = bootstrap(rng.random(150) < 0.4, resamples=400, seed=trial)
        hits += interval.low <= 0.4 <= interval.high
    assert 0.88 <= hits / 100 <= 0.99


def test_paired_difference_is_narrower_than_an_unpaired_one():
    first = items(60, 100)
    second = items(55, 100)  # the same items, but for five
    assert difference(first, second).half_width < 0.06
    assert difference(first, second).mean == pytest.approx(0.05)


def test_retention_of_known_systems():
    bare, full = items(100, 1000), items(900, 1000)
    assert retention(full, bare, full).value == 1
    assert retention(bare, bare, full).value == 0
    half = retention(items(500, 1000), bare, full)
    assert half.value == pytest.approx(0.5)
    assert half.low < 0.5 < half.high
    assert retention(items(20, 1000), bare, full).value == pytest.approx(-0.1)


def test_retention_is_undefined_where_the_reference_gains_too_little():
    bare = items(50, 100)
    none = retention(bare, bare, bare)
    assert none.value is None and "under twice its interval" in none.reason
    rng = np.random.default_rng(0)
    noise = rng.random(100) < 0.55
    assert retention(bare, rng.random(100) < 0.5, noise).value is None
    assert retention(bare, items(90, 100), items(10, 100)).value is None  # a loss is no gain


def test_flips_are_counted_on_both_sides():
    found = flips([1, 1, 1, 0, 0], [0, 1, 0, 1, 0])
    assert (found.negative, found.positive, found.items) == (2, 1, 5)


def test_mcnemar_known_p_values():
    # 10 discordant items, 1 against 9: 2 · (C(10,0) + C(10,1)) / 2^10
    first = [1] * 9 + [0] + [1] * 20
    second = [0] * 9 + [1] + [1] * 20
    result = mcnemar(first, second)
    assert (result.only_first, result.only_second) == (9, 1)
    assert result.p_value == pytest.approx(2 * 11 / 1024)
    assert mcnemar(second, first).p_value == result.p_value
    assert mcnemar(first, first).p_value == 1


def test_average_weighs_tasks_alike():
    assert average({"a": 0.2, "b": 0.6}) == pytest.approx(0.4)
    interval = average_interval({"small": items(2, 10), "large": items(600, 1000)})
    assert interval.mean == pytest.approx(0.4)
    assert interval.low < 0.4 < interval.high
    assert interval.half_width > bootstrap(items(600, 1000)).half_width / 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap([]), "no item"),
        (lambda: bootstrap([1.0, float("nan")]), "NaN"),
        (lambda: difference([1, 0], [1, 0, 1]), "2 and 3 items"),
        (lambda: mcnemar([0.5, 1], [1, 0]), "right or wrong"),
        (lambda: average({}), "no task"),
    ],
)
def test_bad_input_is_told(call, message):
    with pytest.raises(LoraportError, match=message):
        call()
