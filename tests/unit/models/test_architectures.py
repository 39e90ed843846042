"""Family files against transformers' own config and modelling code: names, shapes, rows."""

import json
from importlib.resources import files

import families
import numpy as np
import pico
import pytest
import torch
from families import BY_LAYER, FAMILIES, MIXTURES
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from loraport.errors import LoraportError
from loraport.models import families as architectures
from loraport.models.families import family_of, parse
from loraport.models.families.beyond import beyond_a_file
from loraport.models.spec import check_shapes, describe, open_model

VOCABULARY = 48


def make_config(name, wider=False, **changes):
    """A config as its class makes it, and the same as it would stand in config.json."""
    given = families.sizes(name, wider)
    fields = {
        "vocab_size": VOCABULARY,
        "hidden_size": given["hidden"],
        "num_hidden_layers": given["layers"],
        "num_attention_heads": given["heads"],
        "pad_token_id": 0,
        "eos_token_id": 2,
    }
    if name != "bloom":
        fields["intermediate_size"] = given["intermediate"]
    if FAMILIES[name].sizes is not families.MHA:
        fields["num_key_value_heads"] = given["kv_heads"]
    if "head_dim" in given:
        fields["head_dim"] = given["head_dim"]
    return FAMILIES[name].config_class(**{**fields, **changes})


def on_meta(config):
    with torch.device("meta"):
        return pico.auto_class(config).from_config(config)


def written(config):
    return json.loads(config.to_json_string(use_diff=False))


def content(name):
    return json.loads((files(architectures) / f"{name}.json").read_text())


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


FLAT = {"hidden_size": 64, "intermediate_size": 72, "num_hidden_layers": 1, "vocab_size": 48,
        "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
QWEN3_5 = (
    "linear_num_key_heads", "linear_key_head_dim", "linear_num_value_heads", "linear_value_head_dim"
)  # fmt: skip
# as files were written before `per_layer_config`; None and ... as below
BEFORE = {"per_layer_config": ..., "layer_types": ..., "num_hidden_layers": 7}
GEMMA4 = [
    {**BEFORE, "global_head_dim": 20, "attention_k_eq_v": True, "num_global_key_value_heads": 1},
    {**BEFORE, "global_head_dim": 20, "attention_k_eq_v": False, "num_global_key_value_heads": 1},
    {**BEFORE, "attention_k_eq_v": True, "num_global_key_value_heads": None},
    {**BEFORE, "num_hidden_layers": 12},
    {"num_hidden_layers": 12, "layer_types": ..., "per_layer_config": {"05": {"head_dim": 20},
                                                                       "11": {"head_dim": 20}}},
    {"head_dim": ..., "num_attention_heads": ...},
]  # fmt: skip
FALLBACKS = [  # family -> changes of config.json that transformers understands
    *((name, {"num_key_value_heads": None}) for name in ("llama", "qwen2", "qwen3", "olmo")),
    *((name, {"num_key_value_heads": None}) for name in ("olmo2", "phi", "phi3")),
    *((name, {"head_dim": None}) for name in ("llama", "mistral")),
    ("mistral", {"num_key_value_heads": ..., "num_attention_heads": 16, "head_dim": 4}),
    ("qwen2", {"num_key_value_heads": ..., "num_attention_heads": 32}),
    ("qwen3", {"num_key_value_heads": ..., "num_attention_heads": 32}),
    ("gemma", {"num_key_value_heads": ..., "num_attention_heads": 16}),
    ("gemma2", {"num_key_value_heads": ..., "num_attention_heads": 8}),
    ("gemma3", {"num_key_value_heads": ..., "num_attention_heads": 8}),
    *((name, {"num_key_value_heads": ...}) for name in ("llama", "olmo", "olmo2", "phi", "phi3")),
    *((name, {"head_dim": ...}) for name in ("llama", "mistral", "qwen3")),
    *((name, {"head_dim": ...}) for name in ("gemma", "gemma2", "gemma3")),
    ("bloom", {"hidden_size": ..., "n_embed": 64}),
    ("bloom", {"n_head": ..., "num_attention_heads": 8}),
    ("bloom", {"n_layer": ..., "num_hidden_layers": 3}),
    ("bloom", {"hidden_size": ..., "n_embed": 64, "n_head": ..., "num_attention_heads": 8}),
    ("gemma3_multimodal", {"text_config": {"vocab_size": 48, "num_attention_heads": 4}}),
    ("gemma3_multimodal", {"text_config": {"hidden_size": 64, "num_hidden_layers": 1}}),
    *((name, {"num_key_value_heads": None}) for name in ("olmo3", "smollm3")),
    *(
        (name, {"num_key_value_heads": None})
        for name in ("granite", "hunyuan_v1_dense", "ernie4_5")
    ),
    *(
        (name, {"num_key_value_heads": None})
        for name in ("seed_oss", "arcee", "apertus", "cohere2")
    ),
    *((name, {"head_dim": None}) for name in ("ernie4_5", "seed_oss", "arcee")),
    *((name, {"head_dim": ...}) for name in ("ministral3", "glm4", "ernie4_5", "seed_oss")),
    *((name, {"head_dim": 12}) for name in ("olmo3", "smollm3", "granite", "exaone4", "apertus")),
    ("ministral3", {"num_key_value_heads": ..., "num_attention_heads": 16}),
    ("smollm3", {"num_key_value_heads": ..., "num_attention_heads": 8}),
    ("glm4", {"num_key_value_heads": ..., "num_attention_heads": 8}),
    ("exaone4", {"num_key_value_heads": ..., "num_attention_heads": 32}),
    ("ernie4_5", {"num_key_value_heads": ..., "num_attention_heads": 8}),
    ("seed_oss", {"num_key_value_heads": ..., "num_attention_heads": 16}),
    *((name, {"num_key_value_heads": ...}) for name in ("olmo3", "granite", "arcee", "apertus")),
    ("qwen2_5_vl", {"text_config": ..., **FLAT}),  # as the published ones are
    *(
        (name, {"text_config": {"vocab_size": 48, "num_hidden_layers": 1}})  # of Mistral for one
        for name in ("qwen2_5_vl", "qwen3_vl", "mistral3")
    ),
    (
        "mistral3",
        {"text_config": {"model_type": "ministral3", "num_hidden_layers": 1, "vocab_size": 48}},
    ),
    ("phi3", {"head_dim": 10}),
    ("qwen2", {"head_dim": 12}),
    *((name, {"head_dim": ...}) for name in MIXTURES if not name.startswith("llama4")),
    *((name, {"head_dim": ..., "num_attention_heads": 16}) for name in ("gpt_oss", "phimoe")),
    ("mixtral", {"head_dim": None}),
    *((name, {"num_key_value_heads": None}) for name in ("granitemoe", "olmoe")),
    *(
        (name, {"num_key_value_heads": ..., "num_attention_heads": 16})
        for name in MIXTURES
        if name not in ("ernie4_5_moe", "llama4_multimodal")
    ),
    ("ernie4_5_moe", {"num_key_value_heads": ..., "num_attention_heads": 8}),
    ("llama4", {"head_dim": ..., "hidden_size": 64}),
    ("llama4_multimodal", {"text_config": {"num_hidden_layers": 1, "num_local_experts": 2}}),
    ("qwen3_5_text", {"layer_types": ..., "num_hidden_layers": 9}),
    ("qwen3_5_text", {"layer_types": ..., "num_hidden_layers": 7, "full_attention_interval": 3}),
    ("qwen3_5_text", {"num_key_value_heads": ..., "num_attention_heads": 8}),
    *(("qwen3_5_text", {key: ...}) for key in ("head_dim", *QWEN3_5)),
    ("qwen3_5_text", dict.fromkeys(QWEN3_5, ...)),
    ("qwen3_5", {"text_config": {"num_hidden_layers": 5, "vocab_size": 48}}),
    *(("gemma4", changes) for changes in GEMMA4),
    ("gemma4_multimodal", {"text_config": {"num_hidden_layers": 13, "vocab_size": 48}}),
    ("gemma4_multimodal", {"text_config": {"num_kv_shared_layers": 9, "num_hidden_layers": 16}}),
    ("gemma4_multimodal", {"text_config": {"use_double_wide_mlp": True, "num_hidden_layers": 9,
                                           "num_kv_shared_layers": 2, "vocab_size": 48}}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes"), FALLBACKS, ids=str)
def test_fallbacks_are_transformers_own(tmp_path, name, changes):
    """A config that lacks a field (…), or holds null, gives the model that transformers builds."""
    fields = {**written(make_config(name)), **changes}
    fields = {key: value for key, value in fields.items() if value is not ...}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    model = on_meta(AutoConfig.from_pretrained(tmp_path))
    family = family_of(fields, "config.json")
    dims = family.read_dimensions(fields, "config.json")
    for layer in range(dims.layers):
        for module in family.modules_of(dims.at(layer)):
            shape = tuple(model.get_submodule(family.path(layer, module)).weight.shape)
            assert family.module_shape(module, dims.at(layer)) == shape, module
    assert not any(f".{dims.layers}." in path for path, _ in model.named_modules())
    config, dims = model.config.get_text_config().per_layer_config[0], dims.at(0)
    assert dims.heads == config.num_attention_heads
    assert dims.kv_heads == getattr(config, "num_key_value_heads", dims.heads)


COUNTS = {  # family -> fields that say how many experts there are
    "qwen3_moe": ("num_experts", "num_local_experts"),
    "qwen2_moe": ("num_experts",),
    "glm4_moe": ("n_routed_experts",),
    "ernie4_5_moe": ("moe_num_experts",),
    "olmoe": ("num_experts",),
}


@pytest.mark.parametrize("name", [each for each in MIXTURES if not each.startswith("gemma4")])
def test_experts_are_counted_and_as_wide_as_the_models(name, tmp_path):
    """With the fields of the config, and without those that say how many and how wide."""
    fields = written(make_config(name))
    inside = fields.get("text_config", fields)
    without = dict(inside)
    for key in (*COUNTS.get(name, ("num_local_experts",)), "moe_intermediate_size"):
        without.pop(key, None)
    whole = {**fields, "text_config": without} if inside is not fields else without
    for each in (fields, whole):
        (tmp_path / "config.json").write_text(json.dumps(each))
        model = on_meta(AutoConfig.from_pretrained(tmp_path))
        downs = [values for key, values in model.named_parameters() if key.endswith("down_proj")]
        family = family_of(each, "")
        dims = family.read_dimensions(each, "")
        assert {len(values) for values in downs} == {dims.experts}
        assert all(sorted((dims.hidden, dims.intermediate)) == sorted(v.shape[1:]) for v in downs)


def test_experts_whose_weights_are_packed_leave_the_model_as_it_is():
    """GPT-OSS is published in MXFP4: its experts alone; other methods take attention as well."""
    packed = {"quantization_config": {"quant_method": "mxfp4"}}
    assert family_of(written(make_config("gpt_oss")) | packed, "").name == "gpt_oss"
    for name, method in (("gpt_oss", "bitsandbytes"), ("llama", "mxfp4")):
        fields = written(make_config(name)) | {"quantization_config": {"quant_method": method}}
        with pytest.raises(LoraportError, match=rf"quantised.*{method}"):
            family_of(fields, "config.json")


@pytest.mark.parametrize("name", FAMILIES)
def test_tied_is_transformers_default(tmp_path, name):
    fields = written(make_config(name))
    del fields["tie_word_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    family = family_of(fields, "")
    assert family.is_tied(fields) == AutoConfig.from_pretrained(tmp_path).tie_word_embeddings
    assert family.is_tied({"tie_word_embeddings": True})
    assert not family.is_tied({"tie_word_embeddings": False})


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


@pytest.mark.parametrize("name", ["bloom", "gpt_neox", "llama"])
def test_checkpoints_of_the_bare_model_and_older_names_are_found(tmp_path, name):
    """No prefix, as a bare model is saved; GPT-NeoX's head as `embed_out`; buffers beside."""
    directory = families.make_model(tmp_path / name, name, seed=1)
    family = open_model(directory).architecture
    before = open_model(directory).checkpoint()
    paths = family.embedding, family.path(1, next(iter(family.modules)))
    first = {path: before.read(f"{path}.weight") for path in paths}

    def rename(tensors):
        renamed = {}
        for tensor, value in tensors.items():
            module = tensor.rpartition(".")[0]
            if module in family.aliases:
                tensor = tensor.replace(module, family.aliases[module])
            renamed[tensor.removeprefix(f"{family.prefix}.")] = value
        block = family.block.format(layer=0).removeprefix(f"{family.prefix}.")
        for buffer in family.buffers:
            renamed[f"{block}.{buffer}"] = torch.full((1,), -torch.inf)
        return renamed

    model = open_model(pico.edit_model(tmp_path / "bare", directory, rename))
    check_shapes(model)
    for path, values in first.items():
        assert np.array_equal(model.checkpoint().read(f"{path}.weight"), values)
    described = describe(model.directory, str(model.directory), "")
    assert described["other_tensors"] == []
    assert AutoModelForCausalLM.from_pretrained(model.directory).get_input_embeddings() is not None


def test_a_head_that_is_not_tied_must_be_there(tmp_path):
    directory = families.make_model(tmp_path / "whole", "llama", seed=1)
    without = pico.edit_model(
        tmp_path / "headless",
        directory,
        lambda tensors: {n: v for n, v in tensors.items() if not n.startswith("lm_head")},
    )
    with pytest.raises(LoraportError, match=r"lm_head\.weight"):
        check_shapes(open_model(without))


def test_tensors_that_the_family_does_not_know_are_listed(tmp_path):
    directory = families.make_model(tmp_path / "whole", "qwen2", seed=1)
    more = pico.edit_model(
        tmp_path / "more",
        directory,
        lambda tensors: {**tensors, "model.layers.0.router.weight": torch.ones(2, 2)},
    )
    assert describe(more, "x", "")["other_tensors"] == ["model.layers.0.router.weight"]


def test_a_bad_number_in_one_of_many_experts_is_found(tmp_path):
    """One tensor holds all of them, and is read expert by expert."""

    def spoil(tensors):
        tensors["model.layers.0.mlp.experts.down_proj"][2, 3, 4] = torch.nan
        return tensors

    whole = families.make_model(tmp_path / "whole", "gpt_oss", seed=1)
    assert describe(whole, "x", "")["dimensions"]["experts"] == 4
    with pytest.raises(LoraportError, match=r"down_proj.*holds NaN.*1 bad"):
        describe(pico.edit_model(tmp_path / "bad", whole, spoil), "x", "")


@pytest.mark.parametrize("field", content("gpt_neox"))
def test_a_family_without_a_field_is_refused(field):
    changed = {key: value for key, value in content("gpt_neox").items() if key != field}
    if field in ("aliases", "buffers"):
        assert getattr(parse("x", changed), field) in ({}, ())
        return
    with pytest.raises(LoraportError, match="is not a family"):
        parse("x", changed)


@pytest.mark.parametrize(
    "change",
    [
        {"head_split": 3},
        {"norm_shift": 1},  # which nothing reads without output_norms
        {"output_norms": {"up": "input_layernorm"}},
        {"output_norms": {"o": "no_norm"}},
        {"layouts": {"attention.query_key_value": "by_colour"}},
        {"layouts": {}},
        {"modules": {"a": ["q"], "b": ["q"]}},
        {"modules": {"a": ["query"]}},
        {"dimensions": {"hidden": ["hidden_size"]}},
        {"layouts": {"mlp.dense_h_to_4h": "blocks", "attention.query_key_value": "per_head"}},
    ],
    ids=str,
)
def test_a_family_with_a_field_that_nothing_reads_is_refused(change):
    with pytest.raises(LoraportError, match="is not a family"):
        parse("x", {**content("gpt_neox"), **change})


@pytest.mark.parametrize(
    "change", [{"norm_shift": "1"}, {"output_norms": {"q": "self_attn.q_norm"}}]
)
def test_norms_on_outputs_that_no_map_knows_of_are_refused(change):
    assert parse("x", content("gemma3")).norm_shift == 1
    with pytest.raises(LoraportError, match="is not a family"):
        parse("x", {**content("gemma3"), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": 3}, "no whole head_dim"),
        ({"hidden_size": "wide"}, "no usable hidden"),
        ({"num_hidden_layers": 0}, "no usable layers"),
        ({"num_hidden_layers": True}, "no usable layers"),
        ({"intermediate_size": None}, "lacks the intermediate"),
        ({"num_key_value_heads": 3}, "contradicts itself"),
    ],
    ids=str,
)
def test_configs_that_contradict_themselves_are_refused(change, message):
    fields = {**written(make_config("llama")), "head_dim": None, **change}
    with pytest.raises(LoraportError, match=message):
        family_of(fields, "").read_dimensions(fields, "config.json")


def test_unknown_families_and_quantised_weights_are_refused():
    with pytest.raises(LoraportError, match=r"model_type 'gptj'.*add a JSON file"):
        family_of({"model_type": "gptj"}, "config.json")
    quantised = {"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}
    with pytest.raises(LoraportError, match=r"quantised.*gptq.*quantised from"):
        family_of(quantised, "config.json")


def test_minicpm_is_named_as_llama_and_tied(tmp_path):
    """Its own modelling code comes with its checkpoints; names and sizes are Llama's."""
    llama = families.make_model(tmp_path / "llama", "llama", seed=1, tie_word_embeddings=True)
    fields = json.loads((llama / "config.json").read_text())
    del fields["tie_word_embeddings"], fields["head_dim"]
    fields |= {"model_type": "minicpm", "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256}
    (llama / "config.json").write_text(json.dumps(fields))
    model = open_model(llama)
    assert model.architecture.name == "minicpm"
    assert model.tied
    check_shapes(model)
    assert describe(llama, "x", "")["other_tensors"] == []
    assert model.residual == pytest.approx(1.4 / 2**0.5)  # of its two layers
    fields["num_key_value_heads"] = None
    assert model.architecture.read_dimensions(fields, "").kv_heads == fields["num_attention_heads"]


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


LATENT, MAMBA = "latent attention", "Mamba layers"
DELTA = r"gated DeltaNet.*linear_conv_kernel_dim = 4"
BEYOND = {  # model type -> what its config says that no family file describes
    "deepseek_v2": LATENT,
    "deepseek_v3": rf"{LATENT}.*kv_lora_rank = 512",
    "deepseek_v4": "hyper-connections.*hc_mult = 4",
    "glm5_next": rf"{LATENT}.*hyper-connections",
    "minicpm3": LATENT,
    "youtu": LATENT,
    "kimi_k25": LATENT,  # inside its text_config
    "kimi_linear": rf"{LATENT}.*DeltaNet",
    "longcat_flash": LATENT,
    "mistral4": LATENT,
    "mamba": MAMBA,
    "mamba2": MAMBA,
    "falcon_mamba": MAMBA,
    "jamba": MAMBA,
    "zamba2": MAMBA,
    "bamba": MAMBA,
    "falcon_h1": MAMBA,
    "nemotron_h": MAMBA,
    "granitemoehybrid": MAMBA,
    "lfm2": "convolutions in place of attention",
    "lfm2_vl": "convolutions in place of attention",
    "lfm3": "convolutions in place of attention",
    "recurrent_gemma": "recurrent layers",
    "rwkv": "recurrent layers",
    "xlstm": "recurrent layers",
    "qwen3_next": DELTA,
    "olmo_hybrid": DELTA,
    "gemma3n": r"several residual streams.*altup_num_inputs = 4",
    "jetmoe": "experts in attention",
    "minimax": "layers of type 'linear_attention'",
    "mimo_v2_flash": "heads of values of another size",
    "mllama": "attention to images",
    "idefics": "attention to images",
    "blt": "several parts",
    "t5gemma2": "an encoder beside the decoder",
    "gpt2": "transposed",
}


@pytest.mark.parametrize("kind", BEYOND)
def test_what_no_family_file_can_describe_is_refused_by_what_is_missing(kind):
    fields = written(CONFIG_MAPPING[kind]()) | {"quantization_config": {"quant_method": "fp8"}}
    with pytest.raises(LoraportError, match=rf"'{kind}' has .*{BEYOND[kind]}") as told:
        family_of(fields, "config.json")
    assert "JSON" not in str(told.value) and "can't describe" in told.value.todo


def test_what_families_are_made_of_is_not_told_as_missing():
    """A field that is there and asks for nothing, and layer types of attention."""
    neutral = {"state_size": 0, "kv_lora_rank": None, "hc_mult": None}
    types = ["full_attention", "sliding_attention", "chunked_attention"]
    assert beyond_a_file({**neutral, "layer_types": types, "text_config": None}) == []
    assert beyond_a_file({"layer_types": ["conv"]}) == ["layers of type 'conv' (layer_types)"]
    for name in set(FAMILIES) - set(BY_LAYER):
        assert beyond_a_file(written(make_config(name))) == [], name
