"""Look-ups of the rules that train, score and merge an app's adapters."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..adapters.base_names import recorded_commit
from ..evaluation import task_files
from . import layout, preflight, rows, stages, tasks
from .lookups_carry import CarryLookups
from .lookups_models import Inputs, Lookup, Wildcards
from .places import Aside


class ScoreLookups(CarryLookups):
    """Inputs and params of rules, from their wildcards.

    Parameters
    ----------
    config, given, source : as for `ModelLookups`
    """

    @property
    def show_failures(self) -> bool:
        """Whether tables are made without what has failed, and tell of it."""
        return self.config.content["report"]["failures"] == "show"

    # tasks and training

    def task(self, wildcards: Wildcards, examples: int = 0) -> Inputs:
        """The task of an app: of a model's own, or of a pair's new and then old model; it must have
        so many training examples.
        """
        one = hasattr(wildcards, "model")
        models = [wildcards.model] if one else reversed(self.pair_models(wildcards))
        task = stages.task_of(self.config, wildcards.app, *models)
        tasks.check(self.config, task, self.tasks_dir(), examples)
        return task

    def task_file(self, wildcards: Wildcards) -> list[Any]:
        """The task's training file; none for a data set of the hub."""
        return self.given_files(tasks.train_files(self.task(wildcards)))

    def full_files(self, wildcards: Wildcards) -> list[Any]:
        """The training file of an adapter that is trained from scratch on a task's data."""
        asked = self.training("full")(wildcards)["examples"]
        return self.given_files(tasks.train_files(self.task(wildcards, asked)))

    def task_data(self, wildcards: Wildcards) -> Inputs:
        """Where the task's training examples come from, and their template."""
        return stages.train_data(self.task(wildcards))

    def base_of(self, side: str) -> Lookup:
        """Function of wildcards: where a base model is (`own`, or a pair's `old` or `new`)."""
        return lambda wildcards: stages.about_base(self.config, self.name_of(wildcards, side))

    def watched(self) -> Aside:
        """Where trainings are logged besides; a change of it trains nothing again."""
        return Aside(self.config.content["finetune"]["report_to"])

    def lora(self) -> Inputs:
        """Shape of an adapter that is trained on all of a task's data."""
        return self.config.content["finetune"]["lora"]

    def training(self, kind: str) -> Callable[[Wildcards], Inputs]:
        """Function of wildcards: training settings, with the seed that a target names."""

        def settings(wildcards: Wildcards) -> Inputs:
            seed = {"seed": int(wildcards.seed)} if hasattr(wildcards, "seed") else {}
            return stages.training(self.config, kind, **seed)

        return settings

    def small_files(self, kind: str) -> Lookup:
        """Function of wildcards: files of a training's small set that are its rule's inputs."""
        return self._small("files", self.training(kind))

    def small_data(self, kind: str) -> Lookup:
        """Function of wildcards: where a training's small set is read from."""
        return self._small("data", self.training(kind))

    def small_settings(self, kind: str) -> Lookup:
        """Function of wildcards: settings of a training on its small set."""
        return self._small("settings", self.training(kind))

    def gain_settings(self, wildcards: Wildcards) -> Inputs:
        """Settings of the light fine-tuning, and whether the model that a gain is chosen on is
        streamed.
        """
        stream = self.config.content["calibration"]["stream"]
        return {**self.small_settings("lft")(wildcards), "stream": stream}

    def _small(self, part: str, settings: Callable[[Wildcards], Inputs]) -> Lookup:
        def look_up(wildcards: Wildcards) -> Any:
            training = settings(wildcards)
            task = self.task(wildcards, training["examples"])
            return stages.small_set(self.config, wildcards.pair, wildcards.app, task, training)[
                part
            ]

        return look_up

    def answers_of_small_set(self) -> str:
        """Whose answers a small set has, in words."""
        own = self.config.content["finetune"]["answers"] == "own"
        return "the adapted old model's answers" if own else "the task's answers"

    def answering(self) -> Inputs:
        """Settings of the writing of a small set's answers."""
        return stages.answering(self.config)

    def adapter_maps_inputs(self, wildcards: Wildcards) -> Inputs:
        """What the maps of one adapter are made from: the pair's artifacts, the adapter, its
        texts.
        """
        texts = {} if self._reads_generic(wildcards) else {"data": self.task_file(wildcards)}
        return {**self.maps_inputs(wildcards), **texts, "adapter": self.old_adapter(wildcards)}

    def adapter_maps_task(self, wildcards: Wildcards) -> Inputs | None:
        """Where the task's training examples come from; nothing where generic texts are read."""
        return None if self._reads_generic(wildcards) else self.task_data(wildcards)

    def _reads_generic(self, wildcards: Wildcards) -> bool:
        return self.config.mapping(wildcards.method)["calibrate_on"] == "generic"

    # scores

    def scoring(self) -> Inputs:
        """Settings of an evaluation."""
        return stages.scoring(self.config)

    def tasks_dir(self) -> str:
        """Folder of the task files: the configured one, or that of the workflow."""
        named = self.config.content["evaluation"]["tasks_dir"]
        return named or str(self._source("resources/tasks"))

    def scored_on(self, wildcards: Wildcards) -> list[Any]:
        """Files that the scores of an app depend on: test data, task files with what they include,
        and their helpers.
        """
        return self.given_files(map(str, self._scored_on(wildcards)))

    def tasks_version(self, wildcards: Wildcards) -> str:
        """Digest of these files: a file of the same age with other content counts as another."""
        return task_files.version(self._scored_on(wildcards))

    def _scored_on(self, wildcards: Wildcards) -> list[Path]:
        data_dir = self.config.content["evaluation"]["data_dir"]
        return tasks.files(self.task(wildcards), self.tasks_dir(), data_dir)

    def has_stages(self, side: str) -> bool:
        """Whether anything of a pair is scored on its old, or on its new model."""
        return bool(stages.wanted(self.config, side))

    def stage_pattern(self, side: str) -> str:
        """Pattern of the stages that are scored on one side of a pair."""
        return "|".join(stages.wanted(self.config, side))

    def model_scores(self) -> list[str]:
        """Score files of one model without a pair, as patterns."""
        return self._for_stages(layout.MODEL_SCORES, stages.MODEL_STAGES)

    def score_files(self, side: str) -> str | list[str]:
        """Score files of the configured stages of a pair's old or new model, as patterns.

        Where failures are shown, those of the new model are scored one by one, so that a stage that
        fails takes no other with it; what is scored already costs nothing.
        """
        if self._one_by_one(side):
            return layout.SCORES
        return self._for_stages(layout.SCORES, stages.wanted(self.config, side))

    def scores_log(self, side: str) -> str:
        """Log of the rule that makes them, as a pattern."""
        return layout.STAGE_LOG if self._one_by_one(side) else layout.LOGS[f"evaluated_{side}"]

    def _one_by_one(self, side: str) -> bool:
        return self.show_failures and side == "new"

    def method_score_files(self) -> list[str]:
        """Score files of a method's own table, as patterns."""
        return self._for_stages(layout.METHOD_SCORES, stages.method_stages(self.config))

    def baseline_score_files(self) -> list[str]:
        """Score files of what all methods are compared with, as patterns."""
        return self._for_stages(layout.BASELINE_SCORES, stages.baseline_stages(self.config))

    def merge_score_files(self) -> list[str]:
        """Score files of a merge on the new model, as patterns."""
        on_new = (name for name, stage in stages.MERGE_STAGES.items() if stage.side == "new")
        return self._for_stages(layout.MERGE_SCORES, on_new)

    @staticmethod
    def _for_stages(pattern: str, names: Any) -> list[str]:
        return [pattern.replace("{stage}", name) for name in names]

    def model_adapters(self, wildcards: Wildcards) -> dict[str, str]:
        """Stage -> adapter, of one model without a pair."""
        own = stages.adapter_of(self.config, wildcards.app, wildcards.model)
        return dict(zip(stages.MODEL_STAGES, ("", own), strict=True))

    def pair_adapters(self, side: str) -> Callable[[Wildcards], dict[str, str]]:
        """Function of wildcards: stage -> adapter, of the configured stages of one model.

        Of one stage alone where the rule scores them one by one.
        """

        def adapters(wildcards: Wildcards) -> dict[str, str]:
            every = stages.adapters_of_pair(self.config, wildcards.pair, wildcards.app)
            one = [wildcards.stage] if hasattr(wildcards, "stage") else None
            return {stage: every[stage] for stage in one or stages.wanted(self.config, side)}

        return adapters

    def method_adapters(self, wildcards: Wildcards) -> dict[str, str]:
        """Stage -> adapter, of a method's own table."""
        pair, app, method = wildcards.pair, wildcards.app, wildcards.method
        return stages.method_adapters(self.config, pair, app, method)

    def baseline_adapters(self, wildcards: Wildcards) -> dict[str, str]:
        """Stage -> adapter, of what all methods of an app are compared with."""
        return stages.baseline_adapters(self.config, wildcards.pair, wildcards.app)

    def files_of(self, adapters: Callable[[Wildcards], Mapping[Any, str]]) -> Lookup:
        """Function of wildcards: adapters made here, and the files of those that are given."""

        def inputs(wildcards: Wildcards) -> list[Any]:
            return self.adapter_inputs(*adapters(wildcards).values())

        return inputs

    def adapter_inputs(self, *folders: str) -> list[Any]:
        """Folders of adapters that are made here, files of those that are given."""
        inputs: list[Any] = []
        for folder in filter(None, folders):
            made = layout.is_made_here(folder)
            inputs += [folder] if made else self.given_files(preflight.adapter_files(folder))
        return inputs

    # merges

    def merged_folders(self, wildcards: Wildcards) -> list[str]:
        """The adapters of a merge: of one model, or as carried one by one."""
        config, apps = self.config, self._merge(wildcards)["apps"]
        if hasattr(wildcards, "model"):
            return [stages.adapter_of(config, app, wildcards.model) for app in apps]
        folder = layout.BY_METHOD if hasattr(wildcards, "method") else layout.APP
        names = {"pair": wildcards.pair, "method": getattr(wildcards, "method", "")}
        return [f"{layout.path(folder, app=app, **names)}/{layout.TRANSFERRED}" for app in apps]

    def merged_adapters(self, wildcards: Wildcards) -> list[Any]:
        """Their files where they are given, their folders where they are made here."""
        return self.adapter_inputs(*self.merged_folders(wildcards))

    def merge_settings(self, wildcards: Wildcards) -> Inputs:
        """Weights and density of a merge."""
        return {key: self._merge(wildcards)[key] for key in ("weights", "density")}

    def merge_base(self, wildcards: Wildcards) -> Inputs:
        """How the base of a merge is named in adapters."""
        name = self.name_of(wildcards, "own" if hasattr(wildcards, "model") else "new")
        entry = self.config.model(name)
        return {
            "known_as": self.config.known_as(name),
            "base": self.config.recorded_base(name),
            "revision": entry["revision"] or recorded_commit(entry["source"]),
        }

    def _merge(self, wildcards: Wildcards) -> Inputs:
        return self.config.content["merges"][wildcards.app]

    def merge_rows(self, wildcards: Wildcards) -> list[rows.Row]:
        """The rows of a merge's table."""
        return rows.merge_rows(self.config, wildcards.pair, wildcards.app)

    def merge_stages(self, wildcards: Wildcards) -> dict[str, str]:
        """Stage -> adapter, of what is scored on the new model for a merge."""
        table = self.merge_rows(wildcards)
        return {row["stage"]: row["adapter"] for row in table if row["side"] == "new"}

    def merge_scores(self, wildcards: Wildcards) -> list[str]:
        """Score files that a merge's table waits for."""
        return [row["scores"] for row in self.merge_rows(wildcards)]

    # one model's adapter

    def own_adapter_folder(self, wildcards: Wildcards) -> str:
        """The folder of a model's adapter for an app."""
        self.config.adapter(wildcards.app, wildcards.model)
        return stages.adapter_of(self.config, wildcards.app, wildcards.model)

    def own_adapter(self, wildcards: Wildcards) -> list[Any]:
        """Its files where it is given, the folder where it is made here."""
        return self.adapter_inputs(self.own_adapter_folder(wildcards))
