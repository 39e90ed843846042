"""The numerics on their own: numpy's own answers, and properties that hold for any input."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from loraport.errors import LoraportError
from loraport.mapping.cka import cka, hsic_sums, u_centred_grams, unit_scale
from loraport.mapping.heads import assign
from loraport.mapping.layers import best_path, fixed_path
from loraport.numerics.linalg import least_squares, pinv
from loraport.numerics.lowrank import balance
from loraport.transfer.carry import new_layer
from loraport.transfer.maps import Blocks

NUMBERS = st.floats(-1e3, 1e3, allow_nan=False, width=64)
SIZES = st.integers(1, 6)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (5, 5)])
def test_pinv_is_numpys(shape):
    matrix = random(*shape)
    assert np.allclose(pinv(torch.from_numpy(matrix)), np.linalg.pinv(matrix), atol=1e-10)


def test_pinv_of_a_singular_matrix_is_numpys():
    matrix = random(8, 2) @ random(2, 5, seed=1)
    assert np.allclose(pinv(torch.from_numpy(matrix)), np.linalg.pinv(matrix), atol=1e-10)


def blocks_of(left: np.ndarray, right: np.ndarray, size: int):
    return lambda: (
        (torch.from_numpy(left[i : i + size]), torch.from_numpy(right[i : i + size]))
        for i in range(0, len(left), size)
    )


@pytest.mark.parametrize("condition", [1.0, 1e4, 1e9])
def test_least_squares_is_numpys_at_any_condition(condition):
    u, _ = np.linalg.qr(random(60, 6))
    v, _ = np.linalg.qr(random(6, 6, seed=1))
    left = u * np.geomspace(condition, 1, 6) @ v.T
    right = left @ random(6, 4, seed=2) + 0.1 * random(60, 4, seed=3)
    solution, found, residual = least_squares(blocks_of(left, right, 7))
    expected = np.linalg.pinv(left) @ right
    error = np.linalg.norm(left @ solution.numpy() - left @ expected) / np.linalg.norm(right)
    assert error < 100 * np.finfo(float).eps * condition  # what float64 allows at a condition
    assert found == pytest.approx(condition, rel=1e-3)
    expected_residual = np.linalg.norm(left @ expected - right) / np.linalg.norm(right)
    assert residual == pytest.approx(expected_residual, abs=1e-6)


def test_least_squares_of_too_few_rows_is_of_least_norm():
    left, right = random(4, 9), random(4, 3, seed=1)
    solution, _, residual = least_squares(blocks_of(left, right, 2))
    assert np.allclose(solution, np.linalg.pinv(left) @ right, atol=1e-9)
    assert residual < 1e-6


def test_unbiased_cka_of_unrelated_features_is_near_zero_where_the_biased_is_not():
    old, new = torch.from_numpy(random(1, 64, 500)), torch.from_numpy(random(1, 64, 500, seed=1))
    unbiased = cka(*hsic_sums(old, new, 16)[:3])
    grams = [(x[0, :16] - x[0, :16].mean(0)) for x in (old, new)]
    a, b = (x @ x.T for x in grams)
    biased = (a * b).sum() / (a.norm() * b.norm())
    assert abs(float(unbiased)) < 0.1
    assert float(biased) > 0.8


def test_large_offsets_do_not_cost_digits():
    features = torch.from_numpy(random(1, 32, 20))
    moved = u_centred_grams(features + 1e6)
    assert torch.allclose(moved, u_centred_grams(features), atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(arrays(np.float64, st.tuples(SIZES, st.integers(4, 9), SIZES), elements=NUMBERS))
@example(np.array([[[6.6e-33], [0], [0], [0]]]))  # U-centred to what rounding left of it
def test_cka_is_finite_for_any_features(features):
    x = torch.from_numpy(features)
    cross, old, new, _ = hsic_sums(x, x, 5 if features.shape[1] > 5 else 4)
    found = cka(cross, old, new)
    assert torch.isfinite(found).all()
    assert (old >= 0).all()
    assert (found.diagonal() <= 1 + 1e-9).all()


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(4, 9), st.sampled_from([1e-160, 1.0, 1e30]))
def test_hsic_of_two_models_is_never_nan(data, examples, scale):
    shapes = st.tuples(SIZES, st.just(examples), SIZES)
    old, new = (
        torch.from_numpy(data.draw(arrays(np.float64, shapes, elements=NUMBERS))) for _ in range(2)
    )
    cross, own, other, _ = hsic_sums(old * scale, new, 4)
    assert all(torch.isfinite(part).all() for part in (cross, own, other))
    assert torch.isfinite(cka(cross, own, other)).all()


@pytest.mark.parametrize("power", [-1000, -270, -110, 500, 1000])
def test_cka_does_not_see_the_scale_of_features_by_a_bit(power):
    old, new = torch.from_numpy(random(2, 9, 3)), torch.from_numpy(random(3, 9, 4, seed=1))
    expected = cka(*hsic_sums(old, new, 5)[:3])
    assert expected.abs().min() > 0
    assert torch.equal(cka(*hsic_sums(old * 2.0**power, new, 5)[:3]), expected)
    assert torch.equal(cka(*hsic_sums(old, new * 2.0**power, 5)[:3]), expected)


@pytest.mark.parametrize("largest", [5e-324, 6.6e-32, 1.0, 1.99, 1.7e308])
def test_a_unit_scale_is_a_power_of_two_and_brings_a_layer_to_one(largest):
    features = torch.tensor([[[0.0, -largest]], [[0.0, 0.0]]], dtype=torch.float64)
    scale, of_zero = unit_scale(features).tolist()
    assert math.frexp(scale)[0] == 0.5
    assert 1 <= largest / scale < 2
    assert of_zero == 1


def test_identical_examples_resemble_nothing():
    x = torch.ones(2, 8, 3)
    assert (cka(*hsic_sums(x, x, 8)[:3]) == 0).all()


def test_too_few_examples_are_an_error():
    with pytest.raises(LoraportError, match="too few calibration texts"):
        hsic_sums(torch.zeros(1, 3, 2), torch.zeros(1, 3, 2), 64)


def brute_force(similarity: np.ndarray, limit: int) -> float:
    short, long = similarity.shape
    return max(
        sum(similarity[i, j] for i, j in enumerate(places))
        for places in itertools.combinations(range(long), short)
        if all(0 <= j - i <= limit for i, j in enumerate(places))
    )


@settings(deadline=None, max_examples=80)
@given(
    arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 7)), elements=NUMBERS),
    st.integers(0, 6),
)
def test_path_is_the_best_monotone_one_within_its_offset(similarity, limit):
    path = best_path(similarity, limit)
    olds, news = zip(*path, strict=True)
    assert len(path) == min(similarity.shape)
    assert all(a < b for a, b in itertools.pairwise(olds))
    assert all(a < b for a, b in itertools.pairwise(news))
    turned = similarity if similarity.shape[0] <= similarity.shape[1] else similarity.T
    offsets = [abs(new - old) for old, new in path]
    assert max(offsets) <= min(limit, turned.shape[1] - turned.shape[0])
    total = sum(similarity[old, new] for old, new in path)
    assert total == pytest.approx(brute_force(turned, limit), abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(
    arrays(np.float64, st.tuples(SIZES, SIZES), elements=NUMBERS),
    st.sampled_from([np.nan, np.inf, -np.inf]),
    st.integers(0, 35),
)
def test_path_refuses_any_matrix_that_is_not_finite(similarity, bad, place):
    similarity.flat[place % similarity.size] = bad
    with pytest.raises(LoraportError, match="NaN or Inf"):
        best_path(similarity)


def test_fixed_paths_are_the_published_ablations():
    assert fixed_path(3, 5, "first") == [(0, 0), (1, 1), (2, 2)]
    assert fixed_path(3, 5, "medium") == [(0, 1), (1, 2), (2, 3)]
    assert fixed_path(3, 5, "last") == [(0, 2), (1, 3), (2, 4)]
    assert fixed_path(5, 3, "last") == [(2, 0), (3, 1), (4, 2)]


@settings(deadline=None, max_examples=60)
@given(arrays(np.float64, st.tuples(SIZES, SIZES), elements=NUMBERS))
def test_assignment_is_one_to_one(similarity):
    matched = assign(similarity)
    assert len(matched) == min(similarity.shape)
    assert len(set(matched[:, 0])) == len(set(matched[:, 1])) == len(matched)
    assert (np.diff(matched[:, 1]) > 0).all()


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(0, 9999))
def test_balanced_factors_keep_the_product(d_out, d_in, rank, seed):
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.uniform(-6, 6, rank)
    b, a = rng.normal(size=(d_out, rank)) * scales, rng.normal(size=(rank, d_in)) / scales[:, None]
    if seed % 3 == 0:
        b[:, 0] = 0
    b_new, a_new, kept = balance(b, a, rank)
    assert b_new.shape == b.shape
    assert a_new.shape == a.shape
    size = np.linalg.norm(b, axis=0) @ np.linalg.norm(a, axis=1) + 1e-300
    assert np.abs(b_new @ a_new - b @ a).max() <= 1e-8 * size
    assert kept == pytest.approx(1.0)
    assert np.allclose(b_new.T @ b_new, a_new @ a_new.T, atol=1e-6 * size)


def test_balance_is_the_truncated_svd():
    b, a = random(12, 6), random(6, 9, seed=1)
    b_new, a_new, kept = balance(b, a, 3)
    u, s, vh = np.linalg.svd(b @ a)
    assert np.allclose(b_new @ a_new, u[:, :3] * s[:3] @ vh[:3], atol=1e-10)
    assert kept == pytest.approx((s[:3] ** 2).sum() / (s**2).sum())
    assert np.allclose(np.linalg.norm(b_new, axis=0), np.sqrt(s[:3]))


def test_balance_of_zero_is_zero():
    b_new, a_new, kept = balance(np.zeros((5, 2)), random(2, 4), 2)
    assert not b_new.any()
    assert not a_new.any()
    assert kept == 1.0


def test_block_maps_are_their_dense_matrix():
    rows, cols = np.array([2, 0, 2]), np.array([1, 1, 0])
    blocks = random(3, 4, 5)
    dense = np.zeros((3 * 4, 2 * 5))
    for row, col, block in zip(rows, cols, blocks, strict=True):
        dense[row * 4 : row * 4 + 4, col * 5 : col * 5 + 5] += block
    sparse = Blocks(rows, cols, blocks, (3, 2))
    right, left = random(10, 3, seed=1), random(3, 12, seed=2)
    assert np.allclose(sparse.times(right), dense @ right)
    assert np.allclose(sparse.after(left), left @ dense)


def test_layers_without_a_source_start_as_lora_does():
    b, a = new_layer(4, (6, 100), "init", "model.layers.3.self_attn.q_proj")
    assert not b.any()
    assert 0.05 < np.abs(a).max() <= 0.1
    assert np.std(a) == pytest.approx(0.1 / np.sqrt(3), rel=0.1)
    again = new_layer(4, (6, 100), "init", "model.layers.3.self_attn.q_proj")[1]
    assert np.array_equal(a, again)
    other = new_layer(4, (6, 100), "init", "model.layers.4.self_attn.q_proj")[1]
    assert not np.array_equal(a, other)
    assert not any(part.any() for part in new_layer(4, (6, 100), "zero", "x"))
