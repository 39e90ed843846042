"""Each kind of adapter, run by peft: through identity maps it computes what the source did."""

import copy
import shutil
from pathlib import Path

import families
import numpy as np
import pico
import pytest
from kindcase import (
    TOKENS,
    adalora,
    config_of,
    edit,
    edit_tensors,
    loaded,
    logits,
    make,
    prune,
    same_tokens,
)
from peft import LoraConfig
from safetensors.numpy import load_file

from loraport.adapters.attach import save_adapter
from loraport.adapters.audit import audit
from loraport.adapters.files import read_adapter, write_adapter
from loraport.adapters.lora_weights import LoraWeights
from loraport.errors import LoraportError
from loraport.models.side import Side
from loraport.models.spec import describe, open_model
from loraport.training.starts import begin
from loraport.transfer.carry import carry
from loraport.transfer.magnitudes import carried_magnitude
from loraport.transfer.maps import (
    Blocks,
    Dense,
    ModuleMap,
    Term,
    absolute_times,
    open_maps,
    write_maps,
)
from loraport.transfer.modules_to_save import check_saved, keep_saved

pytestmark = pytest.mark.usefixtures("one_thread")

BASES = ("llama", "qwen2", "phi3", "gemma3_multimodal")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    return {name: families.make_model(root / name, name, seed=1) for name in BASES}


def identity_maps(path: Path, base: Path, rows: bool = True) -> Path:
    """L = I and R = I for every role, with the base's own row norms."""
    model = open_model(base)
    checkpoint = model.checkpoint()

    def entries():
        for layer in range(model.dims.layers):
            for role in model.architecture.roles:
                weight = model.weight(checkpoint, layer, role).astype(np.float64)
                norms = np.linalg.norm(weight, axis=1) if rows else None
                size = np.linalg.norm(weight)
                yield ModuleMap(
                    layer, role, layer, (Term(),), size, size, rows_old=norms, rows_new=norms
                )

    write_maps(path, "identity", {}, entries())
    return path


def carried(folder: Path, base: Path, adapter_dir: Path, *, rows=True, dtype="float32") -> Path:
    """The adapter through identity maps, written for the same base."""
    model = open_model(base)
    side = Side(model.architecture, model.dims)
    adapter = read_adapter(adapter_dir)
    located = audit(adapter, side.family, side.dims, {str(base), base.name})
    with open_maps(identity_maps(folder / "maps.h5", base, rows)) as maps:
        weights, _ = carry(located, maps, side, side)
    out = folder / "carried"
    out.mkdir()
    write_adapter(
        out, adapter.config, str(base), "", side.family, side.dims.layers, weights, dtype,
        keep_saved(adapter, side, side, same_tokens(folder / "embedding.h5", base), None),
    )  # fmt: skip
    return out


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


def lora(tmp_path, base, **arguments):
    given = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj"], **arguments}
    return make(tmp_path / "source", base, LoraConfig(**given))


REFUSED = [
    ({"init_lora_weights": "pissa"}, r"changed its base.*path_initial_model"),
    ({"init_lora_weights": "pissa_niter_4"}, "changed its base"),
    ({"init_lora_weights": "olora"}, "changed its base"),
    ({"init_lora_weights": "corda"}, "changed its base"),
    ({"init_lora_weights": "lora_ga"}, "changed its base"),
    ({"init_lora_weights": "loftq"}, "changed its base"),
    ({"init_lora_weights": "mica"}, "changed its base"),
    ({"loftq_config": {"loftq_bits": 4}}, r"loftq_config.*unquantised base"),
    ({"use_qalora": True}, r"use_qalora.*unquantised base"),
    ({"target_parameters": ["mlp.experts"]}, r"target_parameters.*on modules"),
    ({"layer_replication": [[0, 2], [1, 2]]}, r"layer_replication.*without replicated"),
    ({"alora_invocation_tokens": [5]}, r"alora_invocation_tokens.*invocation tokens"),
    ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
    ({"some_field_of_the_future": 3}, "some_field_of_the_future = 3"),
    ({"fan_in_fan_out": True}, "fan_in_fan_out"),
    ({"peft_type": "IA3"}, r"IA3.*plain LoRA"),
    ({"r": 5}, "tensors of rank 4"),
    ({"lora_alpha": None}, "no usable lora_alpha"),
    ({"lora_alpha": float("nan")}, "no usable lora_alpha"),
    ({"rank_pattern": {"(a+)+": 3}}, r"not evaluated.*by name"),
    ({"alpha_pattern": {"(q_proj": 3}}, "not evaluated"),
    ({"use_dora": True}, "is incomplete"),
    ({"lora_bias": True}, "is incomplete"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=str)
def test_what_is_not_carried_is_refused_by_name_with_the_way_out(tmp_path, bases, change, message):
    source = edit(lora(tmp_path, bases["llama"]), **change)
    with pytest.raises(LoraportError, match=f"(?s){message}"):
        read_adapter(source)


def test_biases_of_the_base_are_refused(tmp_path, bases):
    source = lora(tmp_path, bases["qwen2"], bias="lora_only")
    with pytest.raises(LoraportError, match=r"(?s)biases.*lora_bias=True"):
        read_adapter(source)


def test_parts_beside_the_language_model_stay_alone(tmp_path, bases):
    """Modules that see bear the same names: refused in the source, and not meant in the result."""
    base = bases["gemma3_multimodal"]
    with pytest.raises(LoraportError, match=r"beside the language model.*vision_tower"):
        check(lora(tmp_path, base, target_modules=["q_proj"]), base)
    assert describe(base, "x", "")["other_tensors"] == []
    inside = lora(tmp_path / "inside", base, target_modules=r".*language_model.*q_proj")
    result = carried(tmp_path, base, inside)
    assert all("language_model" in path for path in config_of(result)["target_modules"])


def test_an_adapter_names_modules_as_an_older_checkpoint_does(tmp_path, bases):
    base = bases["gemma3_multimodal"]
    source = lora(tmp_path, base, target_modules=r".*language_model.*q_proj")

    def older(tensors):
        new, old = "model.model.language_model.", "model.language_model.model."
        return {name.replace(new, old): values for name, values in tensors.items()}

    edit_tensors(source, older)
    edit(source, target_modules=["q_proj"])
    check(source, base)


def check(source, base, known=(), revision=""):
    model = open_model(base)
    adapter = read_adapter(source)
    audit(adapter, model.architecture, model.dims, {str(base), *known}, revision)
    return adapter.warnings


@pytest.mark.parametrize("saved", [["lm_head"], ["layers.0.input_layernorm"]], ids=str)
def test_whole_modules_without_a_place_are_refused_by_name(tmp_path, bases, saved):
    source = lora(tmp_path, bases["llama"], modules_to_save=saved)
    wider = families.make_model(tmp_path / "wider", "llama", seed=2, wider=True)
    sides = [Side(m.architecture, m.dims) for m in (open_model(bases["llama"]), open_model(wider))]
    with pytest.raises(LoraportError, match=rf"no place in the new model.*{saved[0][-7:]}"):
        check_saved(read_adapter(source), *sides)


def test_saved_modules_take_the_new_familys_names(tmp_path, bases):
    source = lora(tmp_path, bases["llama"], modules_to_save=["embed_tokens"])
    other = families.make_model(tmp_path / "neox", "gpt_neox", seed=1)
    sides = [Side(m.architecture, m.dims) for m in (open_model(bases["llama"]), open_model(other))]
    adapter = read_adapter(source)
    same = same_tokens(tmp_path / "embedding.h5", bases["llama"])
    kept = keep_saved(adapter, *sides, same, None)
    assert list(kept) == ["gpt_neox.embed_in.weight"]
    assert "tokenizers are the same" in adapter.warnings[-1]


def test_audit_tells_of_another_revision_and_of_odd_norms(tmp_path, bases):
    base = bases["llama"]
    source = edit(lora(tmp_path, base, target_modules=ALL), revision="aaa")
    assert any("revision aaa" in warning for warning in check(source, base, revision="bbb"))
    assert check(source, base, revision="aaa") == []

    def tilt(tensors):
        name = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"
        return {**tensors, name: tensors[name] * 1e3}

    edit_tensors(source, tilt)
    assert "layers.0.mlp.up_proj: update norm" in check(source, base)[0]


def test_audit_reads_regular_expressions_as_targets(tmp_path, bases):
    """A target that the expression promises and the file lacks; one that is unsafe is passed by."""
    base = bases["llama"]
    source = lora(tmp_path, base, target_modules=r".*self_attn\.(q|v)_proj")
    check(source, base)

    def without(tensors):
        return {name: values for name, values in tensors.items() if "1.self_attn.v" not in name}

    edit_tensors(source, without)
    with pytest.raises(LoraportError, match=r"nothing for model\.layers\.1\.self_attn\.v_proj"):
        check(source, base)
    check(edit(source, target_modules=r"(.*)+self_attn\.(q|v)_proj"), base)


def test_audit_refuses_another_base(tmp_path, bases):
    source = lora(tmp_path, bases["llama"])
    with pytest.raises(LoraportError, match=r"lacks|another base model"):
        check(source, bases["phi3"])
    with pytest.raises(LoraportError, match="records another base"):
        check(edit(source, base_model_name_or_path="someone/else"), bases["llama"])


def test_adapters_of_old_peft_versions_are_read(tmp_path, bases):
    """`.default` in the names, and DoRA's magnitude with `.weight`."""
    base = bases["llama"]
    source = lora(tmp_path, base, use_dora=True)
    old = tmp_path / "old"
    shutil.copytree(source, old)
    edit_tensors(
        old,
        lambda tensors: {
            name.replace("lora_A.weight", "lora_A.default.weight").replace(
                "lora_magnitude_vector", "lora_magnitude_vector.weight"
            ): values
            for name, values in tensors.items()
        },
    )
    new, read = read_adapter(source).modules, read_adapter(old).modules
    for path, weights in new.items():
        assert np.array_equal(read[path].a, weights.a)
        assert np.array_equal(read[path].magnitude, weights.magnitude)


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
