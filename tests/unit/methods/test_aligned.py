"""Aligned transfer recovers an adapter exactly wherever the new model is the old one rewritten."""

from dataclasses import replace
from pathlib import Path

import h5py
import methodcase
import numpy as np
import pico
import pytest
import torch
import twins
from twins import PATH

from loraport.artifacts import sha256
from loraport.calibration import ridge as fits
from loraport.calibration.batches import HOLD_EVERY, make_batches, paired_tokens
from loraport.calibration.moments import Moments
from loraport.calibration.ridge import (
    RIDGE_GRID,
    SLIGHT_RIDGE,
    as_stored,
    fit,
    procrustes,
    reading,
    solve,
    writing,
)
from loraport.calibration.sites import READS
from loraport.calibration.solutions import Regression
from loraport.errors import LoraportError
from loraport.methods import make_maps
from loraport.transfer.maps import open_maps, write_maps


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("aligned")
    pico.make_model(root / "old", seed=1, **twins.SIZES)
    pico.make_adapter(root / "lora", root / "old", seed=3)
    return root


@pytest.fixture(scope="module", params=list(twins.TWINS))
def twin(request, root) -> tuple[Path, list]:
    new = twins.make_twin(root / request.param, root / "old", request.param)
    return new, methodcase.collect_moments(root / "old", new, PATH, pico.texts(60))


def run(root: Path, folder: Path, twin: tuple[Path, list], **settings) -> float:
    new, moments = twin
    pair = methodcase.make_method_pair(root / "old", new, PATH, moments, **settings)
    methodcase.transferred(folder, "aligned", pair, root / "lora")
    return methodcase.lost(root / "old", new, root / "lora", folder / "adapter")


@pytest.mark.parametrize(
    "settings", [{}, {"ridge": 1e-9, "prior": "zero"}, {"ridge": 1e-9, "writes": "module"}]
)
def test_a_model_rewritten_gets_the_whole_adapter(root, twin, tmp_path, settings):
    assert run(root, tmp_path, twin, **settings) < 1e-3


def test_a_heavy_ridge_loses_most_towards_zero_and_less_towards_a_rotation(root, twin, tmp_path):
    (tmp_path / "rotation").mkdir()
    to_zero = run(root, tmp_path, twin, ridge=1.0, prior="zero")
    to_rotation = run(root, tmp_path / "rotation", twin, ridge=1.0, prior="procrustes")
    assert to_zero > 0.5 and to_rotation < to_zero


def test_updates_of_a_model_and_itself_are_the_adapters_own(root, tmp_path):
    moments = methodcase.collect_moments(root / "old", root / "old", PATH, pico.texts(60))
    pair = methodcase.make_method_pair(root / "old", root / "old", PATH, moments, ridge=1e-9)
    weights, _ = methodcase.transferred(tmp_path, "aligned", pair, root / "lora")
    before = pico.load_adapter(root / "old", root / "lora")
    assert {(layer, pico.PATHS[role]) for layer, role in before} == set(weights)
    for (layer, role), (B, A, s) in before.items():
        carried = methodcase.dense(weights[layer, pico.PATHS[role]])
        assert np.linalg.norm(carried - s * B @ A) < 1e-3 * np.linalg.norm(s * B @ A)


def test_other_depth_width_and_tokenizer_are_served(pico_pair, tmp_path):
    path = [(0, 0), (1, 1), (2, 3)]
    moments = methodcase.collect_moments(pico_pair.old, pico_pair.new, path, pico.texts(40))
    pair = methodcase.make_method_pair(pico_pair.old, pico_pair.new, path, moments)
    weights, report = methodcase.transferred(tmp_path, "aligned", pair, pico_pair.adapter)
    served = {layer for (layer, _), each in weights.items() if each.norm() > 0}
    assert served == {0, 1, 3}
    assert all(each.rank == 4 for each in weights.values())
    assert not report["left_behind"]


@pytest.mark.parametrize("writes", ["stream", "module"])
def test_maps_are_the_same_bytes_however_many_layers_are_fitted_at_once(
    pico_pair, tmp_path, writes
):
    path = [(0, 0), (1, 1), (1, 2), (2, 3)]
    moments = methodcase.collect_moments(pico_pair.old, pico_pair.new, path, pico.texts(20))
    pair = methodcase.make_method_pair(pico_pair.old, pico_pair.new, path, moments, writes=writes)
    files = [tmp_path / f"maps_{workers}.h5" for workers in (1, 2, 3)]
    for workers, file in enumerate(files, 1):
        write_maps(file, "aligned", {}, make_maps("aligned", replace(pair, workers=workers)))
    assert len({sha256(file) for file in files}) == 1
    with open_maps(files[2]) as maps:
        assert list(maps.layers()) == [0, 1, 2, 3]


def test_what_ridge_maps_shrink_is_made_up_for_by_the_shares_they_predict(pico_pair, tmp_path):
    path = [(0, 0), (2, 3)]
    moments = methodcase.collect_moments(pico_pair.old, pico_pair.new, path, pico.texts(20))
    pair = methodcase.make_method_pair(pico_pair.old, pico_pair.new, path, moments)
    gains = []
    made = {(each.layer, each.role): each for each in make_maps("aligned", pair)}
    for (_, layer), held in zip(path, moments, strict=True):
        fits = {
            role: fit(*(reading(part) for part in held[READS[role]]), "auto", "procrustes")
            for role in pico.PATHS
        }
        # the four sites that are read, by a role each; a share below a tenth counts as one
        shares = [max(1 - fits[role].error, 0.1) for role in ("q", "o", "up", "down")]
        gains.append((sum(shares) / 4) ** -0.75)
        for role in pico.PATHS:
            right = made[layer, role].terms[0].right[0].matrix
            whole = gains[-1] * fits[role].matrix
            assert torch.allclose(right, whole.half().double())  # of so large an error
            assert made[layer, role].notes["gain"] == pytest.approx(gains[-1])
    assert min(gains) > 1.1 and gains[0] != gains[1]


def random_moments(seed: int, site: str, rows: int, old: int, new: int, M=None) -> tuple:
    """Moments of random rows x, y = M x + noise; with the rows."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, old)) + 2
    y = rng.normal(size=(rows, new)) - 1 if M is None else x @ M.T + 3
    moments = Moments.empty(site, old, new, "cpu")
    for part in np.array_split(np.arange(rows), 3):
        moments.add(torch.from_numpy(x[part]), torch.from_numpy(y[part]))
    return moments, x, y


@pytest.mark.parametrize("ridge", [1e-6, 0.3])
@pytest.mark.parametrize("prior", ["zero", "procrustes"])
def test_maps_are_the_printed_formula(ridge, prior):
    """R and L by dense inverses over the rows themselves."""
    (part, x1, y1), (held, x2, y2) = (random_moments(s, "inner", 50, 7, 5) for s in (0, 1))
    x, y = np.vstack([x1, x2]), np.vstack([y1, y2])

    def literally(target, source):
        U, sigma, Vt = np.linalg.svd(target.T @ source, full_matrices=False)
        c = sigma.sum() / np.linalg.norm(source @ (U @ Vt).T) ** 2
        P = c * U @ Vt if prior == "procrustes" else 0.0
        gram = source.T @ source
        size = ridge * np.trace(gram) / len(gram)
        return (target.T @ source + size * P) @ np.linalg.inv(gram + size * np.eye(len(gram)))

    R = fit(reading(part), reading(held), ridge, prior).matrix.numpy()
    assert np.allclose(R, literally(x, y), atol=1e-8)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    # the two parts are centred each by itself
    x[:50], y[:50] = x1 - x1.mean(axis=0), y1 - y1.mean(axis=0)
    x[50:], y[50:] = x2 - x2.mean(axis=0), y2 - y2.mean(axis=0)
    L = fit(writing(part), writing(held), ridge, prior).matrix.numpy()
    assert np.allclose(L, literally(y, x), atol=1e-8)


def test_a_planted_affine_map_is_found_behind_its_bias():
    M = np.random.default_rng(5).normal(size=(5, 7))
    part, held = (random_moments(seed, "inner", 40, 7, 5, M)[0] for seed in (0, 1))
    found = fit(writing(part), writing(held), 1e-12)
    assert np.allclose(found.matrix.numpy(), M, atol=1e-6)
    assert found.rank == 7 and abs(found.error) < 1e-9


@pytest.mark.parametrize("prior", ["zero", "procrustes"])
def test_held_out_error_is_that_of_the_rows(prior):
    (part, *_), (held, x, y) = (random_moments(seed, "inner", 30, 7, 5) for seed in (0, 1))
    found = fit(reading(part), reading(held), 0.1, prior)
    alone = Regression(part.cross, part.gram_new, part.square_old)
    nothing = Regression(0 * part.cross, 0 * part.gram_new, 0.0)
    M = fit(alone, nothing, 0.1, prior).matrix.numpy()
    error = np.linalg.norm(x - y @ M.T) ** 2 / np.linalg.norm(x) ** 2
    assert np.isclose(found.error, error)


def test_ridge_is_small_where_the_relation_is_exact_and_large_where_there_is_none():
    M = np.random.default_rng(5).normal(size=(5, 7))
    exact = [random_moments(seed, "inner", 40, 7, 5, M)[0] for seed in (0, 1)]
    noise = [random_moments(seed, "inner", 40, 7, 5)[0] for seed in (0, 1)]
    assert fit(*map(writing, exact)).ridge == min(RIDGE_GRID)
    assert fit(*map(writing, noise)).ridge == max(RIDGE_GRID)


def test_a_ridge_gives_way_where_the_relation_is_exact_and_nowhere_else():
    M = np.random.default_rng(5).normal(size=(5, 7))
    exact = [random_moments(seed, "inner", 40, 7, 5, M)[0] for seed in (0, 1)]
    assert fit(*map(writing, exact), 0.1, spare_exact=True).ridge == SLIGHT_RIDGE
    assert fit(*map(writing, exact), 0.1).ridge == 0.1
    rows = [random_moments(seed, "inner", 40, 7, 5, M)[1:] for seed in (0, 1)]
    noisy = [Moments.empty("inner", 7, 5, "cpu") for _ in rows]
    for moments, (x, y) in zip(noisy, rows, strict=True):
        noise = 0.01 * np.random.default_rng(8).normal(size=y.shape)
        moments.add(torch.from_numpy(x), torch.from_numpy(y + noise))
    assert fit(*map(writing, noisy), 0.1, spare_exact=True).ridge == 0.1
    thin = Regression(torch.from_numpy(M), torch.eye(7).double(), float((M**2).sum()))
    assert np.allclose(solve(thin, 0.5).numpy(), M / 1.5)
    assert np.allclose(solve(thin, 0.5, spare_exact=True).numpy(), M)
    lacking = Regression(thin.cross, thin.gram, 1.01 * thin.square)
    assert np.allclose(solve(lacking, 0.5, spare_exact=True).numpy(), M / 1.5)


def test_procrustes_finds_a_planted_scaled_rotation_and_drops_null_directions():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 6)) @ np.diag([1, 1, 1, 1, 0, 0])
    Q = np.linalg.qr(rng.normal(size=(8, 6)))[0]
    y = 0.7 * x @ Q.T
    P = procrustes(Regression(torch.from_numpy(y.T @ x), torch.from_numpy(x.T @ x), 1.0)).numpy()
    assert np.allclose(P, 0.7 * Q @ np.diag([1, 1, 1, 1, 0, 0]), atol=1e-9)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ([(0, 0), (0, 2), (2, 5)], [(0, 0), (0, 2), (2, 3), (3, 5)], [(1, 1), (2, 3)]),
        ([(0, 2), (2, 5)], [(0, 2), (2, 5)], [(1, 1)]),  # no <s>: the first token is one of text
        ([(0, 0), (0, 1), (0, 1), (1, 2)], [(0, 0), (0, 1), (1, 2)], [(2, 1), (3, 2)]),  # bytes
        ([(0, 0), (0, 3), (3, 3)], [(0, 0), (0, 1), (1, 3), (3, 3)], [(1, 2)]),  # </s>
        ([(0, 0), (0, 3)], [(0, 0), (0, 4)], []),
    ],
)
def test_tokens_are_paired_by_their_last_character(old, new, expected):
    assert paired_tokens(old, new) == expected


def test_every_fifth_text_is_held_out_and_padding_never_counts():
    tokenizer = pico.make_tokenizer(1, 200)
    texts = pico.texts(20)
    batches = make_batches((tokenizer, tokenizer), texts, 64, 4)
    counts = {"fit": 0, "held": 0}
    for batch in batches:
        text, place = batch.rows[0]
        assert batch.inputs[0]["attention_mask"][text, place].all() and (place > 0).all()
        counts[batch.part] += len(place)
    sizes = [len(tokenizer(text).input_ids) - 1 for text in texts]
    assert counts["held"] == sum(sizes[HOLD_EVERY - 1 :: HOLD_EVERY])
    assert sum(counts.values()) == sum(sizes)


def test_texts_without_a_common_token_end_are_refused():
    tokenizer = pico.make_tokenizer(1, 200)
    with pytest.raises(LoraportError, match="no token of the calibration texts"):
        make_batches((tokenizer, tokenizer), [""] * 5, 64, 4)


def test_moments_do_not_depend_on_the_batches(pico_pair):
    """The same sums from one text a batch as from many, and they are those of plain hooks."""
    texts = pico.texts(12)
    one = methodcase.collect_moments(pico_pair.old, pico_pair.new, [(0, 0)], texts)[0]
    batch = methodcase.collect_moments(pico_pair.old, pico_pair.new, [(0, 0)], texts[::-1])[0]
    for site, parts in one.items():
        whole, other = parts[0] + parts[1], batch[site][0] + batch[site][1]
        assert torch.allclose(whole.cross, other.cross, rtol=1e-4, atol=1e-3), site
        assert whole.count == other.count > 0


def test_maps_as_a_gpu_makes_them_are_those_of_a_cpu(pico_pair, monkeypatch):
    path, texts = [(0, 0), (1, 2)], pico.texts(60)
    sums = methodcase.collect_moments(pico_pair.old, pico_pair.new, path, texts)
    pair = methodcase.make_method_pair(pico_pair.old, pico_pair.new, path, sums)
    expected = list(make_maps("aligned", pair))
    monkeypatch.setattr(fits, "on_gpu", lambda values: True)
    for one, other in zip(expected, make_maps("aligned", pair), strict=True):
        for side in ("left", "right"):
            (a,), (b,) = (getattr(each.terms[0], side) for each in (one, other))
            assert b.matrix.dtype == torch.float16 and a.name == b.name
            assert (a.matrix - b.matrix).norm() < 1e-6 * a.matrix.norm()
        for name, value in one.notes.items():
            assert other.notes[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name


def test_a_map_whose_error_is_far_above_that_of_float16_is_rounded_to_it():
    matrix = torch.randn(40, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(as_stored(matrix, 1e-4), matrix)
    rounded = as_stored(matrix, 1e-2)
    assert torch.equal(rounded, matrix.half().double()) and not torch.equal(rounded, matrix)
    for wide in (1e6 * matrix, 1e-9 * matrix):  # which float16 does not reach
        assert torch.equal(as_stored(wide, 1e-2), wide)


def test_a_map_leaves_a_gpu_in_the_bytes_that_it_takes_in_a_file(monkeypatch):
    monkeypatch.setattr(fits, "on_gpu", lambda values: True)
    matrix = torch.randn(40, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(as_stored(matrix, 1e-2), matrix.half())
    assert torch.equal(as_stored(matrix, 1e-4), matrix.float())
    assert torch.equal(as_stored(1e6 * matrix, 1e-2), (1e6 * matrix).float())


def test_files_hold_coarse_maps_in_two_bytes_and_exact_ones_in_four(pico_pair, root, tmp_path):
    held = {}
    path = [(0, 0), (1, 1)]
    for name, old, new in (
        ("other", pico_pair.old, pico_pair.new),
        ("itself", root / "old", root / "old"),
    ):
        moments = methodcase.collect_moments(old, new, path, pico.texts(60))
        pair = methodcase.make_method_pair(old, new, path, moments)
        write_maps(tmp_path / name, "aligned", {}, make_maps("aligned", pair))
        with h5py.File(tmp_path / name) as file:
            held[name] = {each.dtype.itemsize for each in file["shared"].values()}
    assert held == {"other": {2}, "itself": {4}}
