"""Look-ups of the workflow's rules: each by its name, of the wildcards of a rule."""

import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from .. import methods
from ..errors import LoraportError
from . import contenders, layout, rows, stages, sweeps, tasks
from .lookups_models import Inputs, Lookup, Wildcards
from .lookups_start import StartLookups
from .together import with_the_rest

NAME = "[A-Za-z0-9][A-Za-z0-9_.-]*"
PLOTS_OF_APP = ("loss", "retention", "cost")
SECTIONS = ("calibration", "mapping", "transfer", "finetune", "evaluation")  # of results


def told(value: Any, tell: Callable[[LoraportError], Any]) -> Any:
    """A function whose errors of the user's are handed to `tell`, as are those of the functions
    that it returns; any other value as it is.
    """
    if not callable(value):
        return value

    @wraps(value)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return told(value(*args, **kwargs), tell)
        except LoraportError as error:
            return tell(error)

    return wrapper


class Told:
    """Look-ups by name, each of them `told`, with what else is wrong."""

    def __init__(self, lookups: Any, tell: Callable[[LoraportError], Any]):
        self._lookups = lookups
        self._tell = lambda error: tell(with_the_rest(error, lookups))

    def __getattr__(self, name: str) -> Any:
        return told(getattr(self._lookups, name), self._tell)


class Lookups(StartLookups):
    """All look-ups: those of tables, plots, advice and sweeps beside the others.

    Parameters
    ----------
    config, given, source : as for `ModelLookups`
    """

    # names in paths

    def constraints(self) -> dict[str, str]:
        """Wildcard -> what it may match."""
        return {
            "model": NAME,
            "pair": f"(?!models/){NAME}",
            "app": NAME,
            "method": f"(?!after/){NAME}",
            "name": "|".join(sweeps.NAMES),
            "value": NAME,
            "seed": "[0-9]+",
        }

    def app_of_table(self) -> str:
        """What `{app}` may match where tables of other kinds have longer names beside."""
        return rf"(?!all\.|.*\.(methods|merged)\.){NAME}"

    def merges(self) -> str:
        """Pattern of the names of merges."""
        return "|".join(map(re.escape, self.config.content["merges"])) or "(?!)"

    # tables

    def table_rows(self, wildcards: Wildcards) -> list[rows.Row]:
        """The rows of an app's table."""
        return rows.rows(self.config, wildcards.pair, wildcards.app)

    def table_scores(self, wildcards: Wildcards) -> list[str]:
        """Score files that a table waits for."""
        return rows.split(self.table_rows(wildcards), self.show_failures)[0]

    def table_missing(self, wildcards: Wildcards) -> dict[str, str]:
        """Score files that are not there -> why; none unless failures are to be shown."""
        return rows.split(self.table_rows(wildcards), self.show_failures)[1]

    def compared_entries(self, wildcards: Wildcards) -> list[contenders.Entry]:
        """What the comparison of an app's methods holds."""
        return contenders.entries(self.config, wildcards.pair, wildcards.app)

    def compared_with(self, wildcards: Wildcards) -> list[Inputs]:
        """The old model with its adapter, which flips are counted against."""
        return contenders.reference(self.config, wildcards.pair, wildcards.app)

    def compared_scores(self, wildcards: Wildcards) -> list[str]:
        """Score files that a comparison waits for."""
        return rows.split(self._compared_runs(wildcards), self.show_failures)[0]

    def compared_missing(self, wildcards: Wildcards) -> dict[str, str]:
        """Score files that are not there -> why; none unless failures are to be shown."""
        return rows.split(self._compared_runs(wildcards), self.show_failures)[1]

    def _compared_runs(self, wildcards: Wildcards) -> list[Inputs]:
        """Everything that is scored for a comparison."""
        every = contenders.runs_of(self.compared_entries(wildcards))
        return [*every, *self.compared_with(wildcards)]

    def title(self, wildcards: Wildcards) -> str:
        """A pair as it is called in titles, with what its light fine-tuning read where no label
        was.
        """
        unlabelled = self.config.content["finetune"]["answers"] == "own"
        note = " (small set answered by the old model)" if unlabelled else ""
        return " → ".join(self.pair_models(wildcards)) + note

    # the report

    def reported_apps(self, wildcards: Wildcards) -> list[str]:
        """The apps of a pair that the report shows: those of the config, or all that have a
        task.
        """
        config, (old, _) = self.config, self.pair_models(wildcards)
        if chosen := config.content["report"]["apps"]:
            return chosen
        apps = config.apps(old)
        with_task = [app for app in apps if config.adapter(app, old)["task"]]
        if not with_task:
            raise LoraportError(
                f"there is nothing to report: no app of {old} has a task",
                got=f"apps {', '.join(apps) or 'none'}",
                expected="a task for one of them at least",
                todo=f"name tasks in the last column of {config.content['adapters']}",
            )
        return with_task

    def of_apps(self, *patterns: str) -> Callable[[Wildcards], list[str]]:
        """Function of wildcards: files of all reported apps."""
        return lambda wildcards: [
            layout.path(pattern, pair=wildcards.pair, app=app)
            for app in self.reported_apps(wildcards)
            for pattern in patterns
        ]

    def app_plots(self) -> Lookup:
        """Function of wildcards: an app's plots, of all reported apps."""
        return self.of_apps(*map(self.app_plot, PLOTS_OF_APP))

    @staticmethod
    def app_plot(view: str) -> str:
        """A plot of an app, as a pattern."""
        return layout.APP_PLOT.replace("{view}", view)

    @staticmethod
    def pair_plot(view: str) -> str:
        """A plot of a pair, as a pattern."""
        return layout.PAIR_PLOT.replace("{view}", view)

    def comparisons(self, wildcards: Wildcards) -> list[str]:
        """Comparisons of methods, of all reported apps, where the report is to show them."""
        if not self.config.content["report"]["comparison"]:
            return []
        bars = self.app_plot("methods")
        every = self.of_apps(f"{layout.COMPARISON}.html", bars)(wildcards)
        return [*every, layout.path(layout.PAIR_PLOT, pair=wildcards.pair, view="methods")]

    def specs_of(self, wildcards: Wildcards) -> dict[str, str]:
        """Name -> spec.json of both models of a pair."""
        return {name: self.spec(name) for name in self.pair_models(wildcards)}

    def spec_files(self, wildcards: Wildcards) -> list[str]:
        """spec.json of both models of a pair."""
        return list(self.specs_of(wildcards).values())

    def model_sources_of(self, wildcards: Wildcards) -> dict[str, str]:
        """Name -> where it is, of both models of a pair."""
        return {name: self.config.model(name)["source"] for name in self.pair_models(wildcards)}

    def reported_adapters(self, wildcards: Wildcards) -> dict[str, str]:
        """`app: label` of each row -> its adapter."""
        return self._rows_of_apps(wildcards, "adapter")

    def reported_scores(self, wildcards: Wildcards) -> list[str]:
        """Score files of all rows of all reported apps."""
        return list(self._rows_of_apps(wildcards, "scores").values())

    def page_scores(self, wildcards: Wildcards) -> list[str]:
        """Score files that the page of a pair waits for: those that its apps' tables wait for."""
        return [
            path
            for app in self.reported_apps(wildcards)
            for path in rows.split(rows.rows(self.config, wildcards.pair, app), self.show_failures)[
                0
            ]
        ]

    def scores_by_stage(self, wildcards: Wildcards) -> dict[str, dict[str, str]]:
        """App -> stage -> score file, of the configured stages."""
        return {
            app: {
                row["stage"]: row["scores"]
                for row in reversed(rows.rows(self.config, wildcards.pair, app))
            }
            for app in self.reported_apps(wildcards)
        }

    def reported_tasks(self, wildcards: Wildcards) -> dict[str, Inputs]:
        """App -> its task."""
        models = list(reversed(self.pair_models(wildcards)))
        return {
            app: stages.task_of(self.config, app, *models) for app in self.reported_apps(wildcards)
        }

    def reported_task_files(self, wildcards: Wildcards) -> list[Any]:
        """Files that the scores of all reported apps depend on."""
        data_dir = self.config.content["evaluation"]["data_dir"]
        every = (
            tasks.files(task, self.tasks_dir(), data_dir)
            for task in self.reported_tasks(wildcards).values()
        )
        named = dict.fromkeys(str(path) for files in every for path in files)
        return self.given_files(named)

    def rate_sweeps(self, wildcards: Wildcards) -> dict[str, str]:
        """App -> table of its sweep of the learning rate, which may not have been run."""
        names = {"pair": wildcards.pair, "name": "learning_rate"}
        return {
            app: f"{layout.path(layout.SWEEP, app=app, **names)}.csv"
            for app in self.reported_apps(wildcards)
        }

    def verdict_files(self, wildcards: Wildcards) -> dict[str, str]:
        """App -> its verdict.json, which may not have been made."""
        return {
            app: layout.path(layout.VERDICT, pair=wildcards.pair, app=app)
            for app in self.reported_apps(wildcards)
        }

    def verdicts_made(self, wildcards: Wildcards) -> list[str]:
        """Those that are there: the page shows them, and has none made."""
        return [path for path in self.verdict_files(wildcards).values() if Path(path).is_file()]

    def _rows_of_apps(self, wildcards: Wildcards, key: str) -> dict[str, str]:
        return {
            f"{app}: {row['label']}": row[key]
            for app in self.reported_apps(wildcards)
            for row in rows.rows(self.config, wildcards.pair, app)
            if row[key]
        }

    def account_settings(self, wildcards: Wildcards) -> Inputs:
        """The sections of the configuration that results depend on, with the texts that are
        read.
        """
        sections = {name: self.config.content[name] for name in SECTIONS}
        texts = self.config.texts(self.name_of(wildcards, "old"))
        return {**sections, "calibration": {**sections["calibration"], "texts": texts}}

    def account_logs(self, wildcards: Wildcards) -> list[str]:
        """Logs of what a pair needs once, for any number of adapters."""
        return contenders.pair_logs(self.config, wildcards.pair)

    # advice

    def old_magnitude(self, wildcards: Wildcards) -> str:
        """Size of the update of the old model's adapter."""
        old = self.name_of(wildcards, "old")
        return layout.path(layout.MAGNITUDE, model=old, app=wildcards.app)

    def magnitudes_of(self, wildcards: Wildcards) -> dict[str, str]:
        """App -> size of its update, of all reported apps."""
        old = self.name_of(wildcards, "old")
        return {
            app: layout.path(layout.MAGNITUDE, model=old, app=app)
            for app in self.reported_apps(wildcards)
        }

    def magnitude_files(self, wildcards: Wildcards) -> list[str]:
        """Sizes of the updates of all reported apps."""
        return list(self.magnitudes_of(wildcards).values())

    # sweeps

    def sweeps_made(self, wildcards: Wildcards) -> list[str]:
        """Sweeps that have been run: the report shows them, and starts none."""
        tables = (
            f"{layout.path(layout.SWEEP, pair=wildcards.pair, app=app, name=name)}.csv"
            for app in self.reported_apps(wildcards)
            for name in sweeps.NAMES
        )
        return [table for table in tables if Path(table).exists()]

    def sweep_values(self, wildcards: Wildcards) -> list[str]:
        """Values of a sweep as they stand in paths."""
        return sweeps.values(self.config, wildcards.name)

    def sweep_skipped(self, wildcards: Wildcards) -> dict[str, str]:
        """Values of a sweep that the app can't serve -> why."""
        return sweeps.skipped(self.config, wildcards.pair, wildcards.app, wildcards.name)

    def sweep_points(self, wildcards: Wildcards) -> list[Inputs]:
        """Everything that a sweep scores: its points, and what they are compared with."""
        config, pair, app = self.config, wildcards.pair, wildcards.app
        home = layout.path(layout.SWEEP, pair=pair, app=app, name=wildcards.name)
        every, skipped = stages.adapters_of_pair(config, pair, app), self.sweep_skipped(wildcards)
        beside = [name for name in sweeps.REFERENCES if name in stages.wanted(config, "new")]
        return [
            *({"value": "", "stage": stage, "adapter": every[stage]} for stage in beside),
            *(
                {"value": value, "stage": stage, "adapter": f"{home}/{value}/{stage}"}
                for value in self.sweep_values(wildcards)
                if value not in skipped
                for stage in sweeps.POINTS
            ),
        ]

    def sweep_adapters(self, wildcards: Wildcards) -> list[str]:
        """Adapters that a sweep scores."""
        return [each["adapter"] for each in self.sweep_points(wildcards) if each["adapter"]]

    def swept_adapter(self, wildcards: Wildcards) -> list[Any]:
        """The adapter that a sweep cuts: its files where it is given, its folder where it is
        made.
        """
        old = self.name_of(wildcards, "old")
        app = sweeps.source_app(self.config, wildcards.app, wildcards.name, old)
        if self.config.given_adapter(app, old):
            self.checked_adapter(app, old)
        return self.adapter_inputs(stages.adapter_of(self.config, app, old))

    def point(self, wildcards: Wildcards) -> Inputs:
        """What a point of a sweep cuts from the source adapter."""
        value = sweeps.value_of(self.config, wildcards.name, wildcards.value)
        return {wildcards.name: value}

    def point_start(self, wildcards: Wildcards) -> str:
        """The transferred adapter that a point starts from, or is like."""
        folder = layout.POINT if wildcards.name in sweeps.CUTS else layout.APP
        return f"{layout.path(folder, **dict(wildcards.items()))}/{layout.TRANSFERRED}"

    def point_files(self) -> Lookup:
        """Function of wildcards: files of the small set of a point's training."""
        return self._small("files", self._point_training)

    def point_data(self) -> Lookup:
        """Function of wildcards: where that small set is read from."""
        return self._small("data", self._point_training)

    def point_settings(self) -> Lookup:
        """Function of wildcards: settings of that training."""
        return self._small("settings", self._point_training)

    def _point_training(self, wildcards: Wildcards) -> Inputs:
        changed = sweeps.overrides(self.config, wildcards.name, wildcards.value)
        return stages.training(self.config, "lft", **changed)

    def point_transfer(self, wildcards: Wildcards) -> Inputs:
        """Maps, specs, and the adapter that was cut."""
        method = self.method_of(wildcards)
        if methods.per_adapter(self.config.method(method)):
            raise LoraportError(
                f"the sweep of {wildcards.name} cuts the adapter, and {method} fits maps to a "
                "whole one",
                got=f"transfer.method: {method}",
                expected="a method whose maps serve all adapters of a pair",
                todo="set transfer.method to lorasuite or aligned for this sweep",
            )
        point = layout.path(layout.POINT, **dict(wildcards.items()))
        maps = layout.path(layout.MAPS, pair=wildcards.pair, method=method)
        own = f"{point}/{layout.SOURCE}"
        return {**self.pair_specs(wildcards), "maps": maps, "adapter": own}
