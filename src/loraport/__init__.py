"""Carry LoRA adapters from one version of a language model to the next."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("loraport")
except PackageNotFoundError:  # the source tree is on the path, but was not installed
    __version__ = "0+uninstalled"
