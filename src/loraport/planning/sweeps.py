"""Sweeps of the sensitivity study: one setting varied, the rest as configured.

Each point is a light fine-tuning of the transferred adapter and, beside it, a fresh adapter of the
same shape on the same schedule. The sweeps of rank and of target modules cut the *source* adapter:
its update is truncated to a lower rank, or its other modules are left out, before it is carried.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..adapters.audit import audit
from ..adapters.files import CONFIG, read_adapter, write_adapter
from ..adapters.lora_weights import LoraWeights
from ..artifacts import write_json
from ..errors import LoraportError
from ..models.families import Architecture
from ..models.spec import Model, is_local, open_model
from ..numerics.lowrank import balance
from . import stages
from .queries import Config

NAMES = ("rank", "learning_rate", "examples", "modules")
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
    """What a point changes in the settings of its training."""
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
        held = stages.count_examples(stages.local_data(task))
        return {
            value: f"the task has {held} training examples"
            for value in values(config, name)
            if held and value_of(config, name, value) > held
        }
    cut = source_app(config, app, name, old)
    source = config.given_adapter(cut, old) if name in CUTS else ""
    if not source:
        return {}
    about = json.loads((Path(source) / CONFIG).read_text())
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


def cut_adapter(
    source: str | Path,
    model: Model,
    out: Path,
    known_as: Sequence[str],
    cut: Mapping[str, Any],
    base: str,
    inputs: Mapping[str, str],
) -> dict[str, Any]:
    """Write an adapter with a lower rank, or with fewer modules, into the folder `out`.

    Parameters
    ----------
    cut : {"rank": r} or {"modules": roles}
    inputs : identities of the rule's inputs, recorded in cut.json

    Returns
    -------
    content of cut.json: the cut, and the share of ‖ΔW‖² that is kept, summed over the modules
    """
    adapter = read_adapter(source)
    located = audit(adapter, model.architecture, model.dims, known_as)
    if "rank" in cut:
        made = {place: truncate(weights, cut["rank"]) for place, weights in located.items()}
    else:
        wanted = _modules(model.architecture, cut["modules"])
        made = {place: weights for place, weights in located.items() if place[1] in wanted}
    if not made:
        raise LoraportError(
            f"adapter {source} has none of the modules that the sweep asks for",
            got=", ".join(sorted({module for _, module in located})),
            expected=", ".join(cut["modules"]),
            todo="sweep an app whose adapter adapts them",
        )
    write_adapter(
        out,
        adapter.config,
        base,
        "",
        model.architecture,
        model.dims.layers,
        made,
        "float32",
        adapter.saved,
    )
    whole = math.fsum(weights.norm() ** 2 for weights in located.values())
    kept = math.fsum(weights.norm() ** 2 for weights in made.values()) / whole
    content = {"cut": dict(cut), "energy_kept": kept, "adapter": adapter.hashes()}
    write_json(out / "cut.json", "cut", inputs, content)
    return content


def _modules(family: Architecture, roles: Sequence[str]) -> set[str]:
    return {family.module_of(role) for role in roles if role in family.roles}


def truncate(weights: LoraWeights, rank: int) -> LoraWeights:
    """The best approximation of an update of at most `rank`, with the same scale s."""
    if rank >= weights.rank:
        return weights
    b, a, _ = balance(weights.b.astype(np.float64), weights.a.astype(np.float64), rank)
    return replace(weights.replaced(b, a), magnitude=weights.magnitude, bias=weights.bias)
