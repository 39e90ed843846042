"""CCA, PWCCA and Procrustes similarity: literal formulas, planted answers, invariances."""

import numpy as np
import pytest
import scipy.linalg
import torch

from loraport.artifacts import read_h5
from loraport.errors import LoraportError
from loraport.mapping.similarity import MEASURES, canonical, similarities
from loraport.mapping.similarity_file import write_similarity

N, P, Q = 60, 7, 5


def features(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two sets that share two directions, centred."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(N, P)), rng.normal(size=(N, Q))
    y[:, :2] = x[:, :2] + 0.5 * y[:, :2]
    return x - x.mean(axis=0), y - y.mean(axis=0)


def measure(how: str, x: np.ndarray, y: np.ndarray) -> float:
    return MEASURES[how](torch.from_numpy(x), torch.from_numpy(y))


def by_eigenvalues(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Canonical correlations and directions of x from `Σxx⁻¹ Σxy Σyy⁻¹ Σyx`."""
    inner = x.T @ y @ np.linalg.inv(y.T @ y) @ y.T @ x
    values, vectors = scipy.linalg.eigh(inner, x.T @ x)
    order = np.argsort(-values)[: min(P, Q)]
    return np.sqrt(np.clip(values[order], 0, 1)), vectors[:, order]


def test_correlations_are_those_of_the_generalised_eigenproblem():
    x, y = features()
    rho, variates, _ = canonical(torch.from_numpy(x), torch.from_numpy(y))
    expected, directions = by_eigenvalues(x, y)
    assert np.allclose(rho.numpy(), expected, atol=1e-9)
    overlap = np.abs(np.sum((x @ directions) * variates.numpy(), axis=0))
    assert np.allclose(overlap, 1, atol=1e-6)
    assert np.isclose(measure("cca", x, y), expected.mean())


def test_pwcca_is_the_printed_sum():
    x, y = features()
    rho, directions = by_eigenvalues(x, y)
    alpha = np.abs((x @ directions).T @ x).sum(axis=1)
    assert np.isclose(measure("pwcca", x, y), (alpha * rho).sum() / alpha.sum())
    assert not np.isclose(measure("pwcca", x, y), measure("pwcca", y, x))


def test_procrustes_is_one_minus_half_the_distance_of_the_best_rotation():
    x, y = features()
    y = np.hstack([y, np.zeros((N, P - Q))])
    a, b = x / np.linalg.norm(x), y / np.linalg.norm(y)
    R, _ = scipy.linalg.orthogonal_procrustes(a, b)
    assert np.isclose(measure("procrustes", x, y), 1 - np.linalg.norm(a @ R - b) ** 2 / 2)


@pytest.mark.parametrize("how", list(MEASURES))
def test_a_rotation_is_seen_through_and_noise_is_not_alike(how):
    x, y = features()
    Q_x = np.linalg.qr(np.random.default_rng(1).normal(size=(P, P)))[0]
    assert np.isclose(measure(how, x, 3 * x @ Q_x), 1)
    assert np.isclose(measure(how, x @ Q_x, y), measure(how, x, y)) or how == "pwcca"
    noise = np.random.default_rng(2).normal(size=(N, Q))
    assert measure(how, x, noise - noise.mean(axis=0)) < measure(how, x, y) < 1


def test_cca_does_not_see_a_linear_map_and_procrustes_does():
    x, _ = features()
    stretched = x @ np.diag(np.arange(1, P + 1.0))
    assert np.isclose(measure("cca", x, stretched), 1)
    assert measure("procrustes", x, stretched) < 0.99


@pytest.mark.parametrize("how", list(MEASURES))
def test_features_without_variation_resemble_nothing(how):
    x, _ = features()
    assert measure(how, x, np.zeros((N, Q))) == 0


@pytest.mark.parametrize("how", list(MEASURES))
def test_all_layer_pairs_uncentred_and_too_few_examples(how):
    x, y = features()
    old, new = torch.from_numpy(np.stack([x, x + 9])), torch.from_numpy(np.stack([y - 4] * 3))
    found = similarities(old.float(), new.float(), how)
    assert found.shape == (2, 3)
    assert np.allclose(found.numpy(), measure(how, x, y), atol=1e-5)
    with pytest.raises(LoraportError, match="too few calibration texts"):
        similarities(old[:, :7], new[:, :7], how)


def test_stored_sums_are_those_of_the_features_as_they_are(tmp_path):
    """HSIC grows as both Grams do: by 2¹⁰ each where features grow by 2⁵."""
    x, y = (torch.from_numpy(each)[None] for each in features())
    stored = []
    for size in (1, 32):
        path = tmp_path / f"{size}.h5"
        write_similarity(path, {}, x * size, y, measure="cka", minibatch=20, about={})
        with read_h5(path, "cka") as file:
            stored.append({name: file[name][...] for name in file})
    once, larger = stored
    assert np.array_equal(larger["hsic_cross"], once["hsic_cross"] * 2**10)
    assert np.array_equal(larger["hsic_old"], once["hsic_old"] * 2**20)
    assert np.array_equal(larger["hsic_new"], once["hsic_new"])
    assert np.array_equal(larger["similarity"], once["similarity"])
    cross, own = once["hsic_cross"], np.sqrt(once["hsic_old"][:, None] * once["hsic_new"])
    assert np.allclose(once["similarity"], cross / own, rtol=1e-12)
