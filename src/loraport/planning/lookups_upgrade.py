"""Look-ups of the rules that upgrade adapters and judge them."""

from collections.abc import Callable
from typing import Any

from ..provenance import PACKAGE
from . import layout, specs, stages
from .lookups_models import Inputs, Wildcards
from .lookups_scores import ScoreLookups

NOT_SETTINGS = ("gpus",)
BY_NAME = ("upgrade/teachers", "upgrade/generators")  # found by their files


class UpgradeLookups(ScoreLookups):
    """Inputs, params and resources of upgrades, verdicts and fleets.

    Parameters
    ----------
    config, given, source : as for `PairLookups`
    """

    def upgrading(self) -> Inputs:
        """Settings of an upgrade and its verdict."""
        section = self.config.content["upgrade"]
        return {key: value for key, value in section.items() if key not in NOT_SETTINGS}

    def bases(self, wildcards: Wildcards) -> Inputs:
        """Where both base models of a pair are."""
        names = zip(("old", "new"), self.pair_models(wildcards), strict=True)
        return {side: stages.about_base(self.config, name) for side, name in names}

    def teaching_code(self, script: str, *modules: str) -> Inputs:
        """As `code`, with all teachers and generators, which are imported by name."""
        files = [file for folder in BY_NAME for file in sorted((PACKAGE / folder).glob("*.py"))]
        named = [".".join(file.relative_to(PACKAGE).with_suffix("").parts) for file in files]
        return self.code(script, *modules, *named)

    def both_mem_mb(self, section: str) -> Callable[[Any, Any, int], int]:
        """Memory in MiB of a job that holds both models of a pair."""

        def need(wildcards: Any, input: Any, attempt: int) -> int:
            settings, on_gpu = self.config.content[section], self._on_gpu(section)
            asked = [stages.base_need(each, settings) for each in specs.read(input)]
            return attempt * sum(each.host_mib if on_gpu else each.mib for each in asked)

        return need

    def both_gpu_mb(self, section: str) -> Callable[[Any, Any, int], int]:
        """Memory of a GPU in MiB of such a job."""

        def need(wildcards: Any, input: Any, attempt: int) -> int:
            asked = [stages.base_need(e, self.config.content[section]) for e in specs.read(input)]
            return attempt * sum(each.gpu_mib for each in asked) if self._on_gpu(section) else 0

        return need

    def judged_on(self, wildcards: Wildcards) -> list[Any]:
        """Files that a verdict rests on besides models and adapters: those of labelled tests."""
        return self.scored_on(wildcards) if self.task(wildcards)["eval"] else []

    def judged_version(self, wildcards: Wildcards) -> str:
        """Digest of these files."""
        return self.tasks_version(wildcards) if self.task(wildcards)["eval"] else ""

    def unlabelled_file(self, wildcards: Wildcards) -> list[Any]:
        """The training file whose prompts a verdict without labels is found on."""
        return [] if self.task(wildcards)["eval"] else self.task_file(wildcards)

    def upgraded_apps(self, wildcards: Wildcards) -> list[str]:
        """Apps of a pair whose tasks have prompts."""
        old, new = self.pair_models(wildcards)
        return [
            app
            for app in self.config.apps(old)
            if stages.has_training_data(self.config, app, old, new)
        ]

    def fleet_inputs(self, wildcards: Wildcards) -> list[str]:
        """Upgraded adapters and verdicts of a pair."""
        return [
            layout.path(pattern, pair=wildcards.pair, app=app)
            for app in self.upgraded_apps(wildcards)
            for pattern in (layout.LORA_UPGRADED, layout.VERDICT)
        ]

    def fleet_sources(self, wildcards: Wildcards) -> list[Inputs]:
        """What a fleet's rows are made from."""
        old, _ = self.pair_models(wildcards)
        rules = ("lora_upgraded", "verdict")
        return [
            {
                "name": app,
                "source": stages.adapter_of(self.config, app, old),
                "upgraded": layout.path(layout.LORA_UPGRADED, pair=wildcards.pair, app=app),
                "verdict": layout.path(layout.VERDICT, pair=wildcards.pair, app=app),
                "logs": layout.logs(rules, pair=wildcards.pair, app=app),
            }
            for app in self.upgraded_apps(wildcards)
        ]
