"""Fields of config.json that are missing or hold null mean what they mean to transformers."""

import json

import pytest
from families import FAMILIES, MIXTURES
from familycase import make_config, on_meta, written
from transformers import AutoConfig

from loraport.errors import LoraportError
from loraport.models.families import family_of

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


@pytest.mark.parametrize("name", FAMILIES)
def test_tied_is_transformers_default(tmp_path, name):
    fields = written(make_config(name))
    del fields["tie_word_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    family = family_of(fields, "")
    assert family.is_tied(fields) == AutoConfig.from_pretrained(tmp_path).tie_word_embeddings
    assert family.is_tied({"tie_word_embeddings": True})
    assert not family.is_tied({"tie_word_embeddings": False})


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
