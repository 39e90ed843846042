"""Theseus: planted rotations are found, and a model rewritten by a rotation keeps the effect."""

from pathlib import Path

import methodcase
import numpy as np
import pico
import pytest
import torch
import twins
from twins import PATH

from loraport.calibration.moments import Moments
from loraport.calibration.ridge import polar
from loraport.calibration.sites import needed, width
from loraport.methods import make_maps

ISOMETRIES = ["same", "permuted", "padded", "qwen2"]  # of what modules read and write
THIN = ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("theseus")
    pico.make_model(root / "old", seed=1, **twins.SIZES)
    pico.make_adapter(root / "lora", root / "old", seed=3)
    pico.make_adapter(root / "thin", root / "old", seed=3, targets=THIN)
    return root


def run(root: Path, folder: Path, name: str, adapter: str) -> tuple[Path, dict]:
    """Twin of that name, and the adapter carried to it."""
    new = twins.make_twin(folder / name, root / "old", name)
    moments = methodcase.collect_moments(root / "old", new, PATH, pico.texts(60))
    pair = methodcase.make_method_pair(root / "old", new, PATH, moments)
    return new, methodcase.transferred(folder, "theseus", pair, root / adapter)[0]


def test_a_polar_factor_is_the_nearest_rotation_without_null_directions():
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.normal(size=(8, 6)))[0]
    half = rng.normal(size=(6, 4))
    spanned = half @ np.linalg.pinv(half)
    found = polar(torch.from_numpy(Q @ half @ half.T)).numpy()
    assert np.allclose(found, Q @ spanned, atol=1e-9)
    assert not polar(torch.zeros(3, 2).double()).any()


def test_planted_rotations_of_every_site_are_found(pico_pair):
    """With Y_n = Y_o Q in each site, of unlike widths, L is Qᵀ and R is Q; gate and up by W."""
    pair = methodcase.make_method_pair(pico_pair.old, pico_pair.new, [(0, 0)])
    rng, planted, moments = np.random.default_rng(0), {}, {}
    for site in needed(pair.old.architecture.roles):
        old, new = width(pair.old.dims, site), width(pair.new.dims, site)
        Q = np.linalg.qr(rng.normal(size=(max(old, new), min(old, new))))[0]
        planted[site] = Q if old > new else Q.T
        moments[site] = (Moments.empty(site, old, new, "cpu"), Moments.empty(site, old, new, "cpu"))
        for part in moments[site]:  # of one covariance in all directions
            x = np.linalg.qr(rng.normal(size=(200, old)))[0]
            part.add(torch.from_numpy(x), torch.from_numpy(x @ planted[site]))
    pair = methodcase.make_method_pair(pico_pair.old, pico_pair.new, [(0, 0)], [moments])
    read = {"q": "attention", "k": "attention", "v": "attention", "o": "heads", "gate": "mlp",
            "up": "mlp", "down": "inner"}  # fmt: skip
    layers = pico.load_layers(pico_pair.old)[0], pico.load_layers(pico_pair.new)[0]
    made = {each.role: each for each in make_maps("theseus", pair)}
    assert set(made) == set(read)
    for role, each in made.items():
        old = getattr(layers[0], role).shape
        right = each.terms[0].carry_right(torch.eye(old[1]).double()).numpy()
        assert np.allclose(right, planted[read[role]], atol=1e-9), role
        left = each.terms[0].carry_left(torch.eye(old[0]).double()).numpy()
        if role in ("gate", "up"):
            wide = getattr(layers[0], role) @ planted["mlp"] @ getattr(layers[1], role).T
            U, s, Vt = np.linalg.svd(wide)
            kept = s > 1e-9 * s[0]
            k = int(kept.sum())
            assert np.allclose(left, (U[:, :k] @ Vt[:k]).T, atol=1e-8), role
        else:
            assert np.allclose(left, planted[role].T, atol=1e-9), role


def test_a_model_and_itself_keep_the_update_where_outputs_fill_their_space(root, tmp_path):
    """gate and up write f numbers by a weight of rank d: what is outside of it is lost."""
    _, weights = run(root, tmp_path, "same", "lora")
    layers = pico.load_layers(root / "old")
    for (layer, role), (B, A, s) in pico.load_adapter(root / "old", root / "lora").items():
        expected = s * B @ A
        if role in ("gate", "up"):
            W = getattr(layers[layer], role)
            expected = W @ np.linalg.pinv(W) @ expected
        got = methodcase.dense(weights[layer, pico.PATHS[role]])
        assert np.linalg.norm(got - expected) < 1e-4 * np.linalg.norm(expected), role


@pytest.mark.parametrize("name", ISOMETRIES)
def test_a_model_rewritten_by_isometries_keeps_the_whole_effect(root, tmp_path, name):
    new, _ = run(root, tmp_path, name, "thin")
    assert methodcase.lost(root / "old", new, root / "thin", tmp_path / "adapter") < 1e-3


def test_a_norm_weight_that_moved_is_no_rotation_and_costs_a_part(root, tmp_path):
    """The rotated twin reads x without the norm's weights: no isometry makes up for that."""
    new, _ = run(root, tmp_path, "rotated", "thin")
    assert 1e-3 < methodcase.lost(root / "old", new, root / "thin", tmp_path / "adapter") < 0.5
