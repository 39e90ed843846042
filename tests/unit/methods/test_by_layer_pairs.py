"""Every method between models whose layers differ: what both layers have is carried."""

from functools import cache
from pathlib import Path

import families
import methodcase
import numpy as np
import pico
import pytest

from loraport import methods
from loraport.adapters.files import read_adapter
from loraport.errors import LoraportError
from loraport.mapping.layers import layer_path, shared_counts
from loraport.methods import check_pair
from loraport.models.spec import open_model
from loraport.planning.prospect import prospect

pytestmark = pytest.mark.usefixtures("one_thread")

PATH = [(0, 0), (1, 1)]
MLP = {f"mlp.{role}_proj" for role in ("gate", "up", "down")}
ATTENTION = {f"self_attn.{role}_proj" for role in "qkvo"}
LINEAR = set(families.DELTA_NET.values())
# (old, new) -> of each new layer, modules that are carried
PAIRS = {
    ("qwen3", "qwen3_5_text"): [MLP, MLP | ATTENTION],
    ("qwen3_5_text", "qwen3"): [MLP, MLP | ATTENTION],
    ("qwen3_5_text", "qwen3_5"): [MLP | LINEAR, MLP | ATTENTION],
}
# those that need heads run in tests/integration/test_families.py
WITHOUT_HEADS = [name for name in methods.names() if "heads" not in methods.needs(name)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Makes the models of two families and an adapter of the first, once."""
    root = tmp_path_factory.mktemp("families")

    @cache
    def make(old_name: str, new_name: str) -> tuple[Path, Path, Path]:
        folder = root / f"{old_name}-{new_name}"
        old = families.make_model(folder / "old", old_name, seed=1)
        new = families.make_model(folder / "new", new_name, seed=2)
        targets = families.targets(old_name)
        return old, new, pico.make_adapter(folder / "lora", old, seed=3, targets=targets)

    return make


@pytest.mark.parametrize("method", WITHOUT_HEADS)
@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_what_both_layers_have_is_carried(tmp_path, made, method, names):
    old, new, adapter = made(*names)
    texts = pico.texts(24)
    weights, _ = methodcase.carried(tmp_path, method, (old, new), adapter, PATH, texts)
    for layer, modules in enumerate(PAIRS[names]):
        carried = {m for (n, m), each in weights.items() if n == layer and each.norm() > 0}
        assert carried == modules
    family = open_model(new).architecture
    assert read_adapter(tmp_path / "adapter").modules.keys() == {
        family.path(*place) for place in weights
    }
    methodcase.logits(new, tmp_path / "adapter")  # peft finds a place for each


# Gemma 4: in layer 1 of `gemma4` keys are values; from layer 2 on `gemma4_multimodal` has no keys
GEMMA = {
    ("gemma3", "gemma4"): [MLP | ATTENTION, (MLP | ATTENTION) - {"self_attn.v_proj"}],
    ("gemma4", "gemma3"): [MLP | ATTENTION, (MLP | ATTENTION) - {"self_attn.v_proj"}],
    ("gemma3", "gemma4_moe"): [ATTENTION, ATTENTION - {"self_attn.v_proj"}],
}
UNEQUAL = ["aligned", "aligned_gradients", "aligned_sequential", "crosslora"]


@pytest.mark.parametrize("method", UNEQUAL)
@pytest.mark.parametrize("names", GEMMA, ids="-".join)
def test_layers_of_unequal_heads_are_carried_where_both_have_the_role(
    tmp_path, made, method, names
):
    old, new, adapter = made(*names)
    weights, _ = methodcase.carried(tmp_path, method, (old, new), adapter, PATH, pico.texts(24))
    for layer, modules in enumerate(GEMMA[names]):
        carried = {m for (n, m), each in weights.items() if n == layer and each.norm() > 0}
        assert carried == modules
    methodcase.logits(new, tmp_path / "adapter")


def test_all_layers_of_attention_count_alike(tmp_path):
    """Whether a layer has keys and values of its own does not choose the layer path."""
    old = open_model(families.make_model(tmp_path / "old", "gemma3", seed=1))
    for name in ("gemma4", "gemma4_multimodal"):
        new = open_model(families.make_model(tmp_path / name, name, seed=1))
        assert (shared_counts(old, new) == 7).all()


def test_layers_with_roles_in_common_are_paired_first(tmp_path):
    """Of two models of alternating layers, the deeper one's first layer has no partner then."""
    old = open_model(families.make_model(tmp_path / "old", "qwen3_5_text", seed=1, layers=2))
    new = open_model(families.make_model(tmp_path / "new", "qwen3_5_text", seed=1, layers=4))
    similarity = np.zeros((2, 4))
    similarity[0, 1] = similarity[1, 2] = 1.0
    shared = shared_counts(old, new)
    assert shared.tolist() == [[10, 3, 10, 3], [3, 8, 3, 8]]
    assert layer_path(similarity, "cka", None) == [(0, 1), (1, 2)]
    assert layer_path(similarity, "cka", None, shared=shared) == [(0, 0), (1, 1)]
    similarity[1, 3] = 0.1  # which decides between paths that have as many in common
    assert layer_path(similarity, "cka", None, shared=shared) == [(0, 0), (1, 3)]
    assert layer_path(similarity, "first", None, shared=shared) == [(0, 0), (1, 1)]


def test_paths_of_models_of_one_kind_of_layer_are_as_ever(tmp_path):
    old = open_model(families.make_model(tmp_path / "old", "qwen3", seed=1))
    new = open_model(families.make_model(tmp_path / "new", "qwen2", seed=1))
    assert shared_counts(old, new) is None


@pytest.mark.parametrize("method", ["simplecopy", "simplelinear", "prolora"])
def test_shapes_are_compared_layer_by_layer(tmp_path, method):
    dims = [
        open_model(families.make_model(tmp_path / f"{n}", name, seed=1, **more)).dims
        for n, (name, more) in enumerate(
            [("qwen3", {}), ("qwen3_5_text", {}), ("qwen3_5_text", {"linear_value_head_dim": 6})]
        )
    ]
    check_pair(method, dims[0], dims[1], methodcase.SETTINGS)
    with pytest.raises(LoraportError, match=r"linear_v \(32, 32\) and \(24, 32\)"):
        check_pair(method, dims[1], dims[2], methodcase.SETTINGS)


def test_what_is_sure_to_be_left_behind_is_told_before_any_work(tmp_path):
    old = open_model(families.make_model(tmp_path / "old", "qwen3", seed=1))
    new = open_model(families.make_model(tmp_path / "new", "qwen3_5", seed=1))
    lora = pico.make_adapter(tmp_path / "lora", old.directory, seed=3, targets=pico.ALL_LINEAR)
    told = prospect(lora, old, new, {str(old.directory)})
    assert not told.refused
    (line,) = told.left
    assert "self_attn.q_proj, self_attn.v_proj of 1 or more of 2 layers" in line
    assert line.endswith("qwen3_5 has the like in 1 of its 2 layers")


def test_dora_is_refused_where_rows_have_no_magnitude(tmp_path):
    """Qwen 3.5's q_proj has rows that Qwen 3's says nothing about."""
    old = open_model(families.make_model(tmp_path / "old", "qwen3", seed=1))
    new = open_model(families.make_model(tmp_path / "new", "qwen3_5_text", seed=1))
    for targets, count in ((["q_proj"], 1), (["v_proj"], 0)):
        lora = pico.make_adapter(
            tmp_path / targets[0], old.directory, seed=3, targets=targets, use_dora=True
        )
        refused = prospect(lora, old, new, {str(old.directory)}).refused
        assert len(refused) == count
        assert all("q_gate" in each and "magnitude" in each for each in refused)


def test_an_adapter_of_a_layer_without_its_module_is_refused(tmp_path):
    """Of Qwen 3, named as Qwen 3.5's: layer 0 has no q_proj there."""
    old = families.make_model(tmp_path / "old", "qwen3", seed=1)
    other = open_model(families.make_model(tmp_path / "other", "qwen3_5_text", seed=1))
    lora = pico.make_adapter(tmp_path / "lora", old, seed=3, targets=["k_proj"])
    told = prospect(lora, other, None, {str(old)})
    (why,) = told.refused
    assert "is for another base model" in why and "layers.0.self_attn.k_proj" in why
