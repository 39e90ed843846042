"""LoRASuite's ablations through the workflow's scripts, each against its formula, dense."""

from pathlib import Path

import literal
import numpy as np
import pico
import pytest
from inprocess import PairRun

from loraport.errors import LoraportError
from loraport.mapping.layers import serve_all
from loraport.methods import check_pair
from loraport.models.families import Dimensions

WHOLE = {"hidden": 32, "layers": 2, "heads": 4, "kv_heads": 2}


def pair(root: Path, new_kv: int, **mapping) -> PairRun:
    """Old: 4 heads in 2 groups; new: 6 heads in `new_kv` groups."""
    old = pico.make_model(root / "old", seed=1, intermediate=56, **WHOLE)
    sizes = {"hidden": 48, "intermediate": 80, "layers": 3, "heads": 6, "kv_heads": new_kv}
    new = pico.make_model(root / "new", seed=2, vocab_words=240, **sizes)
    return PairRun(root, old, new, pico.make_texts(root / "texts.txt", 40), **mapping)


def updates(run: PairRun, root: Path) -> tuple[dict, dict]:
    """Dense updates of the old adapter and of the transferred one, by (layer, role)."""
    adapter = pico.make_adapter(root / "adapter", run.models["old"], seed=3)
    out = run.transferred(adapter)
    read = [
        pico.load_adapter(run.models["old"], adapter),
        pico.load_adapter(run.models["new"], out),
    ]
    before, after = ({place: s * B @ A for place, (B, A, s) in each.items()} for each in read)
    return before, after


@pytest.mark.parametrize("new_kv", [3, 6])
def test_without_heads_the_update_is_carried_as_a_whole(tmp_path, new_kv):
    run = pair(tmp_path, new_kv, heads="none")
    before, after = updates(run, tmp_path)
    W_h = literal.hidden_map(*pico.load_shared_embeddings(*run.models.values()))
    for i, j in run.path():
        for role in ("q", "k", "v", "o"):
            old = before[i, role]
            if role in ("k", "v"):  # every query head sees its group's rows
                old = np.repeat(old.reshape(2, 8, 32), 2, axis=0).reshape(32, 32)
            new = W_h.T @ old @ W_h
            if role in ("k", "v"):
                new = new.reshape(new_kv, 6 // new_kv, 8, 48).mean(axis=1).reshape(-1, 48)
            assert np.linalg.norm(after[j, role] - new) < 1e-5 * np.linalg.norm(new), (j, role)


@pytest.mark.parametrize(
    ("path", "layers", "expected"),
    [
        ([(0, 0), (1, 1), (2, 3)], 5, [(0, 0), (1, 1), (2, 2), (2, 3), (2, 4)]),
        ([(0, 1), (1, 2)], 3, [(0, 0), (0, 1), (1, 2)]),
        ([(1, 0), (3, 1)], 2, [(1, 0), (3, 1)]),
    ],
)
def test_an_unmatched_layer_is_served_by_the_next_pairs_old_one(path, layers, expected):
    assert serve_all(path, layers) == expected


def test_every_new_layer_is_served_where_asked(tmp_path):
    run = pair(tmp_path, 3, unmatched="next")
    _, after = updates(run, tmp_path)
    assert [new for _, new in run.path()] == [0, 1, 2]
    assert {layer for layer, _ in after} == {0, 1, 2} and all(np.any(x) for x in after.values())


def test_default_order_of_heads_is_eq_3_with_the_identity(tmp_path):
    run = pair(tmp_path, 6, heads="identity")
    before, after = updates(run, tmp_path)
    old, new = (pico.load_layers(run.models[side]) for side in ("old", "new"))
    W_h = literal.hidden_map(*pico.load_shared_embeddings(*run.models.values()))
    order = [(head, head) for head in range(4)]
    for i, j in run.path():
        assert run.assignment(j) == order
        for role in ("q", "k", "v", "o"):
            update = before[i, role], np.eye(before[i, role].shape[1]), 1.0
            B, A = literal.transfer_layer(old[i], new[j], W_h, order, {role: update})[role]
            assert np.linalg.norm(after[j, role] - B @ A) < 1e-5 * np.linalg.norm(B @ A)


@pytest.mark.parametrize("how", ["cca", "pwcca", "procrustes"])
def test_other_similarities_choose_the_path(tmp_path, how):
    """The path is the best one through the similarities of features, by the formulas themselves."""
    sizes = {"hidden": 16, "intermediate": 24, "heads": 2, "kv_heads": 2}
    models = [pico.make_model(tmp_path / f"m{n}", seed=n, layers=n + 1, **sizes) for n in (1, 2)]
    run = PairRun(tmp_path, *models, pico.make_texts(tmp_path / "texts.txt", 60), similarity=how)
    S = run.read(run.cka(), "similarity")
    for i, x in enumerate(run.features("old")):
        for j, y in enumerate(run.features("new")):
            assert np.isclose(S[i, j], by_formula(how, x, y), atol=1e-5)
    assert run.path() == literal.layer_path(S)


def by_formula(how: str, x: np.ndarray, y: np.ndarray) -> float:
    """CCA, PWCCA by QR and SVD; Procrustes by the nuclear norm."""
    x, y = (each.astype(np.float64) - each.mean(axis=0) for each in (x, y))
    if how == "procrustes":
        nuclear = np.linalg.norm(x.T @ y, "nuc")
        return float(nuclear / (np.linalg.norm(x) * np.linalg.norm(y)))
    basis = [np.linalg.qr(each)[0] for each in (x, y)]
    u, rho, _ = np.linalg.svd(basis[0].T @ basis[1])
    if how == "cca":
        return float(rho.mean())
    alpha = np.abs((basis[0] @ u[:, : len(rho)]).T @ x).sum(axis=1)
    return float((alpha * rho).sum() / alpha.sum())


ALIKE = {"lacks": (), "by_layer": ()}  # all layers


def dims(**changes) -> Dimensions:
    filled = dict.fromkeys(Dimensions.__dataclass_fields__, 2)
    sizes = {"hidden": 32, "heads": 4, "head_dim": 8, "kv_heads": 4, **changes}
    return Dimensions(**{**filled, **ALIKE, **sizes})


@pytest.mark.parametrize(
    ("settings", "new", "message"),
    [
        ({"wh": "identity"}, {"hidden": 48, "heads": 6}, "equal hidden sizes"),
        ({"heads": "none"}, {"head_dim": 16}, "4 × 16 of 32"),
    ],
)
def test_what_sizes_forbid_is_told_before_any_work(settings, new, message):
    with pytest.raises(LoraportError, match=message):
        check_pair("lorasuite", dims(), dims(**new), settings)
    check_pair("lorasuite", dims(), dims(), settings)
