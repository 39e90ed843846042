"""Look-ups of the rule that chooses where a light fine-tuning begins."""

from collections.abc import Callable
from typing import Any

from ..evaluation.folds import learned
from . import needs, specs, stages, tasks, times
from .lookups_models import Inputs, Wildcards
from .lookups_upgrade import UpgradeLookups

# of what is taught and judged, which a taught start of a light fine-tuning does not read
NOT_TAUGHT = (
    "prompts", "labels", "verify", "margin", "level", "temperature", "at_least", "generator"
)  # fmt: skip


class StartLookups(UpgradeLookups):
    """Params and resources of the choice of a start.

    Parameters
    ----------
    config, given, source : as for `PairLookups`
    """

    def asks_for_taught_start(self) -> bool:
        """Whether a taught start is to be tried beside nothing and the carried update."""
        return self.config.content["finetune"]["start"] == "taught"

    def teaches_start(self, wildcards: Wildcards) -> bool:
        """Whether one is tried, as far as a plan knows: of a large small set none is taught.

        How many examples there are is not known of a data set of the hub that is taken whole, nor
        of answers of the old model's own, some of which may be left out.
        """
        section = self.config.content["finetune"]
        if not self.asks_for_taught_start():
            return False
        if section["answers"] == "own":
            return True
        count = section["examples"] or tasks.count_examples(self.small_files("lft")(wildcards))
        return learned(count) < section["taught_prompts"]

    def taught_start(self, wildcards: Wildcards) -> Inputs:
        """Settings of the teaching of a start, and where the old model is; empty without one."""
        if not self.asks_for_taught_start():
            return {}
        settings = {k: v for k, v in self.upgrading().items() if k not in NOT_TAUGHT}
        settings["at_least"] = self.config.content["finetune"]["taught_prompts"]
        return {"old": self.bases(wildcards)["old"], "settings": settings}

    def start_code(self, script: str) -> Inputs:
        """Hash of the code that chooses a start; that of a teaching counts where there is one."""
        if not self.asks_for_taught_start():
            return self.code(script)
        return self.teaching_code(script, "upgrade.taught_start")

    def start_mem_mb(self) -> Callable[[Any, Any, int], int]:
        """Memory in MiB of a job that chooses a start: a taught one needs both models."""
        alone = self.mem_mb("finetune")

        def need(wildcards: Any, input: Any, attempt: int) -> int:
            if not self.teaches_start(wildcards):
                return alone(wildcards, input, attempt)
            sides = self._start_needs(input)
            return attempt * sum(each.host_mib if on_gpu else each.mib for each, on_gpu in sides)

        return need

    def start_gpu_mb(self) -> Callable[[Any, Any, int], int]:
        """Memory of a GPU in MiB of such a job."""
        alone = self.gpu_mb("finetune")

        def need(wildcards: Any, input: Any, attempt: int) -> int:
            if not self.teaches_start(wildcards):
                return alone(wildcards, input, attempt)
            return attempt * sum(
                each.gpu_mib for each, on_gpu in self._start_needs(input) if on_gpu
            )

        return need

    def start_runtime(self) -> Callable[..., int]:
        """The limit of wall time in minutes of such a job: that of an upgrade besides."""
        alone = self.runtime("finetune")

        def minutes(wildcards: Any, input: Any, attempt: int, threads: int = 1) -> int:
            asked = alone(wildcards, input, attempt, threads)
            if self.teaches_start(wildcards):
                longest = max(each.seconds for each, _ in self._start_needs(input))
                asked += attempt * times.limit_minutes(longest)
            return asked

        return minutes

    def start_gpus(self, wildcards: Wildcards) -> int:
        """GPUs of such a job."""
        sections = ("finetune", "upgrade") if self.teaches_start(wildcards) else ("finetune",)
        return max(self.gpus(section) for section in sections)

    def _start_needs(self, input: Any) -> list[tuple[needs.Need, bool]]:
        """What each model of a taught start needs, and whether it is on a GPU.

        The old one is as `upgrade` says; the new one, as `finetune` says, is taught and trained.
        """
        old, new = map(specs.read_sizes, (input.old_spec, input.new_spec))
        sections = [self.config.content[name] for name in ("upgrade", "finetune")]
        each = [stages.base_need(new, section) for section in sections]
        most = each[0]._replace(
            mib=max(need.mib for need in each),
            host_mib=max(need.host_mib for need in each),
            gpu_mib=max(need.gpu_mib for need in each),
        )
        return [
            (stages.base_need(old, sections[0]), self._on_gpu("upgrade")),
            (most, self._on_gpu("finetune")),
        ]
