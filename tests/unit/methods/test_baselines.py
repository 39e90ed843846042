"""Training-free baselines against their formulas, written with dense float64 matrices."""

from pathlib import Path

import methodcase
import numpy as np
import pico
import pytest
import torch

from loraport import methods
from loraport.errors import LoraportError
from loraport.models.families import Dimensions
from loraport.numerics.lowrank import truncated_sum

SIZES = {"hidden": 32, "intermediate": 56, "layers": 2, "heads": 4, "kv_heads": 2}
SAME_DEPTH = [(0, 0), (1, 1)]
EQUAL = ["simplecopy", "simpledifference", "directalgebra", "simplelinear", "prolora"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("baselines")
    pico.make_model(root / "old", seed=1, **SIZES)
    pico.make_model(root / "new", seed=2, **SIZES)
    pico.make_model(root / "wide", seed=4, **{**SIZES, "hidden": 48, "heads": 6, "kv_heads": 3})
    targets = {"rank_pattern": {"down_proj": 3}, "alpha_pattern": {"q_proj": 11}}
    pico.make_adapter(root / "lora", root / "old", seed=3, **targets)
    return root


def carried(root: Path, folder: Path, method: str, new: str = "new", **settings) -> dict:
    """(layer, role) -> (old weight, new weight, ΔW_o, ΔW_n, rank, share of energy kept)."""
    pair = methodcase.make_method_pair(root / "old", root / new, SAME_DEPTH, **settings)
    weights, report = methodcase.transferred(folder, method, pair, root / "lora")
    old, found = pico.load_layers(root / "old"), {}
    fresh = pico.load_layers(root / new)
    for (layer, role), (B, A, s) in pico.load_adapter(root / "old", root / "lora").items():
        module = pico.PATHS[role]
        kept = report["modules"][f"model.layers.{layer}.{module}"]["energy_kept"]
        found[layer, role] = (
            getattr(old[layer], role), getattr(fresh[layer], role), s * B @ A,
            methodcase.dense(weights[layer, module]), len(A), kept,
        )  # fmt: skip
    return found


def close(got: np.ndarray, expected: np.ndarray) -> bool:
    return np.linalg.norm(got - expected) <= 1e-5 * np.linalg.norm(expected)


def truncated(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, float]:
    """Best approximation of a rank by a full SVD, and the share of energy kept."""
    U, s, Vt = np.linalg.svd(matrix)
    return U[:, :rank] * s[:rank] @ Vt[:rank], (s[:rank] ** 2).sum() / (s**2).sum()


def test_simplecopy_keeps_every_update(root, tmp_path):
    for _, _, before, after, *_ in carried(root, tmp_path, "simplecopy").values():
        assert close(after, before)


@pytest.mark.parametrize(("method", "sign"), [("simpledifference", 1), ("directalgebra", -1)])
def test_differences_are_cut_to_the_adapters_rank(root, tmp_path, method, sign):
    for old, new, before, after, rank, kept in carried(root, tmp_path, method).values():
        expected, share = truncated(sign * (new - old) + before, rank)
        assert np.isclose(kept, share, rtol=1e-3) and 0 < share < 1
        # of a flat random spectrum the randomised SVD finds the energy, not each vector
        error = np.linalg.norm(sign * (new - old) + before - after)
        assert error <= 1.001 * np.linalg.norm(sign * (new - old) + before - expected)
        assert np.linalg.matrix_rank(after, tol=1e-5 * np.linalg.norm(after)) == rank


def test_a_sum_that_fits_the_rank_is_kept_whole():
    """A change of rank 2 and an adapter of rank 1 in rank 4: DirectAlgebra is then exact."""
    rng = np.random.default_rng(0)
    C = rng.normal(size=(20, 2)) @ rng.normal(size=(2, 30))
    b, a = rng.normal(size=(20, 1)), rng.normal(size=(1, 30))
    b_new, a_new, kept = truncated_sum(C, b, a, 4)
    assert close(b_new @ a_new, C + b @ a) and np.isclose(kept, 1)
    assert b_new.shape == (20, 4) and a_new.shape == (4, 30)
    assert np.allclose(b_new.T @ b_new, a_new @ a_new.T)  # balanced


@pytest.mark.parametrize("side", ["input", "output"])
def test_simplelinear_is_the_printed_formula(root, tmp_path, side):
    for old, new, before, after, *_ in carried(root, tmp_path, "simplelinear", side=side).values():
        P = np.linalg.pinv(old)
        assert close(after, before @ P @ new if side == "input" else new @ P @ before)


def test_simplelinear_finds_a_planted_change_of_the_input(root, tmp_path):
    """W_n = W_o M with square, invertible W_o: A_n = A_o M."""
    M = np.random.default_rng(1).normal(size=(32, 32)) / 6
    turn = torch.from_numpy(M)
    pico.edit_model(
        root / "moved", root / "old",
        lambda tensors: {n: v @ turn if "q_proj" in n else v for n, v in tensors.items()},
    )  # fmt: skip
    found = carried(root, tmp_path, "simplelinear", new="moved", modules=methodcase.ROLES)
    for (_, role), (_, _, before, after, *_) in found.items():
        if role == "q":
            assert np.linalg.norm(after - before @ M) < 1e-3 * np.linalg.norm(before @ M)


@pytest.mark.parametrize("k", [3, 320])
def test_crosslora_projects_onto_the_new_weights_vectors(root, tmp_path, k):
    for old, new, before, after, *_ in carried(root, tmp_path, "crosslora", singular=k).values():
        U, _, Vt = np.linalg.svd(new, full_matrices=False)
        U, V = U[:, :k], Vt[:k].T
        assert close(after, U @ U.T @ before @ V @ V.T)
        if k == 320 and old.shape == (32, 32):
            assert close(after, before)  # full rank and square: SimpleCopy


def test_crosslora_of_unequal_shapes_maps_singular_directions(root, tmp_path):
    def vectors(W):
        U, s, Vt = np.linalg.svd(W, full_matrices=False)
        flip = np.sign(U[np.abs(U).argmax(axis=0), np.arange(U.shape[1])])
        return U * flip, s, Vt.T * flip

    found = carried(root, tmp_path, "crosslora", "wide", singular=9)
    for old, new, before, after, *_ in found.values():
        (U_o, _, V_o), (U_n, s, V_n) = vectors(old), vectors(new)
        inner = U_o[:, :9].T @ before @ V_o[:, :9]
        assert close(after, U_n[:, :9] @ inner @ V_n[:, :9].T)
    pair = methodcase.make_method_pair(root / "old", root / "wide", SAME_DEPTH, singular=9)
    first = next(methods.make_maps("crosslora", pair))
    s = np.linalg.svd(pico.load_layers(root / "wide")[0].q, compute_uv=False)
    assert np.isclose(first.notes["energy_kept_new"], (s[:9] ** 2).sum() / (s**2).sum())
    assert first.notes["unique"] == 0


@pytest.mark.parametrize("cross_terms", ["drop", "keep"])
def test_prolora_is_the_printed_formula(root, tmp_path, cross_terms):
    def split(W):
        U, s, Vt = np.linalg.svd(W)
        p = s / s.sum()
        k = round(np.exp(-(p * np.log(p)).sum()))
        P, Q = U[:, :k] @ U[:, :k].T, Vt[:k].T @ Vt[:k]
        return [P, np.eye(len(P)) - P], [Q, np.eye(len(Q)) - Q]

    found = carried(root, tmp_path, "prolora", cross_terms=cross_terms)
    for old, new, before, after, rank, kept in found.values():
        (P_o, Q_o), (P_n, Q_n) = split(old), split(new)
        expected = sum(
            P_n[i] @ P_o[i] @ before @ Q_o[j] @ Q_n[j]
            for i in range(2)
            for j in range(2)
            if cross_terms == "keep" or i == j
        )
        cut, share = truncated(expected, rank)
        assert close(after, cut) and np.isclose(kept, share, atol=1e-6)


def test_prolora_of_a_model_and_itself(root, tmp_path):
    """Kept cross terms give the adapter back; dropping them, as printed, loses energy."""
    for folder, cross_terms in (("a", "keep"), ("b", "drop")):
        (tmp_path / folder).mkdir()
        found = carried(root, tmp_path / folder, "prolora", "old", cross_terms=cross_terms)
        for _, _, before, after, *_ in found.values():
            if cross_terms == "keep":
                assert close(after, before)
            else:
                assert np.linalg.norm(after) < 0.999 * np.linalg.norm(before)


@pytest.mark.parametrize("method", EQUAL)
def test_unequal_shapes_are_refused_by_name(root, method):
    pair = methodcase.make_method_pair(root / "old", root / "wide", SAME_DEPTH)
    with pytest.raises(LoraportError, match=f"{method}.* can't serve this pair.*32.*48"):
        methods.make_maps(method, pair)


def test_unequal_depth_is_refused_and_free_sides_are_not():
    sizes = {"vocabulary": 9, "intermediate": 56, "heads": 4, "kv_heads": 2, "head_dim": 8}
    old = Dimensions(hidden=32, layers=2, **sizes)
    deeper, wider = (Dimensions(hidden=h, layers=n, **sizes) for h, n in ((32, 3), (40, 2)))
    settings = {"side": "input", "modules": ["q", "k", "v", "gate", "up"]}
    with pytest.raises(LoraportError, match="2 and 3 layers"):
        methods.check_pair("simplecopy", old, deeper, settings)
    methods.check_pair("simplelinear", old, wider, settings)
    with pytest.raises(LoraportError, match="output side"):
        methods.check_pair("simplelinear", old, wider, {**settings, "side": "output"})
    methods.check_pair("crosslora", old, wider, settings)


def test_every_method_says_what_it_needs_and_reads():
    for name in methods.names():
        assert set(methods.needs(name)) <= set(methods.INGREDIENTS)
        assert {"modules", "device"} <= set(methods.settings(name))
    assert {*EQUAL, "crosslora", "aligned", "lorasuite"} <= set(methods.names())
