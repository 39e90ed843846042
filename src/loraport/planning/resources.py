"""What a rule asks for: memory, wall time, GPUs."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..models.families import Dimensions
from ..models.streaming import is_streamed
from . import needs, preflight, specs, stages, times
from .queries import Config

BY_BASE = ("evaluation", "finetune", "upgrade")  # sections of rules that load a base model
# memory and time (120 minutes) to describe a model of the hub, whose size is not known yet
UNSEEN_MODEL = needs.Need(8000, times.limit_seconds(120), 0, 0, 0.0)
# rules that the calibration section moves
READING = ("activations", "moments", "gradients", "experts")
STREAMED = ("activations", "moments", "experts", "adapter_maps")  # if their models are


def has_gpu() -> bool:
    """Whether NVIDIA's driver shows a GPU here that is not hidden; CUDA is not started for it."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and any(Path("/dev").glob("nvidia[0-9]*"))


class Resources:
    """Functions of a rule's inputs, by the name of the rule, or of the section that sizes it.

    A job that failed for want of memory or time asks for more with each attempt.
    """

    def __init__(self, config: Config):
        self.config = config

    def mem_mb(self, name: str) -> Callable[[Any, Any, int], int]:
        """Memory in MiB; `name` is one of `times.RULES`, of `BY_BASE`, or `gain`."""

        def memory(wildcards: Any, input: Any, attempt: int) -> int:
            asked = self._need(name, wildcards, input)
            return attempt * (asked.host_mib if self._on_gpu(name) and asked.gpu_mib else asked.mib)

        return memory

    def gpu_mb(self, name: str) -> Callable[[Any, Any, int], int]:
        """Memory of a GPU in MiB, 0 where none computes; `name` as for `mem_mb`."""

        def memory(wildcards: Any, input: Any, attempt: int) -> int:
            asked = self._need(name, wildcards, input).gpu_mib
            return attempt * asked if self._on_gpu(name) else 0

        return memory

    def runtime(self, name: str) -> Callable[..., int]:
        """The limit of wall time in minutes (`times.limit_minutes`); `name` as for `mem_mb`."""

        def minutes(wildcards: Any, input: Any, attempt: int, threads: int = 1) -> int:
            asked = self._need(name, wildcards, input)
            if self._on_gpu(name) and asked.gpu_mib:
                return attempt * times.limit_minutes(asked.gpu_seconds)
            cores = 1 if name in (*BY_BASE, "gain") else threads
            return attempt * times.limit_minutes(asked.seconds, cores)

        return minutes

    def gpus(self, section: str) -> int:
        """GPUs to take, none where the config says cpu or names one GPU itself (cuda:1)."""
        settings = self.config.content[section]
        return settings.get("gpus", 1) if settings["device"] in ("auto", "cuda") else 0

    def _on_gpu(self, name: str) -> bool:
        """Whether a GPU computes: as the section says that sizes or moves the rule; `auto` goes by
        the machine that plans.
        """
        if name == "gain":
            home = "finetune"
        else:
            home = name if name in BY_BASE else "calibration" if name in READING else "mapping"
        device = str(self.config.content[home]["device"])
        return device.startswith("cuda") or (device == "auto" and has_gpu())

    def _need(self, name: str, wildcards: Any, inputs: Any) -> needs.Need:
        """What the first attempt needs."""
        dims = specs.read(inputs)
        if name == "gain":
            return self._gain_need(dims[0], wildcards)
        if name in BY_BASE:
            return stages.base_need(dims[0], self.config.content[name])
        if name == "spec" and not dims:  # of the rule that describes a model
            source = self.config.model(wildcards.model)["source"]
            known = preflight.dimensions(source)
            return needs.need("spec", known) if known else UNSEEN_MODEL
        if name == "transferred" and (folder := self._carried_folder(wildcards)):
            tables = preflight.whole_tables(folder, dims[-1].vocabulary)
            return needs.with_tables(needs.need(name, *dims), *tables)
        # layers that are fitted to moments run side by side, as many as fit
        fitted = name == "maps" and hasattr(inputs, "moments")
        named = getattr(wildcards, "method", "")
        in_turn = name == "maps" and named and self.config.sums_in_turn(named)
        rule = "maps_in_turn" if in_turn else "fitted_maps" if fitted else name
        whole = name in STREAMED and self._is_whole(wildcards)
        return needs.need(rule, *dims, whole=whole, roles=self._roles(name, named))

    def _roles(self, name: str, named: str) -> list[str]:
        """Whose maps a rule makes, or whose moments it sums: of the method or variant `named`."""
        if name == "moments":
            return self.config.summed_modules(named)
        return list(self.config.mapping(named)["modules"])

    def _gain_need(self, new: Dimensions, wildcards: Any) -> needs.Need:
        settings = self.config.content["finetune"]
        stream = self.config.content["calibration"]["stream"]
        model = self.config.model(self.config.pair(wildcards.pair)[1])
        if is_streamed({**settings, "stream": stream}, model["remote_code"]):
            at_once = settings["micro_batch"] or settings["batch_size"]
            return needs.streamed_gain(new, at_once, settings["cutoff"])
        return stages.base_need(new, settings)

    def _carried_folder(self, wildcards: Any) -> str:
        """The folder of a given adapter that is carried; empty for one that is made here."""
        app, pair = wildcards.app, wildcards.pair
        return self.config.given_adapter(app, self.config.pair(pair)[0])

    def _is_whole(self, wildcards: Any) -> bool:
        """Whether a model that reads texts is held whole."""
        settings = dict(self.config.content["calibration"])
        if hasattr(wildcards, "model"):
            names = [wildcards.model]
        else:  # of both, on one device
            names, settings["device_map"] = list(self.config.pair(wildcards.pair)), ""
        return not all(is_streamed(settings, self.config.model(n)["remote_code"]) for n in names)
