"""Structures that no family file can describe, told from a config.json's fields.

A family file names linear modules of attention and a feed-forward network, around one residual
stream.
"""

from collections.abc import Iterator, Mapping
from typing import Any

# start of a field's name, or the whole of it with a blank at its end -> what a model with it has
FIELDS = {
    "kv_lora_rank ": "multi-head latent attention: keys and values behind a bottleneck, no k and v",
    "hc_mult ": "hyper-connections: several residual streams in place of one",
    "mamba_": "Mamba layers: state spaces in place of attention",
    "ssm_": "Mamba layers: state spaces in place of attention",
    "state_size ": "Mamba layers: state spaces in place of attention",
    "conv_L_cache ": "convolutions in place of attention in some layers",
    "conv1d_width ": "recurrent layers with convolutions in place of attention",
    "linear_conv_kernel_dim ": "linear attention (gated DeltaNet) in some layers",
    "altup_num_inputs ": "several residual streams beside one another (AltUp)",
    "is_encoder_decoder ": "an encoder beside the decoder",
    "cross_attention_layers ": "layers of attention to images between the others",
    "cross_layer_interval ": "layers of attention to images between the others",
    "v_head_dim ": "heads of values of another size than those of queries and keys",
}
MODEL_TYPES = {
    "gemma4_assistant": "a draft model, whose layers read keys and values of another model",
    "gemma4_unified_assistant": "a draft model, whose layers read keys and values of another model",
    "gpt2": "weights that are stored transposed (Conv1D)",
    "openai-gpt": "weights that are stored transposed (Conv1D)",
    "rwkv": "recurrent layers in place of attention",
    "xlstm": "recurrent layers in place of attention",
    "blt": "a model of bytes in several parts, each with layers of its own",
    "jetmoe": "a mixture of experts in attention, too: queries and outputs of each expert",
}
ATTENTION = ("attention", "full", "sliding", "chunked")  # in names of layer types


def beyond_a_file(config: Mapping[str, Any]) -> list[str]:
    """What a model has that no family file describes, each with the field that says so."""
    parts = [config, *(config[key] for key in ("text_config", "llm_config") if key in config)]
    said: dict[str, str] = {}
    for part in parts:
        if isinstance(part, Mapping):
            for what, field in _structures(part):
                said.setdefault(what, field)
    return [f"{what} ({field})" for what, field in said.items()]


def _structures(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in MODEL_TYPES:
        yield MODEL_TYPES[kind], f"model_type {kind!r}"
    for start, what in FIELDS.items():
        held = (key for key in config if isinstance(key, str) and f"{key} ".startswith(start))
        field = next((key for key in held if config[key]), None)
        if field is not None:
            yield what, f"{field} = {config[field]!r}"
    types = config.get("layer_types")
    for each in types if isinstance(types, list) else ():
        if isinstance(each, str) and not _is_attention(each):
            yield f"layers of type {each!r}", "layer_types"


def _is_attention(layer_type: str) -> bool:
    """Whether the name of a layer type is one of attention with queries, keys and values."""
    return any(word in layer_type for word in ATTENTION) and "linear" not in layer_type
