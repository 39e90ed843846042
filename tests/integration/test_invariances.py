"""What must not change, and what must be found, when a model is rewritten without changing it."""

from pathlib import Path

import numpy as np
import pico
import pytest
import torch
from inprocess import PairRun
from transformers import AutoModelForCausalLM

SIZES = {"hidden": 32, "intermediate": 56, "layers": 3, "heads": 4, "kv_heads": 2}
HEAD_DIM = SIZES["hidden"] // SIZES["heads"]
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("invariances")
    pico.make_model(root / "old", seed=1, **SIZES)
    pico.make_model(root / "other", seed=2, **{**SIZES, "hidden": 40, "layers": 5})
    pico.make_texts(root / "texts.txt", 48)
    return root


def carry(root: Path, folder: Path, old: str | Path, new: str | Path, **mapping) -> PairRun:
    return PairRun(folder, root / old, root / new, root / "texts.txt", **mapping)


def orthogonal(seed: int, d: int) -> torch.Tensor:
    return torch.from_numpy(np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0])


def logits(model_dir: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    with torch.no_grad():
        return model(torch.arange(5, 40)[None]).logits


def fold_norms(tensors: Tensors) -> Tensors:
    """Norm weights go into the linear layers that read the norm, and become one."""
    readers = {
        "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
    }
    folded = dict(tensors)
    for name in tensors:
        block, _, norm = name.removesuffix(".weight").rpartition(".")
        targets = [f"{block}.{module}.weight" for module in readers.get(norm, ())]
        for target in ["lm_head.weight"] if name == "model.norm.weight" else targets:
            folded[target] = folded[target] * tensors[name]
            folded[name] = torch.ones_like(tensors[name])
    return folded


def rotate(tensors: Tensors, Q: torch.Tensor) -> Tensors:
    """The residual stream x becomes xQ: norms without weights commute with that."""
    folded = fold_norms(tensors)
    writers = ("o_proj.weight", "down_proj.weight")
    return {
        name: Q.T @ values if name.endswith(writers) else values @ Q if values.ndim == 2 else values
        for name, values in folded.items()
    }


def head_order(seed: int, heads: int, kv_heads: int) -> tuple[np.ndarray, np.ndarray]:
    """A random order of the key-value heads, and of the query heads within their groups."""
    rng = np.random.default_rng(seed)
    order_kv = rng.permutation(kv_heads)
    group = heads // kv_heads
    return np.concatenate([g * group + rng.permutation(group) for g in order_kv]), order_kv


def reorder(rows, order: np.ndarray):
    """Rows (heads · HEAD_DIM, x) with new head b the old head order[b]; a tensor or an array."""
    return rows.reshape(len(order), HEAD_DIM, -1)[order].reshape(rows.shape)


def permute_heads(tensors: Tensors) -> Tensors:
    """Layer i's heads in the order `head_order(i)`."""
    permuted = dict(tensors)
    for i in range(SIZES["layers"]):
        order, order_kv = head_order(i, SIZES["heads"], SIZES["kv_heads"])
        at = f"model.layers.{i}.self_attn."
        orders = {"q_proj": order, "k_proj": order_kv, "v_proj": order_kv}
        for module, rows in orders.items():
            permuted[f"{at}{module}.weight"] = reorder(tensors[f"{at}{module}.weight"], rows)
        permuted[f"{at}o_proj.weight"] = reorder(tensors[f"{at}o_proj.weight"].T, order).T
    return permuted


def insert_block(tensors: Tensors, place: int, size: float) -> Tensors:
    """A block more before block `place`: the first one's weights, its outputs times `size`."""
    grown = {name: values for name, values in tensors.items() if ".layers." not in name}
    for name, values in tensors.items():
        if ".layers." not in name:
            continue
        number, tail = name.removeprefix("model.layers.").split(".", 1)
        later = int(number) + (int(number) >= place)
        grown[f"model.layers.{later}.{tail}"] = values
        if number == "0":
            out = tail.endswith(("o_proj.weight", "down_proj.weight"))
            grown[f"model.layers.{place}.{tail}"] = values * size if out else values.clone()
    return grown


@pytest.fixture(scope="module")
def rotated(root: Path) -> Path:
    """The old model in rotated coordinates; the same function."""
    Q = orthogonal(0, SIZES["hidden"])
    directory = pico.edit_model(root / "rotated", root / "old", lambda tensors: rotate(tensors, Q))
    assert torch.allclose(logits(directory), logits(root / "old"), atol=1e-4)
    return directory


@pytest.mark.parametrize("wh", ["auto", "embedding"])
def test_a_model_matches_itself(root, tmp_path, wh):
    run = carry(root, tmp_path, "old", "old", wh=wh)
    S = run.read(run.cka(), "similarity")
    assert run.path() == [(i, i) for i in range(3)]
    assert np.allclose(np.diag(S), 1, atol=1e-6)
    assert np.allclose(run.read(run.embedding(), "W_h"), np.eye(32), atol=1e-5)
    for j in range(3):
        similarity = run.read(run.heads(), f"layer_{j}/similarity")
        assert np.allclose(np.diag(similarity), 1, atol=1e-5)
        assert run.assignment(j) == [(a, a) for a in range(4)]


@pytest.mark.parametrize(
    ("place", "size", "expected"),
    [(0, 1e-6, [(0, 1), (1, 2), (2, 3)]), (3, 30.0, [(0, 0), (1, 1), (2, 2)])],
    ids=["silent_block_below", "loud_block_above"],
)
def test_an_inserted_block_is_left_out_of_the_path(root, tmp_path, place, size, expected):
    grown = pico.edit_model(
        tmp_path / "grown",
        root / "old",
        lambda tensors: insert_block(tensors, place, size),
        num_hidden_layers=4,
    )
    assert carry(root, tmp_path / "deeper", "old", grown).path() == expected
    swapped = [(new, old) for old, new in expected]
    assert carry(root, tmp_path / "shallower", grown, "old").path() == swapped


def test_permuted_heads_are_found(root, tmp_path):
    permuted = pico.edit_model(tmp_path / "permuted", root / "old", permute_heads)
    assert torch.allclose(logits(permuted), logits(root / "old"), atol=1e-4)
    run = carry(root, tmp_path, "old", permuted)
    for j in range(3):
        order, _ = head_order(j, SIZES["heads"], SIZES["kv_heads"])
        assert run.assignment(j) == sorted((int(a), b) for b, a in enumerate(order))


def dense(model_dir: Path, adapter: Path) -> dict[tuple[int, str], np.ndarray]:
    """(layer, role) -> s·B A."""
    return {place: s * B @ A for place, (B, A, s) in pico.load_adapter(model_dir, adapter).items()}


def is_close(got: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> bool:
    return np.linalg.norm(got - expected) <= tolerance * np.linalg.norm(expected)


def test_permuted_heads_get_the_permuted_update(root, tmp_path):
    permuted = pico.edit_model(tmp_path / "permuted", root / "old", permute_heads)
    adapter = pico.make_adapter(tmp_path / "adapter", root / "old", seed=3, targets=pico.ATTENTION)
    plain, moved = (
        dense(new, carry(root, tmp_path / new.name, "old", new).transferred(adapter))
        for new in (root / "old", permuted)
    )
    for (layer, role), update in plain.items():
        order, order_kv = head_order(layer, SIZES["heads"], SIZES["kv_heads"])
        if role == "o":
            expected = reorder(update.T, order).T
        else:
            expected = reorder(update, order if role == "q" else order_kv)
        assert is_close(moved[layer, role], expected), (layer, role)


@pytest.mark.parametrize("side", ["old", "new"])
def test_a_rotated_residual_stream_changes_neither_cka_nor_path(root, rotated, tmp_path, side):
    pairs = {"old": [("old", "other"), (rotated, "other")]}
    pairs["new"] = [pair[::-1] for pair in pairs["old"]]
    plain, turned = (
        carry(root, tmp_path / str(place), *pair) for place, pair in enumerate(pairs[side])
    )
    S = plain.read(plain.cka(), "similarity")
    assert np.allclose(turned.read(turned.cka(), "similarity"), S, atol=1e-5)
    assert turned.path() == plain.path()


def test_features_themselves_do_change_under_rotation(root, rotated, tmp_path):
    """Without this the test above would hold for any similarity."""
    run = carry(root, tmp_path, "old", rotated)
    Q = orthogonal(0, SIZES["hidden"]).numpy()
    for before, after in zip(run.features("old"), run.features("new"), strict=True):
        assert not is_close(after, before, tolerance=0.5)
        assert is_close(after, before @ Q, tolerance=1e-4)


def test_a_rotation_is_found_and_the_update_turns_with_it(root, rotated, tmp_path):
    folded = pico.edit_model(tmp_path / "folded", root / "old", fold_norms)
    adapter = pico.make_adapter(tmp_path / "adapter", folded, seed=3)
    still, turned = (
        carry(root, tmp_path / f"to_{new.name}", folded, new, wh="embedding")
        for new in (folded, rotated)
    )
    Q = orthogonal(0, SIZES["hidden"]).numpy()
    assert is_close(turned.read(turned.embedding(), "W_h"), Q)
    expected = dense(folded, still.transferred(adapter))
    for (layer, role), update in dense(rotated, turned.transferred(adapter)).items():
        before = expected[layer, role]
        assert is_close(update, Q.T @ before if role in ("o", "down") else before @ Q)
        assert turned.assignment(layer) == [(a, a) for a in range(SIZES["heads"])]
