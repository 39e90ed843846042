"""Structures that no family file can describe, told from a config.json's fields.

A family file names modules of q, k, v, o and a feed-forward network whose sizes are one in every
layer, around one residual stream.
"""

from collections.abc import Iterator, Mapping
from typing import Any

EXPERTS = "a mixture of experts"
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
    "global_head_dim ": "heads whose size differs by layer",
    "hidden_size_per_layer_input ": "an input of its own for each layer",
    "num_kv_shared_layers ": "layers that share keys and values",
    "num_experts ": EXPERTS,
    "num_local_experts ": EXPERTS,
    "n_routed_experts ": EXPERTS,
    "moe_num_experts ": EXPERTS,
    "is_encoder_decoder ": "an encoder beside the decoder",
}
MODEL_TYPES = {
    "gpt2": "weights that are stored transposed (Conv1D)",
    "openai-gpt": "weights that are stored transposed (Conv1D)",
    "rwkv": "recurrent layers in place of attention",
    "xlstm": "recurrent layers in place of attention",
    "dbrx": EXPERTS,
    "dots1": EXPERTS,
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
        least = 2 if what == EXPERTS else 1  # one expert is a feed-forward network
        field = next((key for key in held if _is_set(config[key], least)), None)
        if field is not None:
            yield what, f"{field} = {config[field]!r}"
    types = config.get("layer_types")
    for each in types if isinstance(types, list) else ():
        if isinstance(each, str) and not any(word in each for word in ATTENTION):
            yield f"layers of type {each!r}", "layer_types"


def _is_set(value: Any, least: int) -> bool:
    """Whether a field asks for something; a count of less than `least` asks for nothing."""
    return value >= least if type(value) is int else bool(value)
