"""Sizes and roles that differ by layer."""

import json
import re

import families
import family_configs
import numpy as np
import pico
import pytest
import torch
import transformers
from familycase import content
from transformers import AttentionInterface, AutoModelForCausalLM
from workdir import PROJECT

from loraport.errors import LoraportError
from loraport.models.families import Dimensions, family_of, parse
from loraport.models.families.dimensions import Dimensions as Sizes
from loraport.models.spec import check_shapes, describe, load_spec, open_model, shared_roles


def fields_of(config) -> dict:
    return json.loads(config.to_json_string(use_diff=False))


def read(config) -> tuple:
    fields = fields_of(config)
    family = family_of(fields, "config.json")
    return family, family.read_dimensions(fields, "config.json")


def test_a_model_of_one_kind_of_layer_is_recorded_as_ever():
    dims = Dimensions(100, 32, 56, 2, 4, 2, 8)
    assert list(dims.record()) == ["vocabulary", "hidden", "intermediate", "layers", "heads",
                                   "kv_heads", "head_dim", "experts"]  # fmt: skip
    assert Dimensions.of(dims.record()) == dims == dims.at(1)


def test_what_differs_is_recorded_and_read_again(tmp_path):
    directory = families.make_model(tmp_path / "model", "qwen3_5_text", seed=1, layers=3)
    model = open_model(directory)
    check_shapes(model)
    spec = describe(directory, "x", "")
    assert spec["other_tensors"] == []
    assert [each["lacks"][0] for each in spec["dimensions"]["by_layer"]] == ["q", "linear_q", "q"]
    assert Sizes.of(json.loads(json.dumps(spec["dimensions"]))) == model.dims
    assert shared_roles((model, model), (0, 1)) == ["gate", "up", "down"]
    assert shared_roles((model, model), (1, 1))[:2] == ["q", "k"]
    assert model.dims.at(0).lacks == ("q", "q_gate", "k", "v", "o")


@pytest.mark.parametrize("names", [["linear_attention"], "full_attention", [1, 2, 3]])
def test_a_config_that_does_not_say_what_each_layer_is_is_refused(names):
    fields = fields_of(family_configs.qwen3_5_text(num_hidden_layers=2)) | {"layer_types": names}
    with pytest.raises(LoraportError, match="does not say what each layer is"):
        family_of(fields, "").read_dimensions(fields, "config.json")


@pytest.mark.parametrize(
    "change",
    [
        {"layer_types": {}},
        {"by_layer": []},
        {"layer_types": {"field": "layer_types"}},
        {"by_layer": [{"kind": "full_attention"}]},
        {"by_layer": [{"lacks": ["w"]}]},
        {"by_layer": [{"dimensions": {"depth": ["num_hidden_layers"]}}]},
    ],
    ids=str,
)
def test_rules_that_name_what_is_not_there_are_refused(change):
    whole = content("qwen3_5_text")
    assert parse("x", whole).by_layer
    with pytest.raises(LoraportError, match="is not a family"):
        parse("x", {**whole, **change})


def test_the_gate_is_the_rows_that_multiply_what_attention_gives():
    """The module's own forward pass with attention that gives its queries, without o_proj."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 48, "head_dim": 12}
    config = family_configs.qwen3_5_text(num_attention_heads=4, num_key_value_heads=2, **sizes)
    family, dims = read(config)
    model = AutoModelForCausalLM.from_config(config).double()
    attention = model.model.layers[1].self_attn
    AttentionInterface.register("queries", lambda m, query, *rest, **more: (query.mT.mT, None))
    attention.config._attn_implementation = "queries"
    attention.o_proj = torch.nn.Identity()
    hidden = torch.randn(1, 5, 32, dtype=torch.float64)
    zero = torch.zeros(1, 5, 6, dtype=torch.float64)
    q, gate = (
        hidden @ attention.q_proj.weight[torch.from_numpy(family.rows(role, dims.at(1)))].T
        for role in ("q", "q_gate")
    )
    given, _ = attention(hidden, position_embeddings=(zero + 1, zero), attention_mask=None)
    # heads before positions, as attention is called, flattened as it comes
    normed = attention.q_norm(q.view(1, 5, 4, 12)).transpose(1, 2).reshape(1, 5, 48)
    assert torch.allclose(given, normed * torch.sigmoid(gate), atol=1e-12)


# hub id -> hidden, intermediate, layers, heads, key-value heads, linear value heads
PUBLISHED = {  # as transformers' own defaults have them
    "Qwen/Qwen3.5-9B": (4096, 12288, 32, 16, 4, 32),
    "Qwen/Qwen3.5-35B-A3B": (2048, 512, 40, 16, 2, 32),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_resolve_at_published_dimensions(name):
    hidden, intermediate, layers, heads, kv_heads, linear_heads = PUBLISHED[name]
    mixture = "A3B" in name
    kinds = [transformers.Qwen3_5TextConfig, transformers.Qwen3_5Config]
    if mixture:
        kinds = [transformers.Qwen3_5MoeTextConfig, transformers.Qwen3_5MoeConfig]
    width = {"moe_intermediate_size" if mixture else "intermediate_size": intermediate}
    text = kinds[0](
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, linear_num_value_heads=linear_heads, **width,
    )  # fmt: skip
    for config in (text, kinds[1](text_config=text.to_dict())):
        family, dims = read(config)
        assert (dims.intermediate, dims.experts) == (intermediate, 256 if mixture else 1)
        with torch.device("meta"):
            model = pico.auto_class(config).from_config(config)
        shapes = {path: tuple(values.shape) for path, values in model.named_parameters()}
        modules = {
            f"{family.path(layer, module)}.weight": family.module_shape(module, dims.at(layer))
            for layer in range(layers)
            for module in family.modules_of(dims.at(layer))
        }
        assert modules.items() <= shapes.items()
        assert sum("q_proj" in path for path in modules) == layers // 4
        rows = [family.rows(role, dims.at(3)) for role in ("q", "q_gate")]
        assert np.array_equal(np.sort(np.concatenate(rows)), np.arange(2 * heads * dims.head_dim))


def test_specs_without_weights_know_their_layers(tmp_path):
    from loraport.artifacts import write_json

    directory = families.make_model(tmp_path / "model", "qwen3_5", seed=1)
    write_json(tmp_path / "spec.json", "spec", {}, describe(directory, "x", ""))
    assert load_spec(tmp_path / "spec.json").dims == open_model(directory).dims


def test_the_rules_in_the_guide_say_what_the_guide_says():
    guide = (PROJECT / "CONTRIBUTING.md").read_text()
    rules = json.loads(re.search(r'^```json\n(\{\n "layer_types".*?)^```', guide, re.M | re.S)[1])
    whole = json.loads((PROJECT / "src/loraport/models/families/llama.json").read_text())
    family = parse("x", {**whole, **rules})
    config = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6,
              "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}  # fmt: skip
    more = {"attention_k_eq_v": True, "global_head_dim": 16, "num_kv_shared_layers": 2,
            "full_attention_interval": 2}  # fmt: skip
    dims = family.read_dimensions({**config, **more}, "x")
    assert [each.head_dim for each in dims.by_layer] == [8, 16] * 3
    assert [each.borrows for each in dims.by_layer] == [-1, -1, -1, -1, 2, 3]
    assert [set(each.lacks) for each in dims.by_layer] == [
        *(set(), {"v"}, set(), {"v"}),
        *({"k", "v"}, {"k", "v"}),
    ]
    plain = family.read_dimensions(config, "x")
    assert [each.head_dim for each in plain.by_layer] == [8, 8, 8, 512, 8, 8]
    named = ["full_attention"] + ["sliding_attention"] * 5
    listed = family.read_dimensions({**config, "layer_types": named}, "x")
    assert [each.head_dim for each in listed.by_layer] == [512, 8, 8, 8, 8, 8]
