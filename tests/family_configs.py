"""Pico configs of families that need more than the sizes: images, experts, layers of two kinds."""

import transformers

SEEING = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
          "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
GEMMA4 = {"sliding_window": 6}
GEMMA4_SEEING = {**SEEING, "head_dim": 8, "num_key_value_heads": 2, "position_embedding_size": 4}
DELTA = {"linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_num_value_heads": 4,
         "linear_value_head_dim": 8,
         "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5,
                             "mrope_section": [1, 1, 1]}}  # fmt: skip
LLAMA4 = {"num_local_experts": 4, "intermediate_size_mlp": 60, "interleave_moe_layer_step": 2}
FEW = {"num_experts": 4, "num_experts_per_tok": 2}
# as published models of Granite have them: none is one
MULTIPLIERS = {"residual_multiplier": 0.22, "embedding_multiplier": 12.0,
               "attention_multiplier": 0.2, "logits_scaling": 8.0}  # fmt: skip


def gemma3_multimodal(**fields) -> transformers.Gemma3Config:
    """The language model's fields inside a config of text and images."""
    return transformers.Gemma3Config(
        text_config=fields, vision_config=SEEING, mm_tokens_per_image=4
    )


def _qwen_vl(config_class: type, fields: dict, **seeing):
    """The same, of Qwen's families that see: rotary angles of time, height and width."""
    hidden, heads = fields.get("hidden_size", 32), fields.get("num_attention_heads", 4)
    half = fields.get("head_dim", hidden // heads) // 2
    rotary = {"rope_type": "default", "mrope_section": [half - 2, 1, 1]}
    tower = {"depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2}
    tied = fields.pop("tie_word_embeddings", False)
    return config_class(
        text_config={**fields, "rope_parameters": rotary},
        vision_config={**tower, "out_hidden_size": hidden, **seeing},
        tie_word_embeddings=tied,
    )


def qwen2_5_vl(**fields) -> transformers.Qwen2_5_VLConfig:
    """Of text and images; its heads divide the hidden size."""
    return _qwen_vl(transformers.Qwen2_5_VLConfig, fields, fullatt_block_indexes=[0])


def qwen3_vl(**fields) -> transformers.Qwen3VLConfig:
    """Of text and images."""
    return _qwen_vl(transformers.Qwen3VLConfig, fields, deepstack_visual_indexes=[0])


def mistral3(**fields) -> transformers.Mistral3Config:
    """The same, with the language model of Ministral 3."""
    tied = fields.pop("tie_word_embeddings", True)
    return transformers.Mistral3Config(
        text_config={**fields, "model_type": "ministral3"},
        vision_config={**SEEING, "head_dim": 8},
        tie_word_embeddings=tied,
    )


def granite(**fields) -> transformers.GraniteConfig:
    """With Granite's multipliers."""
    return transformers.GraniteConfig(**{**MULTIPLIERS, **fields})


def experts(kind: type, width: str = "intermediate_size", **own):
    """A config of a mixture of experts, whose width stands in the field `width`."""

    def make(**fields):
        fields = {**own, **fields}
        if "intermediate_size" in fields:
            fields[width] = fields["intermediate_size"]
        return kind(**fields)

    return make


def llama4_multimodal(**fields) -> transformers.Llama4Config:
    """Of text and images; every second layer has one feed-forward network."""
    seeing = {**SEEING, "projector_input_dim": 16, "projector_output_dim": 16}
    seeing |= {"intermediate_size": 64, "vision_output_dim": 16}
    tied = fields.pop("tie_word_embeddings", False)
    return transformers.Llama4Config(
        text_config={**LLAMA4, **fields}, vision_config=seeing, tie_word_embeddings=tied
    )


def qwen3_5_text(
    kind: type = transformers.Qwen3_5TextConfig, **fields
) -> transformers.PretrainedConfig:
    """Layers of linear attention and of attention in turns."""
    types = ["linear_attention", "full_attention"] * fields.get("num_hidden_layers", 2)
    fields["layer_types"] = types[: fields.get("num_hidden_layers", 2)]
    return kind(**{**DELTA, **fields})


def qwen3_5(
    whole: type = transformers.Qwen3_5Config, text=qwen3_5_text, **fields
) -> transformers.PretrainedConfig:
    """The same inside a config of text and images."""
    tied = fields.pop("tie_word_embeddings", False)
    tower = {"depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2}
    return whole(
        text_config=text(**fields).to_dict(),
        vision_config={**tower, "out_hidden_size": fields.get("hidden_size", 32)},
        tie_word_embeddings=tied,
    )


def qwen3_5_moe_text(**fields) -> transformers.Qwen3_5MoeTextConfig:
    """With a mixture of experts, and a shared one, in each layer."""
    own = {**FEW, "moe_intermediate_size": fields.pop("intermediate_size", 24)}
    own |= {"shared_expert_intermediate_size": 40}
    return qwen3_5_text(transformers.Qwen3_5MoeTextConfig, **{**own, **fields})


def qwen3_5_moe(**fields) -> transformers.Qwen3_5MoeConfig:
    """The same inside a config of text and images."""
    return qwen3_5(transformers.Qwen3_5MoeConfig, qwen3_5_moe_text, **fields)


def gemma4(**fields) -> transformers.Gemma4TextConfig:
    """Layers of two head sizes in turns; in the second kind keys are values, of fewer heads."""
    own = {"num_global_key_value_heads": 1, "attention_k_eq_v": True, **GEMMA4}
    own |= {"hidden_size_per_layer_input": 0}
    kind = fields.pop("kind", transformers.Gemma4TextConfig)
    if fields.pop("mixture", False):
        width = fields["intermediate_size"]
        own |= {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2}
        own |= {"moe_intermediate_size": width}
        fields["intermediate_size"] = 40
    return kind(**_by_turns({**own, **fields}))


def gemma4_unified(**fields) -> transformers.Gemma4UnifiedConfig:
    """The same layers inside a config of text and images without towers."""
    text = gemma4(kind=transformers.Gemma4UnifiedTextConfig, **fields).to_dict()
    return transformers.Gemma4UnifiedConfig(text_config=text)


def gemma4_multimodal(**fields) -> transformers.Gemma4Config:
    """Of text and images: an input of its own for each layer; of four layers the last two read the
    keys and values of the first two, and their feed-forward networks are twice as wide.
    """
    own = {"hidden_size_per_layer_input": 6, "num_kv_shared_layers": 2, **GEMMA4}
    own |= {"use_double_wide_mlp": True, "vocab_size_per_layer_input": fields.get("vocab_size", 48)}
    tied = fields.pop("tie_word_embeddings", True)
    text = transformers.Gemma4TextConfig(**_by_turns({**own, **fields}))
    return transformers.Gemma4Config(
        text_config=text.to_dict(), vision_config=GEMMA4_SEEING, tie_word_embeddings=tied
    )


def gemma4_moe(**fields) -> transformers.Gemma4TextConfig:
    """As `gemma4`, with a mixture of experts beside each feed-forward network."""
    return gemma4(mixture=True, **fields)


def gemma4_moe_multimodal(**fields) -> transformers.Gemma4Config:
    """The same inside a config of text and images."""
    tied = fields.pop("tie_word_embeddings", True)
    text = gemma4_moe(**fields).to_dict()
    return transformers.Gemma4Config(
        text_config=text, vision_config=GEMMA4_SEEING, tie_word_embeddings=tied
    )


def _by_turns(fields: dict) -> dict:
    """Sliding and full attention in turns, heads of the latter four dimensions larger."""
    types = ["sliding_attention", "full_attention"] * fields["num_hidden_layers"]
    types = types[: fields["num_hidden_layers"]]
    return {"layer_types": types, "global_head_dim": fields["head_dim"] + 4, **fields}
