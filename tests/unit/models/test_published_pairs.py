"""The published pairs at their printed dimensions, on the meta device: names, shapes, plans."""

import json

import numpy as np
import pico
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from loraport.mapping.heads import assign
from loraport.mapping.layers import fixed_path
from loraport.models.families import ROLES, families, family_of
from loraport.planning import needs
from loraport.planning.sizes import parameters

LLAMA, QWEN = transformers.LlamaConfig, transformers.Qwen2Config
NEOX, BLOOM = transformers.GPTNeoXConfig, transformers.BloomConfig
K = 1000
# vocabulary in thousands as printed, hidden, intermediate, layers, heads, key-value heads
PRINTED = {
    "yi-6b": (LLAMA, 64, 4096, 11008, 32, 32, 4),
    "yi-1.5-9b": (LLAMA, 64, 4096, 11008, 48, 32, 4),
    "pythia-1b": (NEOX, 50, 2048, 8192, 16, 8, 8),
    "pythia-1.4b": (NEOX, 50, 2048, 8192, 24, 16, 16),
    "bloom-560m": (BLOOM, 250, 1024, 4096, 24, 16, 16),
    "bloomz-1b1": (BLOOM, 250, 1536, 6144, 24, 16, 16),
    "llama-2-7b": (LLAMA, 32, 4096, 11008, 32, 32, 32),
    "llama-3-8b": (LLAMA, 128, 4096, 14336, 32, 32, 8),
    "qwen1.5-1.8b": (QWEN, 152, 2048, 5504, 24, 16, 16),
    "qwen2.5-3b": (QWEN, 152, 2048, 11008, 36, 16, 2),
    "minicpm-s-1b": (LLAMA, 73, 1536, 3840, 52, 24, 8),
    "minicpm-2b": (LLAMA, 123, 2304, 5760, 40, 36, 36),
    "llama-2-13b": (LLAMA, 32, 5120, 13824, 40, 40, 40),
    "llama-3.1-70b": (LLAMA, 128, 8192, 28672, 80, 64, 8),
}
PAIRS = [
    ("yi-6b", "yi-1.5-9b"),
    ("pythia-1b", "pythia-1.4b"),
    ("bloom-560m", "bloomz-1b1"),
    ("llama-2-7b", "llama-3-8b"),
    ("qwen1.5-1.8b", "qwen2.5-3b"),
    ("minicpm-s-1b", "minicpm-2b"),
    ("llama-2-13b", "llama-3.1-70b"),
]
RULES = ("spec", "embedding", "cka", "heads", "maps", "transferred")


def describe(name):
    """Config, family and dimensions of a printed model."""
    kind, vocabulary, hidden, intermediate, layers, heads, kv_heads = PRINTED[name]
    sizes = {"vocab_size": vocabulary * K, "hidden_size": hidden, "num_hidden_layers": layers}
    sizes |= {"num_attention_heads": heads, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if kind is not BLOOM:
        sizes["intermediate_size"] = intermediate
    if kind in (LLAMA, QWEN):
        sizes["num_key_value_heads"] = kv_heads
    config = kind(**sizes)
    fields = json.loads(config.to_json_string(use_diff=False))
    family = family_of(fields, name)
    return config, family, family.read_dimensions(fields, name)


@pytest.mark.parametrize("name", PRINTED)
def test_names_and_shapes_resolve_at_the_printed_dimensions(name):
    config, family, dims = describe(name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = {path: tuple(values.shape) for path, values in model.named_parameters()}
    _, vocabulary, hidden, intermediate, layers, heads, kv_heads = PRINTED[name]
    assert (dims.vocabulary, dims.hidden, dims.layers) == (vocabulary * K, hidden, layers)
    assert (dims.intermediate, dims.heads, dims.kv_heads) == (intermediate, heads, kv_heads)
    assert dims.heads * dims.head_dim == hidden
    assert shapes[f"{family.embedding}.weight"] == (dims.vocabulary, dims.hidden)
    for layer in range(layers):
        for module in family.modules:
            path = f"{family.path(layer, module)}.weight"
            assert shapes[path] == family.module_shape(module, dims)
    assert dims.attention == ("MHA" if kv_heads == heads else "GQA")
    fused = {module for module, roles in family.modules.items() if len(roles) > 1}
    rows = [np.sort(np.concatenate([family.rows(role, dims) for role in family.modules[module]]))
            for module in fused]  # fmt: skip
    assert all(np.array_equal(each, np.arange(len(each))) for each in rows)


def inside(kind, **more):
    """A config of text and images, by its text model's sizes."""
    return lambda **sizes: kind(text_config={**sizes, **more})


def mixture(kind, experts, field="num_local_experts", width="intermediate_size"):
    """A config of a mixture of experts, by the width of an expert."""
    return lambda intermediate_size, **sizes: kind(
        **{width: intermediate_size, field: experts}, **sizes
    )


MOE = "moe_intermediate_size"
# hub id -> its config class, hidden, intermediate, layers, heads, key-value heads, head size
RELEASED = {
    "mistralai/Ministral-3-8B": (transformers.Ministral3Config, 4096, 14336, 34, 32, 8, 128),
    "allenai/Olmo-3-7B": (transformers.Olmo3Config, 4096, 11008, 32, 32, 32, 128),
    "HuggingFaceTB/SmolLM3-3B": (transformers.SmolLM3Config, 2048, 11008, 36, 16, 4, 128),
    "ibm-granite/granite-3.0-8b": (transformers.GraniteConfig, 4096, 12800, 40, 32, 8, 128),
    "zai-org/GLM-4-9B-0414": (transformers.Glm4Config, 4096, 13696, 40, 32, 2, 128),
    "LGAI-EXAONE/EXAONE-4.0-32B": (transformers.Exaone4Config, 5120, 27392, 64, 40, 8, 128),
    "tencent/Hunyuan-7B": (transformers.HunYuanDenseV1Config, 4096, 14336, 32, 32, 8, 128),
    "baidu/ERNIE-4.5-0.3B-PT": (transformers.Ernie4_5Config, 1024, 3072, 18, 16, 2, 128),
    "ByteDance-Seed/Seed-OSS-36B": (transformers.SeedOssConfig, 5120, 27648, 64, 80, 8, 128),
    "arcee-ai/AFM-4.5B": (transformers.ArceeConfig, 2560, 18432, 36, 20, 4, 128),
    "nvidia/Minitron-4B": (transformers.NemotronConfig, 3072, 9216, 32, 24, 8, 128),
    "swiss-ai/Apertus-8B": (transformers.ApertusConfig, 4096, 21504, 32, 32, 8, 128),
    "CohereLabs/c4ai-command-r7b": (transformers.Cohere2Config, 4096, 14336, 32, 32, 8, 128),
    "Qwen/Qwen2.5-VL-7B": (inside(transformers.Qwen2_5_VLConfig), 3584, 18944, 28, 28, 4, 128),
    "Qwen/Qwen3-VL-4B": (inside(transformers.Qwen3VLConfig), 2560, 9728, 36, 32, 8, 128),
    "mistralai/Mistral-Small-3.1-24B": (
        inside(transformers.Mistral3Config, model_type="mistral"),
        *(5120, 32768, 40, 32, 8, 128),
    ),
    "Qwen/Qwen3-30B-A3B": (
        mixture(transformers.Qwen3MoeConfig, 128, "num_experts", MOE),
        *(2048, 768, 48, 32, 4, 128),
    ),
    "Qwen/Qwen1.5-MoE-A2.7B": (
        mixture(transformers.Qwen2MoeConfig, 60, "num_experts", MOE),
        *(2048, 1408, 24, 16, 16, 128),
    ),
    "mistralai/Mixtral-8x7B-v0.1": (
        mixture(transformers.MixtralConfig, 8),
        *(4096, 14336, 32, 32, 8, 128),
    ),
    "openai/gpt-oss-20b": (mixture(transformers.GptOssConfig, 32), 2880, 2880, 24, 64, 8, 64),
    "zai-org/GLM-4.5-Air": (
        mixture(transformers.Glm4MoeConfig, 128, "n_routed_experts", MOE),
        *(4096, 1408, 46, 96, 8, 128),
    ),
    "meta-llama/Llama-4-Scout-17B-16E": (
        inside(transformers.Llama4Config, num_local_experts=16),
        *(5120, 8192, 48, 40, 8, 128),
    ),
    "ibm-granite/granite-3.0-3b-a800m-base": (
        mixture(transformers.GraniteMoeConfig, 40),
        *(1536, 512, 32, 24, 8, 64),
    ),
    "baidu/ERNIE-4.5-21B-A3B-PT": (
        mixture(transformers.Ernie4_5_MoeConfig, 64, "moe_num_experts", MOE),
        *(2560, 1536, 28, 20, 4, 128),
    ),
    "allenai/OLMoE-1B-7B-0924": (
        mixture(transformers.OlmoeConfig, 64, "num_experts"),
        *(2048, 1024, 16, 16, 16, 128),
    ),
    "microsoft/Phi-3.5-MoE-instruct": (
        mixture(transformers.PhimoeConfig, 16),
        *(4096, 6400, 32, 32, 8, 128),
    ),
}
# billions of weights in the names of published mixtures, or in their model cards
BILLIONS = {"Qwen/Qwen3-30B-A3B": 30.5, "mistralai/Mixtral-8x7B-v0.1": 46.7,
            "openai/gpt-oss-20b": 20.9, "allenai/OLMoE-1B-7B-0924": 6.9}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_names_and_shapes_resolve_at_the_dimensions_of_released_models(name):
    kind, hidden, intermediate, layers, heads, kv_heads, head_dim = RELEASED[name]
    config = kind(hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
                  num_attention_heads=heads, num_key_value_heads=kv_heads,
                  head_dim=head_dim)  # fmt: skip
    fields = json.loads(config.to_json_string(use_diff=False))
    family = family_of(fields, name)
    dims = family.read_dimensions(fields, name)
    with torch.device("meta"):
        model = pico.auto_class(config).from_config(config)
    shapes = {path: tuple(values.shape) for path, values in model.named_parameters()}
    sizes = (dims.hidden, dims.intermediate, dims.layers, dims.heads, dims.kv_heads, dims.head_dim)
    assert sizes == RELEASED[name][1:]
    assert shapes[f"{family.embedding}.weight"] == (config.get_text_config().vocab_size, hidden)
    modules = {
        f"{family.path(layer, module)}.weight": family.module_shape(module, dims)
        for layer in range(layers)
        for module in family.modules
    }
    assert modules.items() <= shapes.items()
    assert len(modules) == layers * len(family.modules)
    if name in BILLIONS:
        assert parameters(dims) / 1e9 == pytest.approx(BILLIONS[name], rel=0.02)


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_a_pair_has_layers_heads_and_a_plan(names):
    (_, old_family, old), (_, new_family, new) = (describe(name) for name in names)
    assert set(old_family.roles) == set(new_family.roles)
    assert len(fixed_path(old.layers, new.layers, "last")) == min(old.layers, new.layers)
    similarity = np.random.default_rng(0).normal(size=(old.heads, new.heads))
    assert len(assign(similarity)) == min(old.heads, new.heads)
    largest = max(
        rows * columns * 8
        for dims in (old, new)
        for rows, columns in [*map(dims.shape, ROLES), (dims.vocabulary, dims.hidden)]
    )
    for rule in RULES:
        memory, seconds, *_ = needs.need(rule, *((new,) if rule == "spec" else (old, new)))
        base = needs.BASES.get(rule, needs.BASE_MIB)
        assert memory >= base
        assert 0 < seconds < (72 if "70b" in names[1] else 24) * 3600  # on one core
        if rule in ("embedding", "heads", "maps", "transferred"):  # a few tensors, not the model
            assert memory - base < 30 * largest / needs.MIB
    whole = sum(parameters(dims) * 4 / needs.MIB for dims in (old, new))
    assert needs.need("activations", old, new, whole=True)[0] > whole


def test_the_plan_grows_with_the_models():
    sizes = [[describe(name)[2] for name in PAIRS[place]] for place in (4, 6)]
    for rule in ("embedding", "cka", "heads", "maps", "transferred"):
        small, large = (needs.need(rule, *pair) for pair in sizes)
        assert small[0] < large[0]
        assert small[1] <= large[1]


def test_the_published_hub_ids_are_of_families_that_exist():
    assert {kind.model_type for kind, *_ in PRINTED.values()} <= {
        model_type for family in families().values() for model_type in family.model_types
    }
