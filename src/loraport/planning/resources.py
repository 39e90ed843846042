"""What a rule asks for: memory, wall time, GPUs."""

from collections.abc import Callable
from typing import Any

from . import needs, preflight, stages
from .queries import Config

BY_BASE = ("evaluation", "finetune", "upgrade")  # sections of rules that load a base model
# memory and minutes to describe a model of the hub, whose size is not known yet
UNSEEN_MODEL = (8000, 120)


class Resources:
    """Functions of a rule's inputs, by the name of the rule, or of the section that sizes it.

    A job that failed for want of memory or time asks for more with each attempt.
    """

    def __init__(self, config: Config):
        self.config = config

    def mem_mb(self, name: str) -> Callable[[Any, Any, int], int]:
        """Memory in MiB; `name` is one of `needs.RULES`, or of `BY_BASE`."""
        return lambda wildcards, input, attempt: self._need(name, wildcards, input)[0] * attempt

    def runtime(self, name: str) -> Callable[[Any, Any, int], int]:
        """Wall time in minutes; `name` as for `mem_mb`."""
        return lambda wildcards, input, attempt: self._need(name, wildcards, input)[1] * attempt

    def gpus(self, section: str) -> int:
        """GPUs to take, none where the config says cpu or names one GPU itself (cuda:1)."""
        settings = self.config.content[section]
        return settings.get("gpus", 1) if settings["device"] in ("auto", "cuda") else 0

    def _need(self, name: str, wildcards: Any, inputs: Any) -> tuple[int, int]:
        """Memory in MiB and minutes of the first attempt."""
        dims = needs.read(inputs)
        if name in BY_BASE:
            return stages.base_need(dims[0], self.config.content[name])
        if name == "spec" and not dims:  # of the rule that describes a model
            source = self.config.model(wildcards.model)["source"]
            known = preflight.dimensions(source)
            return needs.need("spec", known) if known else UNSEEN_MODEL
        # layers that are fitted to moments run side by side, as many as fit
        fitted = name == "maps" and hasattr(inputs, "moments")
        return needs.need("fitted_maps" if fitted else name, *dims)
