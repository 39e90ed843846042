"""Kinds of adapters: one file each, which says what a kind stores and how to read and write it.

A kind is a module with

`PARTS` : end of a tensor's name -> part of the module's weights; `OPTIONAL` of them may be absent.
`FIELDS` : fields of adapter_config.json that it has beside LoRA's own.
`serves(config)` : whether an adapter is of this kind.
`read(config, path, parts)` : a module's `LoraWeights` from its tensors.
`tensors(weights)` : the reverse, end of a tensor's name -> array.
`fields(weights)` : the config fields that say the ranks and scales of all modules.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from ...errors import LoraportError
from . import adalora, dora, lora

KINDS: tuple[ModuleType, ...] = (adalora, dora, lora)


def kind_of(config: Mapping[str, Any], where: object) -> ModuleType:
    """The kind that an adapter's config says; others are refused by name."""
    for kind in KINDS:
        if kind.serves(config):
            return kind
    raise LoraportError(
        f"adapter {where} is of a kind that loraport does not carry",
        got=f"peft_type {config.get('peft_type')!r}",
        expected="LORA (plain, rsLoRA or DoRA) or ADALORA",
        todo="convert it to a plain LoRA adapter first (peft can merge and extract one)",
    )
