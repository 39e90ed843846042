"""Unshared tokens as sums of shared ones: planted sums are found, and rows follow them."""

import kindcase
import numpy as np
import pico
import pytest
import torch
from inprocess import PairRun
from peft import LoraConfig

from loraport.adapters.files import read_adapter
from loraport.mapping.omp import approximate_unshared, matching_pursuit
from loraport.models.side import Side
from loraport.models.spec import open_model
from loraport.models.tokens import read_vocabulary
from loraport.transfer.embedding_file import Tokens
from loraport.transfer.vocabulary import carry_from


def planted(seed: int, count: int, width: int, sums: int, sparse: int):
    """Random atoms, and sums of a few of them: (atoms, targets, coefficients (sums, count))."""
    rng = np.random.default_rng(seed)
    atoms, weights = rng.normal(size=(count, width)), np.zeros((sums, count))
    for row in weights:
        row[rng.choice(count, sparse, replace=False)] = rng.uniform(0.5, 2, sparse)
    return torch.from_numpy(atoms), torch.from_numpy(weights @ atoms), weights


def test_a_sum_of_few_atoms_is_found_exactly():
    atoms, targets, weights = planted(0, 200, 64, 20, 3)
    picks, coefficients, left = matching_pursuit(targets, atoms, 8)
    found = np.zeros_like(weights)
    np.put_along_axis(found, picks.numpy(), coefficients.numpy(), axis=1)
    assert np.allclose(found, weights, atol=1e-9)
    assert left.norm() < 1e-9 * targets.norm()
    assert ((coefficients != 0).sum(dim=1) == 3).all()  # and nothing beside


def test_every_step_is_the_least_squares_fit_of_what_is_taken():
    rng = np.random.default_rng(1)
    atoms, targets = (torch.from_numpy(rng.normal(size=(n, 12))) for n in (30, 5))
    picks, coefficients, left = matching_pursuit(targets, atoms, 6)
    for row, target in enumerate(targets.numpy()):
        taken: list[int] = []
        rest = target
        unit = atoms.numpy() / np.linalg.norm(atoms.numpy(), axis=1, keepdims=True)
        for _ in range(6):
            taken.append(int(np.abs(unit @ rest).argmax()))
            chosen = atoms.numpy()[taken].T
            solution = np.linalg.lstsq(chosen, target)[0]
            rest = target - chosen @ solution
        assert picks[row].tolist() == taken
        assert np.allclose(coefficients[row].numpy(), solution)
        assert np.allclose(left[row].numpy(), rest)


def test_doubled_and_empty_atoms_and_rows_of_zero_leave_no_nan():
    atoms = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 0, 0], [0, 2.0, 0]]).double()
    targets = torch.tensor([[3.0, 4.0, 0], [0, 0, 0], [0, 0, 5.0]]).double()
    picks, coefficients, left = matching_pursuit(targets, atoms, 64)
    assert picks.shape == (3, 3) and torch.isfinite(coefficients).all()
    made = (coefficients[:, :, None] * atoms[picks]).sum(dim=1)
    assert torch.allclose(made[:2], targets[:2]) and not made[2].any()
    assert torch.allclose(left, targets - made)


@pytest.mark.parametrize("products", [1 << 24, 100])
def test_only_tokens_that_the_tokenizer_writes_are_approximated(tmp_path, monkeypatch, products):
    monkeypatch.setattr("loraport.mapping.omp.PRODUCTS_AT_ONCE", products)  # in few or many blocks
    model = open_model(pico.make_model(tmp_path / "model", seed=1, hidden=16, intermediate=24,
                                       layers=1, heads=2, kv_heads=2))  # fmt: skip
    written = sorted(read_vocabulary(model.directory).raw.values())
    shared = np.array(written[::2])
    found = approximate_unshared(model, shared, count=4)
    assert found.ids.tolist() == written[1::2]
    assert found.picks.shape == found.coefficients.shape == (len(found.ids), 4)
    table = model.checkpoint().read("model.embed_tokens.weight").astype(np.float64)
    made = np.einsum("mk,mkd->md", found.coefficients, table[shared[found.picks]])
    share = np.linalg.norm(table[found.ids] - made) / np.linalg.norm(table[found.ids])
    assert found.residual == pytest.approx(share) and 0 < share < 1
    assert approximate_unshared(model, np.array(written)).coefficients.shape[0] == 0


def test_rows_of_unshared_tokens_are_the_same_sums_of_shared_rows():
    rng = np.random.default_rng(2)
    update, picks = rng.normal(size=(6, 3)), np.array([[0, 1], [2, 2]])
    weights = np.array([[0.5, 2.0], [3.0, 0.0]])
    tokens = Tokens(np.eye(4), np.array([5, 0, 2]), np.array([1, 4, 3]), np.array([0, 6]), picks,
                    weights)  # fmt: skip
    rows = tokens.spread(update, 8)
    assert np.allclose(rows[[1, 4, 3]], update[[5, 0, 2]])
    assert np.allclose(rows[[0, 6]], [0.5 * update[5] + 2 * update[0], 3 * update[2]], atol=1e-6)
    assert not rows[[2, 5, 7]].any()
    assert np.allclose(tokens.spread(update[:, 0], 8), rows[:, 0])  # a bias


def test_the_workflow_carries_an_embedding_to_tokens_that_the_old_model_lacks(tmp_path, pico_pair):
    """What rule embedding writes with unshared: omp, rule transferred reads."""
    config = LoraConfig(r=4, target_modules=["embed_tokens"])
    adapter = read_adapter(kindcase.make(tmp_path / "lora", pico_pair.old, config))
    sides = [Side(m.architecture, m.dims) for m in map(open_model, (pico_pair.old, pico_pair.new))]
    moved, reports = {}, {}
    for unshared in ("none", "omp"):
        folder = tmp_path / unshared
        folder.mkdir()
        run = PairRun(folder, pico_pair.old, pico_pair.new, pico_pair.texts, unshared=unshared)
        made, report = carry_from(adapter, run.embedding(), *sides, None)
        moved[unshared] = made["model.embed_tokens"].b.any(axis=1)
        reports[unshared] = report["model.embed_tokens"]
    shared, more = (reports["omp"][key] for key in ("tokens", "tokens_approximated"))
    assert reports["none"]["tokens_approximated"] == 0 and more > 0
    assert moved["none"].sum() == shared and moved["omp"].sum() == shared + more
    assert f"{more} more took sums" in adapter.warnings[-1]
