"""Carry LoRA adapters from one version of a language model to the next.

`loraport.inspect(adapter)` and `loraport.transfer(old, new, adapter, out)` are those of
`loraport.api`, which is imported when one of them is first asked for.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

try:
    __version__ = version("loraport")
except PackageNotFoundError:  # the source tree is on the path, but was not installed
    __version__ = "0+uninstalled"

OF_THE_API = ("Carried", "Inspection", "inspect")
OTHERS = {"LoraportError": "loraport.errors"}


def __getattr__(name: str) -> Any:
    """What the package offers by its own name."""
    if name in OF_THE_API:
        return getattr(import_module("loraport.api"), name)
    if name in OTHERS:
        return getattr(import_module(OTHERS[name]), name)
    if name == "transfer":  # a room, which can be called
        return import_module("loraport.transfer")
    raise AttributeError(f"module 'loraport' has no attribute {name!r}")
