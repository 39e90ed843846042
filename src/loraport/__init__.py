"""Carry LoRA adapters from one version of a language model to the next.

`loraport.inspect` and `transfer` are those of `loraport.api`, `upgrade` and `check` those of
`loraport.api_verdicts`; these are imported when one of them is first asked for.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

try:
    __version__ = version("loraport")
except PackageNotFoundError:  # the source tree is on the path, but was not installed
    __version__ = "0+uninstalled"

ROOMS = ("transfer", "upgrade")  # which can be called
HOME = {
    "Carried": "loraport.api",
    "Inspection": "loraport.api",
    "LoraportError": "loraport.errors",
    "Row": "loraport.api_verdicts",
    "Verdict": "loraport.api_verdicts",
    "check": "loraport.api_verdicts",
    "inspect": "loraport.api",
}


def __getattr__(name: str) -> Any:
    """What the package offers by its own name."""
    if name in HOME:
        return getattr(import_module(HOME[name]), name)
    if name in ROOMS:
        return import_module(f"loraport.{name}")
    raise AttributeError(f"module 'loraport' has no attribute {name!r}")
