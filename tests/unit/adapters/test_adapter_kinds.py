"""Each kind of adapter, run by peft: through identity maps it computes what the source did."""

import copy

import numpy as np
import pico
import pytest
from kindcase import TOKENS, adalora, carried, config_of, loaded, logits, make, prune
from peft import LoraConfig
from safetensors.numpy import load_file

from loraport.adapters.attach import save_adapter
from loraport.adapters.files import read_adapter
from loraport.adapters.lora_weights import LoraWeights
from loraport.errors import LoraportError
from loraport.training.starts import begin
from loraport.transfer.magnitudes import carried_magnitude
from loraport.transfer.maps import Blocks, Dense, ModuleMap, Term, absolute_times

pytestmark = pytest.mark.usefixtures("one_thread")

ALL = pico.ALL_LINEAR
KINDS = {  # name -> base, arguments of LoraConfig
    "lora": ("llama", {"target_modules": ALL}),
    "rslora": ("llama", {"target_modules": ALL, "use_rslora": True}),
    "patterns": (
        "llama",
        {
            "target_modules": ALL,
            "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.(up|gate)_proj": 6},
            "alpha_pattern": {"^model.layers.0.self_attn.v_proj": 11, "down_proj": 3},
        },
    ),
    "rslora_patterns": (
        "llama",
        {"target_modules": ALL, "use_rslora": True, "rank_pattern": {"q_proj": 2}},
    ),
    "some_layers": ("llama", {"target_modules": ["q_proj"], "layers_to_transform": [1]}),
    "one_layer": ("llama", {"target_modules": ["q_proj"], "layers_to_transform": 0}),
    "regex": ("llama", {"target_modules": r".*\.1\.self_attn\.(q|v)_proj"}),
    "all_linear": ("llama", {"target_modules": "all-linear"}),
    "all_linear_fused": ("phi3", {"target_modules": "all-linear"}),
    "lora_bias": ("qwen2", {"target_modules": ["q_proj", "v_proj"], "lora_bias": True}),
    "bias_without_any": ("llama", {"target_modules": ["q_proj"], "bias": "all"}),
    "head_saved": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "norm_saved": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["model.norm"]}),
    "embedding_saved": (
        "llama",
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    ),
    "dora": ("llama", {"target_modules": ALL, "use_dora": True}),
    "dora_rslora": ("llama", {"target_modules": ALL, "use_dora": True, "use_rslora": True}),
    "dora_fused": ("phi3", {"target_modules": ["qkv_proj", "down_proj"], "use_dora": True}),
    "inside": (
        "gemma3_multimodal",
        {"target_modules": r".*language_model.*\.(q|v|up)_proj", "use_dora": True},
    ),
    "dora_bias": ("qwen2", {"target_modules": ["q_proj", "k_proj", "o_proj"], "use_dora": True}),
    "eva": (  # its start is a choice of A and of ranks: B A alone is the update
        "llama",
        {"target_modules": ALL, "init_lora_weights": "eva", "rank_pattern": {"q_proj": 6}},
    ),
    "gaussian": ("llama", {"target_modules": ALL, "init_lora_weights": "gaussian"}),
}


@pytest.mark.parametrize("name", KINDS)
def test_identity_maps_carry_a_lora_as_it_is(tmp_path, bases, name):
    family, arguments = KINDS[name]
    base = bases[family]
    source = make(tmp_path / "source", base, LoraConfig(r=4, lora_alpha=6, **arguments))
    before = logits(base, source)
    assert (before - logits(base, None)).abs().max() > 1e-2  # the adapter does something
    result = carried(tmp_path, base, source)
    assert (logits(base, result) - before).abs().max() < 1e-5
    old, new = config_of(source), config_of(result)
    for key in ("use_dora", "use_rslora", "lora_bias", "peft_type", "r", "lora_alpha"):
        assert (new.get(key) or None) == (old[key] or None)
    assert new["target_modules"] == sorted(new["target_modules"])


@pytest.mark.parametrize("pruned", [False, True])
def test_identity_maps_carry_an_adalora_as_it_is(tmp_path, bases, pruned):
    base = bases["llama"]
    source = make(tmp_path / "source", base, adalora())
    if pruned:
        prune(source)
    before = logits(base, source)
    assert (before - logits(base, None)).abs().max() > 1e-3
    result = carried(tmp_path, base, source)
    assert (logits(base, result) - before).abs().max() < 1e-5
    old, new = config_of(source), config_of(result)
    fields = ("peft_type", "init_r", "target_r", "lora_alpha", "total_step")
    assert [new[key] for key in fields] == ["ADALORA", 4, 2, 6, 10]
    ranks = {path: weights.rank for path, weights in read_adapter(result).modules.items()}
    assert ranks == {path: each.rank for path, each in read_adapter(source).modules.items()}
    assert (0 in ranks.values()) == pruned
    assert (new["rank_pattern"] is None) == (old["rank_pattern"] is None)


def test_adalora_is_written_with_orthonormal_factors(tmp_path, bases):
    """B = U, E = S, A = Vᵀ."""
    base = bases["llama"]
    result = carried(tmp_path, base, make(tmp_path / "source", base, adalora()))
    tensors = load_file(result / "adapter_model.safetensors")
    for name in (name for name in tensors if name.endswith("lora_A")):
        a, b = tensors[name], tensors[f"{name[:-1]}B"]
        assert np.allclose(a @ a.T, np.eye(4), atol=1e-5)
        assert np.allclose(b.T @ b, np.eye(4), atol=1e-5)
        assert (tensors[f"{name[:-1]}E"] > 0).all()


def test_bfloat16_is_a_choice(tmp_path, bases):
    base = bases["llama"]
    source = make(tmp_path / "source", base, LoraConfig(target_modules=ALL))
    result = carried(tmp_path, base, source, dtype="bfloat16")
    weights = [each.a for each in read_adapter(result).modules.values()]
    assert all((each.view(np.uint32) & 0xFFFF == 0).all() for each in weights)


def test_dora_stretches_a_row_as_the_old_rows_that_it_is_made_of(bases):
    """ρ_n = |L| ρ_o / |L| 1, m_n = ρ_n ‖W_n‖: equal stretches stay, a permutation moves them."""
    from loraport.adapters.lora_weights import LoraWeights

    rng = np.random.default_rng(0)
    rows_old, rows_new = rng.uniform(1, 2, 6), rng.uniform(1, 2, 6)
    stretch = rng.uniform(0.5, 2, 6)

    def magnitude(left, stretch):
        entry = ModuleMap(0, "q", 0, (Term(left),), 1, 1, rows_old=rows_old, rows_new=rows_new)
        weights = LoraWeights(np.ones((6, 1)), np.ones((1, 3)), 1.0, magnitude=stretch * rows_old)
        return carried_magnitude(weights, entry)

    mixing = rng.normal(size=(6, 6))
    assert np.allclose(magnitude((Dense(mixing),), np.full(6, 1.7)), 1.7 * rows_new)
    by_hand = np.abs(mixing) @ stretch / np.abs(mixing).sum(axis=1) * rows_new
    assert np.allclose(magnitude((Dense(mixing),), stretch), by_hand)
    order = rng.permutation(6)
    assert np.allclose(magnitude((Dense(np.eye(6)[order]),), stretch), stretch[order] * rows_new)
    mixing[2] = 0
    assert magnitude((Dense(mixing),), stretch)[2] == pytest.approx(rows_new[2])


def test_absolute_times_takes_the_product_and_sums_the_terms_first():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(5, 4)), rng.normal(size=(4, 1100))
    blocks = Blocks(np.array([0, 0]), np.array([0, 1]), rng.normal(size=(2, 5, 550)), (1, 2))
    dense = np.hstack([*blocks.blocks])
    terms = Term((Dense(first), Dense(second))), Term((blocks,))
    entry = ModuleMap(0, "q", 0, terms, 1.0, 1.0)
    right = rng.normal(size=(1100, 2))
    assert np.allclose(absolute_times(entry, right), np.abs(first @ second + dense) @ right)


def test_dora_is_refused_where_a_method_adds_a_constant():
    ones = np.ones(2)
    entry = ModuleMap(0, "q", 0, (Term(),), 1, 1, constant=np.eye(2), rows_old=ones, rows_new=ones)
    weights = LoraWeights(np.ones((2, 1)), np.ones((1, 2)), 1.0, magnitude=ones)
    with pytest.raises(LoraportError, match="adds the difference of the weights"):
        carried_magnitude(weights, entry)


def test_dora_needs_row_norms(tmp_path, bases):
    base = bases["llama"]
    source = make(tmp_path / "source", base, LoraConfig(target_modules=ALL, use_dora=True))
    with pytest.raises(LoraportError, match="norms of both bases' rows"):
        carried(tmp_path, base, source, rows=False)


@pytest.mark.parametrize("kind", ["dora", "adalora"])
def test_light_fine_tuning_goes_on_from_a_carried_adapter(tmp_path, bases, kind):
    """It starts from the carried effect, its parts have gradients, and it is saved as its kind."""
    base = bases["llama"]
    config = adalora() if kind == "adalora" else LoraConfig(target_modules=ALL, use_dora=True)
    result = carried(tmp_path, base, make(tmp_path / "source", base, config))
    model = begin(copy.deepcopy(loaded(base)), result, "init", 10)
    output = model(input_ids=TOKENS, labels=TOKENS)
    assert (output.logits.double() - logits(base, result)).abs().max() < 1e-5
    output.loss.backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(gradient is not None and gradient.any() for gradient in trained.values())
    part = "lora_E" if kind == "adalora" else "magnitude"
    assert any(part in name for name in trained)
    save_adapter(model, tmp_path / "tuned")
    assert set(load_file(tmp_path / "tuned" / "adapter_model.safetensors")) == set(
        load_file(result / "adapter_model.safetensors")
    )
