"""Known answers for the oracle itself."""

from dataclasses import replace
from itertools import pairwise, permutations

import literal
import numpy as np
import pytest


def random_layer(seed: int, d: int, f: int, heads: int, kv_heads: int, h: int) -> literal.Layer:
    rng = np.random.default_rng(seed)
    shapes = {
        "q": (heads * h, d),
        "k": (kv_heads * h, d),
        "v": (kv_heads * h, d),
        "o": (d, heads * h),
        "gate": (f, d),
        "up": (f, d),
        "down": (d, f),
    }
    weights = {role: rng.normal(size=shape) for role, shape in shapes.items()}
    return literal.Layer(**weights, heads=heads, kv_heads=kv_heads)


def random_updates(seed: int, layer: literal.Layer, r: int = 3, s: float = 0.5) -> dict:
    rng = np.random.default_rng(seed)
    updates = {}
    for role in literal.ROLES:
        d_out, d_in = getattr(layer, role).shape
        updates[role] = (rng.normal(size=(d_out, r)), rng.normal(size=(r, d_in)), s)
    return updates


def rotation(seed: int, d: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def rotated(layer: literal.Layer, Q: np.ndarray) -> literal.Layer:
    """The same function of a residual stream whose coordinates are `Qᵀ x` of the old ones."""
    weights = {role: getattr(layer, role) @ Q for role in ("q", "k", "v", "gate", "up")}
    weights |= {role: Q.T @ getattr(layer, role) for role in ("o", "down")}
    return literal.Layer(**weights, heads=layer.heads, kv_heads=layer.kv_heads)


def permuted(layer: literal.Layer, order: np.ndarray) -> literal.Layer:
    """Heads reordered, so that new head `b` is old head `order[b]` (no grouped heads)."""
    shuffled = {
        role: literal.split_heads(getattr(layer, role), layer.heads)[order].reshape(
            getattr(layer, role).shape
        )
        for role in ("q", "k", "v")
    }
    o = literal.split_heads(layer.o.T, layer.heads)[order].reshape(layer.o.T.shape).T
    rest = {role: getattr(layer, role) for role in ("gate", "up", "down")}
    return literal.Layer(**shuffled, o=o, **rest, heads=layer.heads, kv_heads=layer.kv_heads)


def biased_cka(X: np.ndarray, Y: np.ndarray) -> float:
    X, Y = X - X.mean(axis=0), Y - Y.mean(axis=0)
    return float(np.linalg.norm(X.T @ Y) ** 2 / (np.linalg.norm(X.T @ X) * np.linalg.norm(Y.T @ Y)))


def test_hidden_map_finds_a_planted_rotation():
    E, Q = np.random.default_rng(0).normal(size=(50, 12)), rotation(1, 12)
    assert np.allclose(literal.hidden_map(E, E @ Q), Q, atol=1e-12)


def test_hidden_map_is_the_least_squares_solution():
    rng = np.random.default_rng(0)
    E_old, E_new = rng.normal(size=(50, 8)), rng.normal(size=(50, 12))
    W_h = literal.hidden_map(E_old, E_new)
    assert W_h.shape == (8, 12)
    assert np.allclose(E_old.T @ (E_old @ W_h - E_new), 0, atol=1e-10)


def test_unbiased_hsic_equals_the_sum_over_distinct_indices():
    """HSIC as a U-statistic: the mean over all tuples of four distinct examples."""
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(6, 3)), rng.normal(size=(6, 2))
    K, L = X @ X.T, Y @ Y.T
    terms = [
        K[i, j] * (L[i, j] + L[q, r] - 2 * L[i, q]) for i, j, q, r in permutations(range(6), 4)
    ]
    assert literal.unbiased_hsic(K, L) == pytest.approx(np.mean(terms), rel=1e-10)


def test_cka_of_identical_and_rotated_features_is_one():
    X = np.random.default_rng(0).normal(size=(24, 5)) + 3
    S = literal.cka_matrix([X], [X, 2 * X @ rotation(1, 5) + 7], minibatch=8)
    assert np.allclose(S, 1, atol=1e-12)


def test_cka_of_independent_features_is_near_zero_where_the_biased_one_is_high():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(64, 500)), rng.normal(size=(64, 500))
    S = literal.cka_matrix([X], [Y], minibatch=64)
    assert biased_cka(X, Y) > 0.8
    assert abs(S[0, 0]) < 0.05


def test_cka_averages_hsics_and_not_ckas():
    """A minibatch of large features counts for more than one of small features."""
    rng = np.random.default_rng(0)
    X, noise = rng.normal(size=(32, 4)), rng.normal(size=(32, 4))
    loud = np.repeat([10.0, 0.1], 16)[:, None]
    Y = np.where(loud > 1, X, noise) * loud
    S = literal.cka_matrix([X * loud], [Y], minibatch=16)
    assert S[0, 0] == pytest.approx(1, abs=1e-4)


def test_cka_drops_a_last_minibatch_of_under_four():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(19, 4)), rng.normal(size=(19, 4))
    whole = literal.cka_matrix([X], [Y], minibatch=8)
    assert np.array_equal(whole, literal.cka_matrix([X[:16]], [Y[:16]], minibatch=8))
    four = literal.cka_matrix([X], [Y], minibatch=5)
    assert not np.array_equal(four, literal.cka_matrix([X[:15]], [Y[:15]], minibatch=5))


def test_cka_of_identical_examples_is_zero():
    X = np.ones((8, 3))
    assert literal.cka_matrix([X], [X], minibatch=8)[0, 0] == 0


@pytest.mark.parametrize(
    ("max_offset", "expected"),
    [(None, [(0, 1), (1, 3)]), (1, [(0, 1), (1, 2)]), (0, [(0, 0), (1, 1)])],
)
def test_layer_path_on_a_hand_made_matrix(max_offset, expected):
    S = np.array([[0.5, 0.8, 0.1, 0.9], [0.2, 0.3, 0.4, 0.9]])
    assert literal.layer_path(S, max_offset) == expected
    assert literal.layer_path(S.T, max_offset) == [(new, old) for old, new in expected]


def test_layer_path_of_equal_depth_is_the_identity():
    S = np.random.default_rng(0).normal(size=(4, 4))
    assert literal.layer_path(S) == [(i, i) for i in range(4)]


def test_layer_path_increases_and_uses_each_shallow_layer_once():
    path = literal.layer_path(np.random.default_rng(0).normal(size=(5, 3)))
    assert [new for _, new in path] == [0, 1, 2]
    assert all(left[0] < right[0] for left, right in pairwise(path))


def test_heads_of_a_rotated_model_match_themselves():
    old, Q = random_layer(0, d=24, f=30, heads=4, kv_heads=2, h=6), rotation(1, 24)
    S = literal.head_similarity(old, rotated(old, Q), Q)
    assert np.allclose(np.diag(S), 1, atol=1e-12)
    assert literal.assign(S) == [(a, a) for a in range(4)]


def test_permuted_heads_are_found():
    old, order = random_layer(0, d=24, f=30, heads=5, kv_heads=5, h=6), np.array([3, 0, 4, 1, 2])
    S = literal.head_similarity(old, permuted(old, order), np.eye(24))
    assert sorted(literal.assign(S)) == sorted((int(a), b) for b, a in enumerate(order))


@pytest.mark.parametrize("equal", ["qk", "vo"])
def test_both_interactions_tell_heads_apart(equal):
    """Heads whose queries and keys (or values and outputs) are equal differ by the others."""
    layer = random_layer(0, d=12, f=16, heads=2, kv_heads=2, h=4)
    same = {role: np.tile(getattr(layer, role)[:4], (2, 1)) for role in set(equal) - {"o"}}
    if "o" in equal:
        same["o"] = np.tile(layer.o[:, :4], (1, 2))
    old, order = replace(layer, **same), np.array([1, 0])
    S = literal.head_similarity(old, permuted(old, order), np.eye(12))
    assert sorted(literal.assign(S)) == [(0, 1), (1, 0)]


def test_assignment_may_be_rectangular():
    S = np.array([[0.1, 0.9, 0.2], [0.8, 0.7, 0.3]])
    assert literal.assign(S) == [(0, 1), (1, 0)]
    assert literal.assign(S.T) == [(0, 1), (1, 0)]


def test_sampled_head_pairs_are_those_of_the_whole():
    old, new = (random_layer(s, d=12, f=16, heads=4, kv_heads=2, h=4) for s in (0, 1))
    whole = literal.head_similarity(old, new, rotation(2, 12))
    some = literal.head_similarity(old, new, rotation(2, 12), pairs=[(1, 2), (3, 0)])
    assert some[1, 2] == whole[1, 2] and some[3, 0] == whole[3, 0]
    assert np.isnan(some).sum() == 14


def test_transfer_onto_itself_multiplies_by_the_heads_own_products():
    """Old = new: `W_b W_bᵀ ΔW_b` for q, k, v; `ΔW_b O_bᵀ O_b` for o (methods' note on scale)."""
    layer = random_layer(0, d=24, f=30, heads=4, kv_heads=4, h=6)
    updates = random_updates(1, layer)
    matched = [(a, a) for a in range(4)]
    carried = literal.transfer_layer(layer, layer, np.eye(24), matched, updates)
    for role in ("q", "k", "v"):
        W = literal.split_heads(getattr(layer, role), 4)
        B, A, s = updates[role]
        expected = [W[b] @ W[b].T @ literal.split_heads(s * B @ A, 4)[b] for b in range(4)]
        assert np.allclose(carried[role][0] @ carried[role][1], np.concatenate(expected))
    B, A, s = updates["o"]
    O_, dense = np.split(layer.o, 4, axis=1), np.split(s * B @ A, 4, axis=1)
    expected = [dense[b] @ O_[b].T @ O_[b] for b in range(4)]
    assert np.allclose(carried["o"][0] @ carried["o"][1], np.concatenate(expected, axis=1))


def test_unmatched_new_heads_are_zero():
    old = random_layer(0, d=12, f=16, heads=2, kv_heads=2, h=4)
    new = random_layer(1, d=12, f=16, heads=4, kv_heads=4, h=4)
    updates = random_updates(2, old)
    carried = literal.transfer_layer(old, new, np.eye(12), [(0, 3), (1, 1)], updates)
    for role in ("q", "k", "v", "o"):
        dense = carried[role][0] @ carried[role][1]
        blocks = literal.split_heads(dense.T if role == "o" else dense, 4)
        sizes = np.linalg.norm(blocks, axis=(1, 2))
        assert sizes[[0, 2]] == pytest.approx(0, abs=1e-12)
        assert (sizes[[1, 3]] > 0.1).all()


def test_regrouping_is_the_mean_with_unmatched_heads_counted():
    """Two heads in one group, one matched: half of the matched head's update."""
    old = random_layer(0, d=12, f=16, heads=1, kv_heads=1, h=4)
    new = random_layer(1, d=12, f=16, heads=2, kv_heads=1, h=4)
    updates = random_updates(2, old)
    B, A, s = updates["v"]
    T = old.v @ new.v.T
    both = literal.transfer_layer(old, new, np.eye(12), [(0, 1)], updates)["v"]
    assert np.allclose(both[0] @ both[1], T.T @ (s * B @ A) / 2)


def test_grouped_heads_of_the_old_model_are_repeated():
    """MHA after GQA: each new head gets the update of its match's key head."""
    old = random_layer(0, d=12, f=16, heads=4, kv_heads=2, h=4)
    new = random_layer(1, d=12, f=16, heads=4, kv_heads=4, h=4)
    updates = random_updates(2, old)
    B, A, s = updates["k"]
    pairs = [(0, 2), (1, 0), (2, 1), (3, 3)]
    carried = literal.transfer_layer(old, new, np.eye(12), pairs, updates)["k"]
    blocks = literal.split_heads(carried[0] @ carried[1], 4)
    keys, dense = literal.split_heads(old.k, 2), literal.split_heads(s * B @ A, 2)
    for a, b in pairs:
        T = keys[a // 2] @ literal.split_heads(new.k, 4)[b].T
        assert np.allclose(blocks[b], T.T @ dense[a // 2])


def test_mlp_settings_agree_for_an_orthogonal_map_and_differ_otherwise():
    old, new = (random_layer(s, d=12, f=20, heads=2, kv_heads=2, h=6) for s in (0, 1))
    updates = random_updates(2, old)
    for W_h, same in ((rotation(3, 12), True), (1.5 * rotation(3, 12), False)):
        code = literal.transfer_layer(old, new, W_h, [(0, 0), (1, 1)], updates, "code")
        paper = literal.transfer_layer(old, new, W_h, [(0, 0), (1, 1)], updates, "paper")
        for role in ("gate", "up", "down"):
            assert (
                np.allclose(code[role][0] @ code[role][1], paper[role][0] @ paper[role][1]) == same
            )


def test_a_rotated_new_model_gets_the_rotated_update():
    """`W_h = Q` takes the update of old = new to new coordinates, for every module."""
    old, Q = random_layer(0, d=12, f=20, heads=4, kv_heads=2, h=4), rotation(1, 12)
    updates, matched = random_updates(2, old), [(a, a) for a in range(4)]
    plain = literal.transfer_layer(old, old, np.eye(12), matched, updates)
    turned = literal.transfer_layer(old, rotated(old, Q), Q, matched, updates)
    for role in literal.ROLES:
        dense = plain[role][0] @ plain[role][1]
        expected = Q.T @ dense if role in ("o", "down") else dense @ Q
        assert np.allclose(turned[role][0] @ turned[role][1], expected)


def test_mlp_onto_itself_projects_onto_the_weights_column_space():
    """Old = new: up gives `U pinv(U) ΔW`, down `ΔW pinv(D) D`; neither is the identity."""
    layer = random_layer(0, d=12, f=20, heads=2, kv_heads=2, h=6)
    updates = random_updates(2, layer)
    carried = literal.transfer_layer(layer, layer, np.eye(12), [(0, 0), (1, 1)], updates)
    B, A, s = updates["up"]
    expected = layer.up @ np.linalg.pinv(layer.up) @ (s * B @ A)
    assert np.allclose(carried["up"][0] @ carried["up"][1], expected)
    B, A, s = updates["down"]
    expected = (s * B @ A) @ np.linalg.pinv(layer.down) @ layer.down
    assert np.allclose(carried["down"][0] @ carried["down"][1], expected)


def test_truncation_is_balanced_and_loses_nothing_at_the_true_rank():
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(20, 3)) @ rng.normal(size=(3, 15))
    B, A = literal.truncate(dense, 3)
    assert np.allclose(B @ A, dense)
    assert np.allclose(B.T @ B, A @ A.T)


def test_transfer_follows_the_path_and_leaves_out_new_layers():
    old = [random_layer(s, d=12, f=16, heads=2, kv_heads=2, h=6) for s in (0, 1)]
    new = [random_layer(s, d=12, f=16, heads=2, kv_heads=2, h=6) for s in (2, 3, 4)]
    updates = {(i, role): u for i in (0, 1) for role, u in random_updates(i, old[i]).items()}
    carried = literal.transfer(old, new, np.eye(12), [(0, 0), (1, 2)], updates)
    assert sorted({layer for layer, _ in carried}) == [0, 2]
    pairs = literal.assign(literal.head_similarity(old[1], new[2], np.eye(12)))
    alone = literal.transfer_layer(old[1], new[2], np.eye(12), pairs, random_updates(1, old[1]))
    assert np.array_equal(carried[2, "q"][0], alone["q"][0])
