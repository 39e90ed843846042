"""What an adapter's config may ask for: carried, of no consequence, or refused by name.

Nothing is dropped silently: a field that is not known here and asks for something is refused.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import LoraportError
from .experts import FIELD as PARAMETERS
from .experts import are_experts
from .trained_tokens import FIELD

# starts after which B A alone is the update: they leave the base weights as they are
PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
CARRIED_FIELDS = frozenset(
    [
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "exclude_modules",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_bias",
        "lora_dropout",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_rslora",
    ]
)
# types of the fields that are read; None stands for a field that is not set
NAMES = (str, list)
TYPES: Mapping[str, tuple[type, ...]] = {
    "alpha_pattern": (dict,),
    "base_model_name_or_path": (str,),
    "bias": (str,),
    "exclude_modules": NAMES,
    "layers_pattern": NAMES,
    "layers_to_transform": (int, list),
    "lora_bias": (bool,),
    "modules_to_save": (list,),
    "rank_pattern": (dict,),
    "revision": (str,),
    "target_modules": NAMES,
    FIELD: (dict, list),
    PARAMETERS: (list,),
    "use_dora": (bool,),
    "use_rslora": (bool,),
}
# set to these values a field asks for nothing
NEUTRAL: tuple[Any, ...] = (None, False, [], {}, "", "none")
# read only beside other fields, or only where training starts
IGNORED_FIELDS = frozenset({"eva_config", "megatron_core", "qalora_group_size"})
MERGE = "merge it into its base and extract a plain LoRA adapter of the difference"
WAYS_OUT = {
    "alora_invocation_tokens": "it acts only after its invocation tokens, which no map can say; "
    "train it on the new model",
    "layer_replication": "carry an adapter of the base without replicated layers",
    PARAMETERS: "of parameters that are no module's, those of experts and routers alone are "
    "carried: train it on modules",
    "use_qalora": "it is tied to its base's quantisation: train it on an unquantised base",
    "loftq_config": "it is tied to its base's quantisation: train it on an unquantised base",
}


def refuse_what_is_not_carried(
    directory: object, config: Mapping[str, Any], of_the_kind: Iterable[str]
) -> None:
    """Raise for a start that changed the base, and for every field that asks for more than is done.

    Parameters
    ----------
    directory : named in errors
    of_the_kind : fields that the adapter's kind has beside LoRA's own
    """
    _check_types(directory, config)
    start = config.get("init_lora_weights", True)
    if start not in PLAIN_STARTS:
        raise LoraportError(
            f"adapter {directory} was started in a way that changed its base model",
            got=f"init_lora_weights {start!r}",
            expected="a LoRA start that leaves the base as it is",
            todo="save it again with peft's path_initial_model_for_weight_conversion, which makes "
            "it a plain LoRA adapter of the unchanged base, and carry that",
        )
    known = CARRIED_FIELDS | IGNORED_FIELDS | {FIELD} | set(of_the_kind)
    asked = {
        key: value
        for key, value in sorted(config.items())
        if key not in known
        and value not in NEUTRAL
        and not (key == PARAMETERS and are_experts(value))
    }
    if asked:
        raise LoraportError(
            f"adapter {directory} uses what loraport does not carry and will not drop silently",
            got=", ".join(f"{key} = {value!r}" for key, value in asked.items()),
            expected="LoRA, rsLoRA, DoRA or AdaLoRA without it",
            todo="; ".join(dict.fromkeys(WAYS_OUT.get(key, MERGE) for key in asked)),
        )


def _check_types(directory: object, config: Mapping[str, Any]) -> None:
    """Raise for a field whose value is of a type that peft never writes."""
    items = {"layers_to_transform": int, FIELD: int}
    for key, types in TYPES.items():
        value = config.get(key)
        parts = value if isinstance(value, list) else []
        whole = value is None or (isinstance(value, types) and (bool in types or value is not True))
        if not whole or not all(type(part) is items.get(key, str) for part in parts):
            shown = repr(value)
            raise LoraportError(
                f"adapter {directory} has a field of the wrong type in adapter_config.json",
                got=f"{key} = {shown if len(shown) <= 80 else shown[:79] + '…'}",
                expected=" or ".join(each.__name__ for each in types),
                todo="save the adapter again with peft's save_pretrained()",
            )
