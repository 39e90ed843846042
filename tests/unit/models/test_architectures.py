"""Family files against transformers' own config and modelling code: names, shapes, rows."""

import json

import families
import numpy as np
import pytest
import torch
from families import BY_LAYER, FAMILIES
from familycase import content, make_config, on_meta, written
from transformers import AttentionInterface, AutoModelForCausalLM

from loraport.errors import LoraportError
from loraport.models import families as architectures
from loraport.models.families import family_of, parse
from loraport.models.spec import open_model


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    """(name, family, dimensions, model on the meta device)"""
    config = make_config(request.param)
    family = family_of(written(config), "config.json")
    return request.param, family, family.read_dimensions(written(config), ""), on_meta(config)


def test_every_family_file_has_a_case_here():
    assert set(architectures.families()) == {*FAMILIES, "minicpm"}


def test_modules_are_the_models_with_their_shapes(case):
    name, family, dims, model = case
    assert family.name == name
    linear = {
        path: tuple(module.weight.shape)
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and path != family.head
        and not path.startswith(family.beside)
        and not family.is_of_experts(path)
        and not family.is_uncarried(path)
    }
    described = {
        family.path(layer, module): family.module_shape(module, dims.at(layer))
        for layer in range(dims.layers)
        for module in family.modules_of(dims.at(layer))
    }
    assert described == linear
    assert bool(dims.by_layer) == (name in BY_LAYER)
    if name not in BY_LAYER:
        assert dims.layers == len(linear) // len(family.modules)


def test_embedding_and_head_are_the_models(case):
    name, family, dims, model = case
    modules = dict(model.named_modules())
    assert modules[family.embedding] is model.get_input_embeddings()
    assert modules[family.head] is model.get_output_embeddings()
    assert modules[family.embedding].weight.shape == (dims.vocabulary, dims.hidden)
    # the text model of Llama 4 calls itself by the place that it has in the one that also sees
    assert family.prefix == model.base_model_prefix or name == "llama4"
    assert isinstance(modules[family.block.format(layer=0)], torch.nn.Module)


def test_roles_are_where_the_modelling_code_has_them(case):
    name, family, dims, _ = case
    assert set(family.roles) == set(FAMILIES[name].paths)
    for layer in range(dims.layers):
        assert set(family.roles_of(dims.at(layer))) == set(families.roles(name, layer))
    for role, path in FAMILIES[name].paths.items():
        assert family.module_of(role) == path
        numbers = np.arange(family.module_shape(path, dims)[0])[:, None]
        by_hand = families.split(name, role, numbers, dims.heads, dims.kv_heads)[:, 0]
        rows = family.rows(role, dims)
        assert np.array_equal(numbers[:, 0] if rows is None else rows, by_hand)


def test_norms_are_all_and_nothing_else_is_left(case):
    name, family, dims, model = case
    models = [model]
    options = {"phi": "qk_layernorm", "glm4_moe": "use_qk_norm"}  # norms of queries and keys
    if name in options:
        models.append(on_meta(make_config(name, **{options[name]: True})))
    paths = {
        path
        for each in models
        for path, module in each.named_modules()
        if "Norm" in type(module).__name__
        and [*module.parameters()]
        and not path.startswith(family.beside)
    }
    named = {each.format(layer=layer) for each in family.norms for layer in range(dims.layers)}
    assert named == paths if name not in BY_LAYER else paths < named
    assert all(family.describes(tensor) for tensor in model.state_dict())
    assert not family.describes(f"{family.block.format(layer=0)}.unheard_of.weight")


def test_dimensions_of_wider_models_differ_where_the_config_does(case):
    name, family, dims, _ = case
    wider = family.read_dimensions(written(make_config(name, wider=True)), "")
    given = families.sizes(name, wider=True)
    assert (wider.hidden, wider.layers) == (64, given["layers"])
    wider, dims = wider.at(0), dims.at(0)
    assert wider.intermediate == given["intermediate"] != dims.intermediate
    assert wider.head_dim == given.get("head_dim", 16)
    assert wider.kv_heads == given["kv_heads"]


def capture(store):
    def forward(module, query, key, value, attention_mask, **kwargs):
        store.extend((query, key, value))
        return query.transpose(1, 2).contiguous(), None

    return forward


@pytest.mark.parametrize("name", ["gpt_neox", "phi3", "llama", "bloom"])
def test_rows_give_the_queries_keys_and_values_that_attention_uses(name):
    """The module's own forward pass, its rotation neutral, against projections by roles' rows."""
    torch.manual_seed(0)
    config = make_config(name)
    family = family_of(written(config), "")
    dims = family.read_dimensions(written(config), "")
    model = AutoModelForCausalLM.from_config(config).double()
    attention = model.get_submodule(family.path(0, family.module_of("q")).rpartition(".")[0])
    hidden = torch.randn(2, 5, dims.hidden, dtype=torch.float64)
    if name == "bloom":
        fused = attention.query_key_value(hidden)
        used = attention._reshape(fused)
    else:
        used = []
        AttentionInterface.register("capture", capture(used))
        attention.config._attn_implementation = "capture"
        width = getattr(attention, "rotary_ndims", dims.head_dim)
        zero = torch.zeros(2, 5, width, dtype=torch.float64)
        attention(hidden, position_embeddings=(zero + 1, zero), attention_mask=None)
    for role, states in zip("qkv", used, strict=True):
        module = model.get_submodule(family.path(0, family.module_of(role)))
        rows = family.rows(role, dims)
        rows = slice(None) if rows is None else torch.from_numpy(rows)
        mine = hidden @ module.weight[rows].T
        if module.bias is not None:
            mine = mine + module.bias[rows]
        heads = dims.heads if role == "q" else dims.kv_heads
        mine = mine.view(2, 5, heads, dims.head_dim).transpose(1, 2)
        assert torch.allclose(states, mine, atol=1e-12)


def test_rows_of_gate_and_up_are_those_that_the_mlp_multiplies():
    torch.manual_seed(0)
    config = make_config("phi3")
    family = family_of(written(config), "")
    dims = family.read_dimensions(written(config), "")
    mlp = AutoModelForCausalLM.from_config(config).double().model.layers[0].mlp
    hidden = torch.randn(3, dims.hidden, dtype=torch.float64)
    gate, up = (
        hidden @ mlp.gate_up_proj.weight[torch.from_numpy(family.rows(role, dims))].T
        for role in ("gate", "up")
    )
    assert torch.allclose(mlp(hidden), mlp.down_proj(mlp.activation_fn(gate) * up), atol=1e-12)


def test_a_factor_of_the_residual_stream_is_the_configs(tmp_path):
    directory = families.make_model(tmp_path / "model", "granite", seed=1)
    fields = json.loads((directory / "config.json").read_text())
    assert open_model(directory).residual == fields["residual_multiplier"] == 0.22
    family = open_model(directory).architecture
    assert family.residual_factor({}, "") == 1
    for wrong in (0, -1, "0.2", float("nan"), True):
        with pytest.raises(LoraportError, match="no usable factor"):
            family.residual_factor({"residual_multiplier": wrong}, "config.json")
    with pytest.raises(LoraportError, match="is not a family"):
        parse("x", {**content("gemma3"), "residual": "residual_multiplier"})
