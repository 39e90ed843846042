"""Fits as a GPU makes them, on a CPU: by Cholesky factors and polar steps, equal to the others."""

import math

import pytest
import torch

from loraport.calibration import ridge
from loraport.calibration.moments import Moments
from loraport.calibration.ridge import RIDGE_GRID, fit, fit_parts, polar, reading, writing
from loraport.calibration.solutions import Factored, Path, Regression
from loraport.numerics.polar import polar_by_steps

SIZES = [(40, 90, 300), (90, 40, 300), (50, 120, 60), (64, 64, 500)]  # targets, sources, tokens
HOW = [
    {"ridge": "auto", "prior": "procrustes"},
    {"ridge": "auto", "prior": "zero"},
    {"ridge": 1e-3, "prior": "zero", "spare_exact": True},
    {"ridge": 1.0, "prior": "procrustes", "spare_exact": True},
]


def _regression(targets: int, sources: int, tokens: int, noise: float, seed: int) -> Regression:
    """Of sources whose deviations span three decades, through one map, with noise."""
    random = torch.Generator().manual_seed(seed)

    def normal(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=random, dtype=torch.float64)

    relation = torch.randn(
        sources, targets, generator=torch.Generator().manual_seed(9), dtype=torch.float64
    )
    x = normal(tokens, sources) * torch.logspace(0, -3, sources, dtype=torch.float64)
    y = x @ relation + noise * normal(tokens, targets)
    return Regression(y.T @ x, x.T @ x, float(y.square().sum()))


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("noise", [0.1, 0.0])
def test_a_fit_is_that_by_eigenvectors(monkeypatch, sizes, how, noise):
    targets, sources, tokens = sizes
    part = _regression(targets, sources, tokens, noise, 0)
    held = _regression(targets, sources, tokens // 3, noise, 1)
    before = [each.clone() for each in (part.cross, part.gram, held.cross, held.gram)]
    expected = fit(part, held, **how)
    monkeypatch.setattr(ridge, "on_gpu", lambda values: True)
    found = fit(part, held, **how)
    assert found.ridge == expected.ridge
    assert found.error == pytest.approx(expected.error, abs=1e-10)
    assert found.rank == expected.rank
    assert (found.matrix - expected.matrix).norm() < 1e-7 * expected.matrix.norm()
    for each, kept in zip((part.cross, part.gram, held.cross, held.gram), before, strict=True):
        assert torch.equal(each, kept)


def test_a_site_that_is_all_zero_gets_a_map_of_zero(monkeypatch):
    nothing = Regression(torch.zeros(3, 5).double(), torch.zeros(5, 5).double(), 0.0)
    expected = fit(nothing, nothing, "auto", "procrustes")
    monkeypatch.setattr(ridge, "on_gpu", lambda values: True)
    found = fit(nothing, nothing, "auto", "procrustes")
    assert torch.equal(found.matrix, expected.matrix)
    assert (found.error, found.rank) == (expected.error, expected.rank)


@pytest.mark.parametrize(("height", "width", "rank"), [(50, 80, 50), (80, 50, 50), (90, 90, 20),
                                                       (60, 80, 20)])  # fmt: skip
@pytest.mark.parametrize("decades", [0, 4, 8])
def test_polar_steps_give_the_isometry_of_the_svd(height, width, rank, decades):
    random = torch.Generator().manual_seed(height + rank)
    u, v = (
        torch.linalg.qr(torch.randn(size, rank, generator=random, dtype=torch.float64))[0]
        for size in (height, width)
    )
    matrix = u @ torch.diag(torch.logspace(2, 2 - decades, rank, dtype=torch.float64)) @ v.T
    found = polar_by_steps(matrix)
    assert (found - u @ v.T).norm() < 10.0 ** (decades - 13) * rank
    assert (found - polar(matrix)).norm() < 10.0 ** (decades - 13) * rank


def test_polar_steps_of_zero_are_zero():
    assert not polar_by_steps(torch.zeros(4, 7, dtype=torch.float64)).any()


def test_ridges_are_tried_near_the_best_alone(monkeypatch):
    part = _regression(30, 60, 200, 0.1, 0)
    held = _regression(30, 60, 100, 0.1, 1)
    expected = Path(part, None).errors(held, RIDGE_GRID)
    tried = []
    error = Factored._error
    monkeypatch.setattr(
        Factored,
        "_error",
        lambda self, held, ridge: tried.append(ridge) or error(self, held, ridge),
    )
    place, least = Factored(part, None).best(held, RIDGE_GRID)
    assert place == min(range(len(expected)), key=expected.__getitem__)
    assert least == pytest.approx(expected[place], abs=1e-10)
    assert len(tried) == len(set(tried)) <= 8 < len(RIDGE_GRID)


@pytest.mark.parametrize("best", range(len(RIDGE_GRID)))
def test_the_best_ridge_is_found_wherever_it_is(monkeypatch, best):
    log = [math.log(ridge) for ridge in RIDGE_GRID]
    monkeypatch.setattr(
        Factored, "_error", lambda self, held, ridge: abs(math.log(ridge) - log[best])
    )
    part = _regression(3, 5, 20, 0.1, 0)
    assert Factored(part, None).best(part, RIDGE_GRID) == (best, 0.0)


@pytest.mark.parametrize("side", [reading, writing])
@pytest.mark.parametrize("as_on_gpu", [False, True])
@pytest.mark.parametrize("device", [None, "cpu"])
def test_moments_are_fitted_and_left_as_they_are(monkeypatch, side, as_on_gpu, device):
    monkeypatch.setattr(ridge, "on_gpu", lambda values: as_on_gpu)
    random = torch.Generator().manual_seed(3)
    parts = tuple(Moments.empty("inner", 12, 20, "cpu") for _ in range(2))
    for each in parts:
        each.add(torch.randn(50, 12, generator=random), torch.randn(50, 20, generator=random))
    before = [[each.cross.clone(), each.gram_old.clone(), each.gram_new.clone()] for each in parts]
    found = fit_parts(side, parts, "auto", "procrustes", device=device, ranked=False)
    for each, kept in zip(parts, before, strict=True):
        now = [each.cross, each.gram_old, each.gram_new]
        assert all(torch.equal(a, b) for a, b in zip(now, kept, strict=True))
    expected = fit(side(parts[0]), side(parts[1]), "auto", "procrustes")
    assert torch.equal(found.matrix, expected.matrix)
    assert (found.ridge, found.error, found.rank) == (expected.ridge, expected.error, 0)
