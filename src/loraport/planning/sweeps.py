"""Sweeps of the sensitivity study: one setting varied, the rest as configured.

Each point is a light fine-tuning of the transferred adapter and, beside it, a fresh adapter of the
same shape on the same schedule. The sweeps of rank and of target modules cut the *source* adapter:
its update is truncated to a lower rank, or its other modules are left out, before it is carried.
"""

import json
from pathlib import Path
from typing import Any

from ..artifacts import ADAPTER_CONFIG
from ..errors import LoraportError
from ..models.spec import is_local, open_model
from . import stages, tasks
from .queries import Config

NAMES = ("rank", "learning_rate", "epochs", "examples", "modules")
CUTS = ("rank", "modules")  # sweeps that cut the source adapter
# folder of what a point trains -> what its row is called, and the same of what it is beside
POINTS = {
    stages.STAGES[name].rule: stages.STAGES[name].point_label
    for name in ("finetuned", "lora_small_matched")
}
REFERENCES = {name: stages.STAGES[name].label for name in ("new", "lora_full")}


def values(config: Config, name: str) -> list[str]:
    """Values of a sweep as they stand in paths."""
    sweeps = config.content["sweeps"]
    if name not in NAMES:
        raise LoraportError(
            f"there is no sweep {name!r}", got=name, expected=f"one of {', '.join(NAMES)}"
        )
    return [value if isinstance(value, str) else f"{value:g}" for value in sweeps[name]]


def value_of(config: Config, name: str, value: str) -> Any:
    """The value behind its name in a path: a number, or the roles of target modules."""
    known = values(config, name)
    if value not in known:
        raise LoraportError(
            f"sweep {name!r} has no value {value!r}",
            got=value,
            expected=f"one of {', '.join(known)}",
            todo=f"add it to sweeps.{name} in config.yaml",
        )
    entry = config.content["sweeps"][name]
    return entry[value] if isinstance(entry, dict) else entry[known.index(value)]


def overrides(config: Config, name: str, value: str) -> dict[str, Any]:
    """What a point changes in the settings of its training.

    Raises
    ------
    LoraportError
        For a sweep of epochs where `finetune.max_steps` takes their place.
    """
    steps = config.content["finetune"]["max_steps"]
    if name == "epochs" and steps > 0:
        raise LoraportError(
            "the sweep of epochs would train each point for the same number of steps",
            got=f"finetune.max_steps: {steps}, which takes the place of epochs",
            expected="finetune.max_steps: 0",
            todo="set it to 0 for this sweep",
        )
    return {} if name in CUTS else {name: value_of(config, name, value)}


def source_app(config: Config, app: str, name: str, old: str) -> str:
    """The app whose adapter a sweep cuts: for modules one that adapts them all, where there is."""
    whole = config.content["sweeps"]["modules_from"].get(app, app)
    return whole if name == "modules" and (whole, old) in config.adapters else app


def skipped(config: Config, pair: str, app: str, name: str) -> dict[str, str]:
    """Values that the app's adapter or data can't serve -> why."""
    old, new = config.pair(pair)
    if name == "examples":
        task = stages.task_of(config, app, new, old)
        held = tasks.count_examples(tasks.train_files(task))
        return {
            value: f"the task has {held} training examples"
            for value in values(config, name)
            if held and value_of(config, name, value) > held
        }
    cut = source_app(config, app, name, old)
    source = config.given_adapter(cut, old) if name in CUTS else ""
    if not source:
        return {}
    about = json.loads((Path(source) / ADAPTER_CONFIG).read_text())
    if name == "rank":
        return {
            value: f"the source adapter has rank {about['r']}"
            for value in values(config, name)
            if value_of(config, name, value) > about["r"]
        }
    return _lacking(config, old, about.get("target_modules"), name)


def _lacking(config: Config, old: str, targets: Any, name: str) -> dict[str, str]:
    """Sets of modules of which the source adapter lacks some; none where its base isn't at hand."""
    model = config.model(old)["source"]
    if not isinstance(targets, list) or not is_local(model) or not Path(model).is_dir():
        return {}
    family = open_model(Path(model)).architecture
    held = {
        role
        for role in family.roles
        if any(f".{family.module_of(role)}".endswith(f".{target}") for target in targets)
    }
    lacking = {
        value: [r for r in value_of(config, name, value) if r in family.roles and r not in held]
        for value in values(config, name)
    }
    return {
        value: f"the source adapter does not adapt {', '.join(roles)}"
        for value, roles in lacking.items()
        if roles
    }
