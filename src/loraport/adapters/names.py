"""Names of modules as adapters have them: without wrappers, and in the model's own form.

A file may hold the names of `AutoModel`, which leaves out the prefix of the model with a head; of
the text model inside a multimodal one, or the reverse; of a compiled or sharded model; of a module
that was called otherwise in older versions of transformers.
"""

import re

from ..models.families import Architecture

PREFIX = "base_model.model."
# what torch.compile, FSDP and activation checkpointing put into names, and peft into those of files
# that it did not write itself
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "modules_to_save")
PARALLEL = "module."  # before all names of a model under DistributedDataParallel
# parts of multimodal models beside the language model, by the names that transformers gives them
BESIDE = frozenset(
    [
        "audio_model",
        "audio_tower",
        "embed_audio",
        "embed_vision",
        "merger",
        "mm_projector",
        "multi_modal_projector",
        "speech_encoder",
        "vision_embed_tokens",
        "vision_encoder",
        "vision_model",
        "vision_tower",
        "visual",
    ]
)


def plain_name(name: str) -> str:
    """A tensor's name below the model that peft wrapped: no prefix, no wrapper, no adapter's name.

    Examples
    --------
    >>> plain_name("_orig_mod.base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight")
    'model.layers.0.mlp.up_proj.lora_A.weight'
    """
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    plain = ".".join(parts).replace(".default", "")
    while plain.startswith((PREFIX, PARALLEL)):
        plain = plain.removeprefix(PREFIX).removeprefix(PARALLEL)
    return plain


def is_beside(path: str, family: Architecture) -> bool:
    """Whether a module is of a part beside the language model, such as one that sees."""
    outer = re.split(r"\.\d+(?:\.|$)", path)[0].split(".")
    named = not BESIDE.isdisjoint(outer)
    return named or any(path.startswith(f"{part}.") for part in family.beside)
