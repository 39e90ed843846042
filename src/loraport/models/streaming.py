"""Whether a model is in memory whole, or streamed: one decoder block at a time (`blocks`)."""

from collections.abc import Mapping
from typing import Any


def is_streamed(settings: Mapping[str, Any], trust_remote_code: bool) -> bool:
    """Whether a model is streamed, by the calibration settings `stream` and `device_map`: `always`,
    `never`, or by `auto` all but models that are spread over several GPUs, to be whole, and those
    that run code of their own.
    """
    whole = settings.get("device_map") or trust_remote_code
    return settings["stream"] == "always" or (settings["stream"] == "auto" and not whole)
