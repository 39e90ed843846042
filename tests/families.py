"""Pico configs of every model family, with its roles split by hand."""

import re
from pathlib import Path
from typing import NamedTuple

import family_configs as configs
import literal
import numpy as np
import pico
import transformers
from transformers import AutoConfig

SIZES = {"hidden": 32, "intermediate": 56, "layers": 2, "heads": 4, "kv_heads": 2}
WIDER = {"hidden": 64, "intermediate": 72, "layers": 3, "heads": 4, "kv_heads": 2}
SEPARATE = dict(pico.PATHS)
FUSED = {
    "q": "query_key_value",
    "k": "query_key_value",
    "v": "query_key_value",
    "o": "dense",
    "up": "dense_h_to_4h",
    "down": "dense_4h_to_h",
}


class Family(NamedTuple):
    """A config class, sizes that it forces, and role -> module below the block."""

    config_class: type
    sizes: dict
    paths: dict
    block: str = "model.layers"
    embedding: str = "model.embed_tokens"


def _below(attention: str) -> dict:
    homes = {"up": "mlp", "down": "mlp"}
    return {role: f"{homes.get(role, attention)}.{name}" for role, name in FUSED.items()}


LOCAL = {"num_local_experts": 4}
OWN_WIDTH = "moe_intermediate_size"
ROUND = {"head_dim": 12}  # not hidden / heads
MHA = {"kv_heads": 4}
INSIDE = ("model.language_model.layers", "model.language_model.embed_tokens")
QKVO = {role: path for role, path in SEPARATE.items() if role in "qkvo"}
UNGATED = {role: path for role, path in SEPARATE.items() if role != "gate"}
GATE_UP = {**SEPARATE, **dict.fromkeys(("gate", "up"), "mlp.gate_up_proj")}
DELTA_NET = {
    **{f"linear_{role}": "linear_attn.in_proj_qkv" for role in "qkv"},
    **{f"linear_{role}": f"linear_attn.in_proj_{role}" for role in "zba"},
    "linear_o": "linear_attn.out_proj",
}
QWEN3_5 = {**SEPARATE, "q_gate": "self_attn.q_proj", **DELTA_NET}
# name -> of each layer in turn, roles that it lacks
MIXED = [("q", "k", "v", "o", "q_gate"), tuple(DELTA_NET)]
QWEN3_5_ALL = ("qwen3_5_text", "qwen3_5", "qwen3_5_moe_text", "qwen3_5_moe")
KEYS_ARE_VALUES = [(), ("v",)]
BY_LAYER = dict.fromkeys(QWEN3_5_ALL, MIXED) | {
    **dict.fromkeys(("gemma4", "gemma4_moe", "gemma4_moe_multimodal"), KEYS_ARE_VALUES),
    "gemma4_multimodal": [(), (), ("k", "v"), ("k", "v")],
}
QWEN3_5_MOE = {role: path for role, path in QWEN3_5.items() if not path.startswith("mlp.")}
FAMILIES = {
    "llama": Family(transformers.LlamaConfig, {}, SEPARATE),
    "mistral": Family(transformers.MistralConfig, {}, SEPARATE),
    "qwen2": Family(transformers.Qwen2Config, {}, SEPARATE),
    "qwen3": Family(transformers.Qwen3Config, ROUND, SEPARATE),
    "gemma": Family(transformers.GemmaConfig, {**ROUND, "kv_heads": 1}, SEPARATE),
    "gemma2": Family(transformers.Gemma2Config, ROUND, SEPARATE),
    "gemma3": Family(transformers.Gemma3TextConfig, ROUND, SEPARATE),
    "gemma3_multimodal": Family(
        configs.gemma3_multimodal,
        ROUND,
        SEPARATE,
        *INSIDE,
    ),
    "gemma4": Family(configs.gemma4, {**ROUND, "layers": 2}, SEPARATE),
    "gemma4_multimodal": Family(
        configs.gemma4_multimodal, {**ROUND, "layers": 4}, SEPARATE, *INSIDE
    ),
    "olmo": Family(transformers.OlmoConfig, {}, SEPARATE),
    "olmo2": Family(transformers.Olmo2Config, {}, SEPARATE),
    "phi": Family(
        transformers.PhiConfig,
        {},
        {
            **{role: f"self_attn.{role}_proj" for role in "qkv"},
            "o": "self_attn.dense",
            "up": "mlp.fc1",
            "down": "mlp.fc2",
        },
    ),
    "phi3": Family(
        transformers.Phi3Config,
        {},
        {
            **dict.fromkeys("qkv", "self_attn.qkv_proj"),
            **dict.fromkeys(("gate", "up"), "mlp.gate_up_proj"),
            "o": "self_attn.o_proj",
            "down": "mlp.down_proj",
        },
    ),
    "gpt_neox": Family(
        transformers.GPTNeoXConfig, MHA, _below("attention"), "gpt_neox.layers", "gpt_neox.embed_in"
    ),
    "bloom": Family(
        transformers.BloomConfig,
        MHA,
        _below("self_attention"),
        "transformer.h",
        "transformer.word_embeddings",
    ),
    "ministral3": Family(transformers.Ministral3Config, ROUND, SEPARATE),
    "olmo3": Family(transformers.Olmo3Config, {}, SEPARATE),
    "smollm3": Family(transformers.SmolLM3Config, {}, SEPARATE),
    "granite": Family(configs.granite, {}, SEPARATE),
    "glm4": Family(transformers.Glm4Config, ROUND, GATE_UP),
    "exaone4": Family(transformers.Exaone4Config, {}, SEPARATE),
    "hunyuan_v1_dense": Family(transformers.HunYuanDenseV1Config, ROUND, SEPARATE),
    "ernie4_5": Family(transformers.Ernie4_5Config, ROUND, SEPARATE),
    "seed_oss": Family(transformers.SeedOssConfig, ROUND, SEPARATE),
    "arcee": Family(transformers.ArceeConfig, {}, UNGATED),
    "nemotron": Family(transformers.NemotronConfig, {}, UNGATED),
    "apertus": Family(transformers.ApertusConfig, {}, UNGATED),
    "cohere2": Family(transformers.Cohere2Config, {}, SEPARATE),
    "qwen2_5_vl": Family(configs.qwen2_5_vl, {}, SEPARATE, *INSIDE),
    "qwen3_vl": Family(configs.qwen3_vl, ROUND, SEPARATE, *INSIDE),
    "mistral3": Family(configs.mistral3, ROUND, SEPARATE, *INSIDE),
    "qwen3_moe": Family(
        configs.experts(transformers.Qwen3MoeConfig, OWN_WIDTH, **configs.FEW, mlp_only_layers=[1]),
        ROUND,
        QKVO,
    ),
    "qwen2_moe": Family(
        configs.experts(
            transformers.Qwen2MoeConfig,
            OWN_WIDTH,
            **configs.FEW,
            shared_expert_intermediate_size=40,
        ),
        {},
        QKVO,
    ),
    "mixtral": Family(configs.experts(transformers.MixtralConfig, **LOCAL), {}, QKVO),
    "gpt_oss": Family(
        configs.experts(transformers.GptOssConfig, **LOCAL, num_experts_per_tok=2), ROUND, QKVO
    ),
    "glm4_moe": Family(
        configs.experts(
            transformers.Glm4MoeConfig, OWN_WIDTH, n_routed_experts=4, num_experts_per_tok=2
        ),
        ROUND,
        QKVO,
    ),
    "llama4": Family(configs.experts(transformers.Llama4TextConfig, **configs.LLAMA4), ROUND, QKVO),
    "llama4_multimodal": Family(
        configs.llama4_multimodal,
        ROUND,
        QKVO,
        "language_model.model.layers",
        "language_model.model.embed_tokens",
    ),
    "granitemoe": Family(
        configs.experts(transformers.GraniteMoeConfig, **LOCAL, **configs.MULTIPLIERS), {}, QKVO
    ),
    "ernie4_5_moe": Family(
        configs.experts(transformers.Ernie4_5_MoeConfig, OWN_WIDTH, moe_num_experts=4, moe_k=2),
        {},
        QKVO,
    ),
    "olmoe": Family(configs.experts(transformers.OlmoeConfig, **configs.FEW), {}, QKVO),
    "qwen3_5_text": Family(configs.qwen3_5_text, ROUND, QWEN3_5),
    "qwen3_5": Family(configs.qwen3_5, ROUND, QWEN3_5, *INSIDE),
    "qwen3_5_moe_text": Family(configs.qwen3_5_moe_text, ROUND, QWEN3_5_MOE),
    "qwen3_5_moe": Family(configs.qwen3_5_moe, ROUND, QWEN3_5_MOE, *INSIDE),
    "gemma4_moe": Family(configs.gemma4_moe, {**ROUND, "layers": 2}, QKVO),
    "gemma4_moe_multimodal": Family(
        configs.gemma4_moe_multimodal, {**ROUND, "layers": 2}, QKVO, *INSIDE
    ),
    "phimoe": Family(configs.experts(transformers.PhimoeConfig, **LOCAL), {}, QKVO),
}
# mixtures of experts, whose attention alone is carried
MIXTURES = tuple(name for name, family in FAMILIES.items() if "down" not in family.paths)


def roles(name: str, layer: int) -> list[str]:
    """The roles of a layer."""
    lacking = BY_LAYER.get(name, [()])
    lacking = lacking[layer % len(lacking)]
    return [role for role in FAMILIES[name].paths if role not in lacking]


def sizes(name: str, wider: bool = False) -> dict:
    """Arguments of `pico.make_model`; Bloom's intermediate size is four times the hidden one."""
    given = {**(WIDER if wider else SIZES), **FAMILIES[name].sizes}
    if name == "bloom":
        given["intermediate"] = 4 * given["hidden"]
    return given


def make_model(directory: Path, name: str, *, seed: int, wider: bool = False, **kwargs) -> Path:
    """A random model of a family."""
    given = {**sizes(name, wider), "config_class": FAMILIES[name].config_class, **kwargs}
    return pico.make_model(directory, seed=seed, vocab_words=220, **given)


def split(name: str, role: str, weight: np.ndarray, heads: int, kv_heads: int) -> np.ndarray:
    """A role's rows of its module's `weight (rows, x)`, as the modelling code cuts them."""
    if name in ("gpt_neox", "bloom") and role in "qkv":
        return weight.reshape(heads, 3, -1, weight.shape[1])[:, "qkv".index(role)].reshape(
            -1, weight.shape[1]
        )
    if name == "phi3" and role in "qkv":
        head = len(weight) // (heads + 2 * kv_heads)
        cuts = np.split(weight, [heads * head, (heads + kv_heads) * head])
        return cuts["qkv".index(role)]
    if name in QWEN3_5_ALL and role in ("q", "q_gate"):  # in turns, head by head
        both = weight.reshape(heads, 2, -1, weight.shape[1])
        return both[:, ("q", "q_gate").index(role)].reshape(-1, weight.shape[1])
    if FAMILIES[name].paths[role] == "linear_attn.in_proj_qkv":  # values are twice as wide
        return np.split(weight, [len(weight) // 4, len(weight) // 2])["qkv".index(role[-1])]
    if name in ("phi3", "glm4") and role in ("gate", "up"):
        return np.split(weight, 2)[("gate", "up").index(role)]
    return weight


def read_tensors(directory: Path) -> dict[str, np.ndarray]:
    """All tensors, float64; a language model inside another is saved under its older names."""
    new, tensors = "model.language_model.", pico.read_tensors(directory)
    if any(name.startswith("vision_model.") for name in tensors):  # Llama 4's are its own
        return tensors
    if any(name.startswith("visual.") for name in tensors):  # Qwen2.5-VL's decoder is `model`
        return {re.sub("^model[.]", new, name): values for name, values in tensors.items()}
    return {name.replace("language_model.model.", new): v for name, v in tensors.items()}


def load_others(name: str, directory: Path) -> dict[tuple[int, str], np.ndarray]:
    """(layer, role) -> weight of the roles that the oracle's containers have no place for."""
    config, tensors = AutoConfig.from_pretrained(directory), read_tensors(directory)
    config, family = config.get_text_config(), FAMILIES[name]
    return {
        (i, role): split(
            name, role, tensors[f"{family.block}.{i}.{family.paths[role]}.weight"],
            config.num_attention_heads, config.num_key_value_heads,
        )
        for i in range(config.num_hidden_layers)
        for role in roles(name, i)
        if role not in SEPARATE
    }  # fmt: skip


def load_layers(name: str, directory: Path) -> list[literal.Layer]:
    """The blocks of a model as the oracle's containers; a role that is missing is empty."""
    config, tensors = AutoConfig.from_pretrained(directory), read_tensors(directory)
    config = config.get_text_config()
    heads = config.num_attention_heads
    family, layers = FAMILIES[name], []
    for i in range(config.num_hidden_layers):
        own = config.per_layer_config[i]
        kv_heads = heads if family.sizes is MHA else own.num_key_value_heads
        weights = {
            role: split(name, role, tensors[f"{family.block}.{i}.{path}.weight"], heads, kv_heads)
            for role, path in family.paths.items()
            if role in roles(name, i) and role in SEPARATE
        }
        empty = dict.fromkeys(SEPARATE, np.zeros((0, 0)))
        if name.startswith("gemma4") and "k" in weights:  # keys may be values
            weights = {"v": weights["k"], **weights}
        elif name.startswith("gemma4"):  # keys and values are those of the layer two before
            weights |= {role: getattr(layers[i - 2], role) for role in "kv"}
        layers.append(literal.Layer(**{**empty, **weights}, heads=heads, kv_heads=kv_heads))
    return layers


def load_updates(name: str, model_dir: Path, adapter_dir: Path) -> dict:
    """(layer, role) -> (B, A, s) of a LoRA, as peft applies it, fused modules split by hand."""
    from loraport.adapters.attach import attach

    model = pico.load(model_dir)
    config, family = model.config.get_text_config(), FAMILIES[name]
    heads = config.num_attention_heads
    kv_heads = heads if family.sizes is MHA else config.per_layer_config[0].num_key_value_heads
    updates = {}
    for path, module in attach(model, adapter_dir).base_model.model.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        layer, below = path.removeprefix(f"{family.block}.").split(".", 1)
        B, A = (part["default"].weight.detach().double().numpy()
                for part in (module.lora_B, module.lora_A))  # fmt: skip
        for role, home in family.paths.items():
            if home == below:
                rows = split(name, role, B, heads, kv_heads)
                updates[int(layer), role] = (rows, A, module.scaling["default"])
    return updates


def targets(name: str) -> list[str] | str:
    """What an adapter of all its roles targets; inside a model that sees, the decoder's alone."""
    modules = sorted({path.rpartition(".")[2] for path in FAMILIES[name].paths.values()})
    inside = "language_model" in FAMILIES[name].block
    return rf".*language_model.*({'|'.join(modules)})" if inside else modules
