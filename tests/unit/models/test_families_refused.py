"""Family files that are wrong, and models that no family file describes, are refused."""

import pytest
from families import BY_LAYER, FAMILIES
from familycase import content, make_config, written
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from loraport.errors import LoraportError
from loraport.models.families import family_of, parse
from loraport.models.families.beyond import beyond_a_file


def test_experts_whose_weights_are_packed_leave_the_model_as_it_is():
    """GPT-OSS is published in MXFP4: its experts alone; other methods take attention as well."""
    packed = {"quantization_config": {"quant_method": "mxfp4"}}
    assert family_of(written(make_config("gpt_oss")) | packed, "").name == "gpt_oss"
    for name, method in (("gpt_oss", "bitsandbytes"), ("llama", "mxfp4")):
        fields = written(make_config(name)) | {"quantization_config": {"quant_method": method}}
        with pytest.raises(LoraportError, match=rf"quantised.*{method}"):
            family_of(fields, "config.json")


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


def test_unknown_families_and_quantised_weights_are_refused():
    with pytest.raises(LoraportError, match=r"model_type 'gptj'.*add a JSON file"):
        family_of({"model_type": "gptj"}, "config.json")
    quantised = {"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}
    with pytest.raises(LoraportError, match=r"quantised.*gptq.*quantised from"):
        family_of(quantised, "config.json")


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
