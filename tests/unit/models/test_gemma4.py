"""Gemma 4: what its layers have of their own, and what they borrow."""

import json

import families
import pico
import pytest
import torch
import transformers
from familycase import content
from safetensors.numpy import load_file, save_file
from test_by_layer import read

from loraport.errors import LoraportError
from loraport.mapping.heads import head_pairs
from loraport.models.families import family_of, parse
from loraport.models.side import Side
from loraport.models.spec import describe, open_model
from loraport.planning import needs, sizes
from loraport.planning.prospect import prospect
from loraport.transfer.left import made_elsewhere

# hub id -> hidden, intermediate, layers, heads, key-value heads, those of full attention, layers
# that borrow, n of every n-th with full attention, experts; billions of weights, of text
PUBLISHED = {
    "google/gemma-4-E2B": (1536, 6144, 35, 8, 1, None, 20, 5, 0, 4.6),
    "google/gemma-4-E4B": (2560, 10240, 42, 8, 2, None, 18, 6, 0, 7.5),
    "google/gemma-4-31B": (5376, 21504, 60, 32, 16, 4, 0, 6, 0, 30.7),
    "google/gemma-4-26B-A4B": (2816, 2112, 30, 16, 8, 2, 0, 6, 128, 25.2),
}


def published(name: str) -> dict:
    """Fields as the published files have them: no `per_layer_config`."""
    hidden, inner, layers, heads, keys, wide_keys, borrow, every, experts, _ = PUBLISHED[name]
    kinds = ["full_attention" if n % every == 0 else "sliding_attention"
             for n in range(1, layers + 1)]  # fmt: skip
    mixture = {"num_experts": experts, "top_k_experts": 8, "moe_intermediate_size": 704}
    return {
        "model_type": "gemma4_text", "hidden_size": hidden, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": keys,
        "head_dim": 256, "global_head_dim": 512, "num_global_key_value_heads": wide_keys,
        "attention_k_eq_v": wide_keys is not None, "num_kv_shared_layers": borrow,
        "hidden_size_per_layer_input": 256 if borrow else 0, "layer_types": kinds,
        "use_double_wide_mlp": "E2B" in name, "vocab_size": 262144,
        "enable_moe_block": bool(experts), **(mixture if experts else {}),
    }  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_resolve_at_published_dimensions(name):
    fields = published(name)
    text = transformers.Gemma4TextConfig(**fields)
    whole = transformers.Gemma4Config(text_config=text.to_dict(), vision_config={})
    inside = {"model_type": "gemma4", "text_config": fields}
    for config, written in ((text, fields), (whole, inside)):
        family = family_of(written, "config.json")
        dims = family.read_dimensions(written, "config.json")
        assert read(config) == (family, dims)  # as transformers writes it today
        with torch.device("meta"):
            model = pico.auto_class(config).from_config(config)
        linear = {
            path: tuple(module.weight.shape)
            for path, module in model.named_modules()
            if isinstance(module, torch.nn.Linear)
            and not path.startswith((*family.beside, "lm_head"))
            and not family.is_uncarried(path)
            and not family.is_of_experts(path)
        }
        assert linear == {
            family.path(layer, module): family.module_shape(module, dims.at(layer))
            for layer in range(dims.layers)
            for module in family.modules_of(dims.at(layer))
        }
        assert all(map(family.describes, model.state_dict()))
        billions = (
            sum(
                values.numel()
                for path, values in dict(model.named_parameters()).items()
                if not path.startswith(family.beside)
            )
            / 1e9
        )
        assert billions == pytest.approx(PUBLISHED[name][-1], rel=0.01)
        head = dims.vocabulary * dims.hidden / 1e9  # which is the embedding's
        planned = sizes.parameters(dims) / 1e9 - head
        assert planned == pytest.approx(billions, rel=0.03)
        largest = max(values.numel() for values in model.parameters() if values.ndim == 2)
        assert needs.need("spec", dims).mib > 4 * largest / needs.MIB


def test_what_is_borrowed_is_recorded(tmp_path):
    model = open_model(families.make_model(tmp_path / "model", "gemma4_multimodal", seed=1))
    spec = describe(model.directory, "x", "")
    assert spec["other_tensors"] == []
    layers = spec["dimensions"]["by_layer"]
    assert [each.get("borrows") for each in layers] == [None, None, 0, 1]
    assert spec["dimensions"]["per_layer_input"] == 6
    assert type(model.dims).of(json.loads(json.dumps(spec["dimensions"]))) == model.dims


def test_layers_that_borrow_where_there_is_nothing_are_refused():
    fields = published("google/gemma-4-E4B") | {"num_kv_shared_layers": 38}
    with pytest.raises(LoraportError, match=r"layer 5 reads keys and values.*'full_attention'"):
        family_of(fields, "").read_dimensions(fields, "config.json")


def test_the_field_chooses_between_families_of_one_model_type():
    fields = published("google/gemma-4-26B-A4B")
    assert family_of(fields, "").name == "gemma4_moe"
    for said in ({"enable_moe_block": False}, {"enable_moe_block": None}):
        assert family_of(fields | said, "").name == "gemma4"
    del fields["enable_moe_block"]
    assert family_of(fields, "").name == "gemma4"
    inside = {"model_type": "gemma4", "text_config": {"enable_moe_block": True}}
    assert family_of(inside, "").name == "gemma4_moe_multimodal"


@pytest.mark.parametrize("kind", ["gemma4_assistant", "gemma4_unified_assistant"])
def test_draft_models_are_refused_by_name(kind):
    with pytest.raises(LoraportError, match=f"'{kind}' has a draft model"):
        family_of({"model_type": kind, "text_config": published("google/gemma-4-E2B")}, "")


def test_a_family_whose_block_goes_on_by_what_it_does_not_name_is_refused():
    whole = content("gemma4")
    assert parse("x", whole).behind
    with pytest.raises(LoraportError, match=r"not a family.*mixer"):
        parse("x", {**whole, "behind": ["mixer"]})


def sides(root, *names):
    made = (open_model(families.make_model(root / name, name, seed=1)) for name in names)
    return [Side(model.architecture, model.dims) for model in made]


def test_heads_are_compared_by_the_keys_and_values_that_they_read(tmp_path):
    borrowing, keys_alone, linear = sides(tmp_path, "gemma4_multimodal", "gemma4", "qwen3_5_text")
    assert borrowing.maker(2, "k") == (0, "k")
    assert borrowing.maker(3, "v") == (1, "v")
    assert borrowing.maker(3, "q") == (3, "q")
    assert keys_alone.maker(1, "v") == (1, "k")
    assert keys_alone.maker(0, "v") == (0, "v")
    assert linear.maker(0, "v") is None
    names = ("gemma3", "gemma4", "qwen3_5_text")
    old, *new = (
        open_model(families.make_model(tmp_path / f"{name}_again", name, seed=1)) for name in names
    )
    path = [(0, 0), (1, 1)]
    assert head_pairs((old, new[0]), path) == [(0, 0, False), (1, 1, False)]
    assert head_pairs((old, new[1]), path) == [(1, 1, False)]


def test_keys_and_values_that_get_no_update_are_told(tmp_path):
    """Of old layers that borrow, or whose keys are values, though the adapter changes those."""
    borrowing, keys_alone, plain = sides(tmp_path, "gemma4_multimodal", "gemma4", "gemma3")
    k = "self_attn.k_proj"
    (line,) = made_elsewhere({(0, k)}, [(0, 0), (2, 1), (None, 2)], borrowing, plain)
    assert line.startswith("self_attn.k_proj of 1 new layers get no update")
    (line,) = made_elsewhere({(1, k)}, [(0, 0), (1, 1)], keys_alone, plain)
    assert line.startswith("self_attn.v_proj of 1 new layers get no update")
    assert made_elsewhere({(1, k)}, [(0, 0), (2, 1)], borrowing, plain) == []  # another's keys
    assert made_elsewhere({(0, k), (1, k)}, [(0, 0), (1, 1)], plain, keys_alone) == []
    assert made_elsewhere({(0, "mlp.up_proj")}, [(2, 1)], borrowing, plain) == []


def told(adapter, old, new):
    return prospect(adapter, old, new, {str(old.directory)})


def test_updates_of_the_layers_own_inputs_are_left_behind_and_told(tmp_path):
    old = open_model(families.make_model(tmp_path / "old", "gemma4_multimodal", seed=1))
    new = open_model(families.make_model(tmp_path / "new", "gemma3", seed=1))
    own = "per_layer_input_gate|per_layer_projection|per_layer_model_projection"
    named = rf".*language_model.*\.({own}|q_proj)"
    lora = pico.make_adapter(tmp_path / "all", old.directory, seed=3, targets=named)
    found = told(lora, old, new)
    assert not found.refused
    (line,) = [each for each in found.notes if "left behind" in each]
    assert line.startswith("9 updates of per_layer_input_gate, per_layer_model_projection, per_lay")
    assert "% of the update's squared norm: no map carries these modules" in line
    alone = pico.make_adapter(
        tmp_path / "alone", old.directory, seed=3, targets=rf".*language_model.*\.({own})"
    )
    (why,) = told(alone, old, new).refused
    assert "adapts nothing that can be carried" in why and "per_layer_projection" in why


def test_updates_of_projections_that_are_not_used_are_left_out(tmp_path):
    """As files of older transformers have them: of layers that read others' keys and values."""
    old = open_model(families.make_model(tmp_path / "old", "gemma4_multimodal", seed=1))
    lora = pico.make_adapter(
        tmp_path / "lora", old.directory, seed=3, targets=families.targets("gemma4_multimodal")
    )
    file = lora / "adapter_model.safetensors"
    tensors = load_file(file)
    idle = {name.replace("layers.0.self_attn.k", "layers.2.self_attn.k"): values
            for name, values in tensors.items() if "layers.0.self_attn.k_proj" in name}  # fmt: skip
    assert len(idle) == 2
    save_file({**tensors, **idle}, file, {"format": "pt"})
    found = told(lora, old, old)
    assert not found.refused
    assert any("1 updates of k_proj are left out" in note for note in found.notes)
