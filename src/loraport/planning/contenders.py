"""What is compared on an app: methods and variants, which of them can serve the pair, and where
their numbers lie. Nothing is run to find out."""

from pathlib import Path
from typing import Any

from .. import methods
from ..errors import LoraportError
from ..models.families import Dimensions
from ..models.spec import is_local, open_model
from . import layout, rows, stages
from .queries import Config
from .specs import read_sizes

Entry = dict[str, Any]
OLD, BARE, FULL, MATCHED = "old_lora", "new", "lora_full", "lora_small_matched"
RULES_OF = {  # what a method declares to need -> the rules that make it
    "embedding": ("embedding",),
    "layers": ("cka", "layers"),
    "heads": ("embedding", "cka", "layers", "heads"),
    "moments": ("cka", "layers", "moments"),
    "gradients": ("cka", "layers", "gradients"),
    "outputs": ("cka", "layers", "moments"),
}


def names(config: Config) -> list[str]:
    """Methods and variants that are compared: those named, or all that are offered."""
    named = config.content["compare"]["methods"]
    return named or [*methods.offered(), *config.content["variants"]]


def dimensions(config: Config, model: str) -> Dimensions | None:
    """A model's dimensions: from its spec or its local files; None while only the hub knows."""
    spec = Path(layout.path(layout.SPEC, model=model))
    if spec.is_file():
        return read_sizes(spec)
    source = config.model(model)["source"]
    return open_model(Path(source)).dims if is_local(source) and Path(source).is_dir() else None


def refusal(config: Config, pair: str, name: str) -> str:
    """Why a method or variant can't serve a pair; empty where it can, or where nobody knows yet."""
    old, new = (dimensions(config, model) for model in config.pair(pair))
    if old is None or new is None:
        return ""
    try:
        methods.check_pair(config.method(name), old, new, config.mapping(name))
    except LoraportError as error:
        return str(error)
    return ""


def entries(config: Config, pair: str, app: str) -> list[Entry]:
    """What the comparison of an app holds.

    Returns
    -------
    dicts with `label`, `stage`, `method` and `variant_of` (empty where they mean nothing),
    `refused` (why the method can't serve the pair, or empty), `runs` (one a seed, as `rows.rows`
    describes them) and `shared` (logs of what the method's maps take, once for the pair)
    """
    every = _baselines(config, pair, app)
    for name in names(config):
        base = config.method(name)
        about: Entry = {"method": name, "variant_of": "" if base == name else base}
        if reason := refusal(config, pair, name):
            every.append(_entry(name, "transferred", refused=reason, **about))
            continue
        about["shared"] = shared_logs(config, pair, name)
        runs = rows.method_rows(config, pair, app, name)
        for stage in dict.fromkeys(run["stage"] for run in runs):
            own = [run for run in runs if run["stage"] == stage]
            label = own[0]["label"].partition(", seed")[0]
            every.append(_entry(label, stage, runs=own, **about))
    return every


def _entry(label: str, stage: str, **more: Any) -> Entry:
    empty = {"method": "", "variant_of": "", "refused": "", "runs": [], "shared": []}
    return {"label": label, "stage": stage, **empty, **more}


def _baselines(config: Config, pair: str, app: str) -> list[Entry]:
    """The bare new model, the matched LoRA(small) with every seed, and LoRA(full)."""
    beside = {
        stage: _entry(stages.label(config, stages.STAGES[stage], ""), stage, runs=[])
        for stage in (BARE, MATCHED, FULL)
    }
    logs = rows.baseline_logs(config, pair, app)
    for stage, adapter in stages.baseline_adapters(config, pair, app).items():
        kind, _, seed = stage.partition("_seed")
        beside[kind]["runs"].append(
            {
                "seed": int(seed) if seed else "",
                "scores": layout.path(layout.BASELINE_SCORES, pair=pair, app=app, stage=stage),
                "adapter": adapter,
                "transfer_log": "",
                "logs": logs,
            }
        )
    return list(beside.values())


def reference(config: Config, pair: str, app: str) -> list[dict[str, Any]]:
    """The old model with its adapter, which flips are counted against, where it is to be scored."""
    if OLD not in config.content["evaluation"]["stages"]:
        return []
    scores = layout.path(layout.SCORES, pair=pair, app=app, stage=OLD)
    return [{"scores": scores, "logs": rows.stage_logs(config, pair, app, OLD)}]


def shared_logs(config: Config, pair: str, name: str) -> list[str]:
    """Logs of what a method's maps take, once for a pair."""
    method = config.method(name)
    rules = [rule for need in methods.needs(method) for rule in RULES_OF.get(need, ())]
    if config.sums_in_turn(name):
        rules.remove("moments")  # summed by rule maps
    own = [] if methods.per_adapter(method) else [layout.log("maps", pair=pair, method=name)]
    return [
        *(rows.mapping_log(config, pair, name, rule) for rule in dict.fromkeys(rules)),
        *rows.outputs_logs(config, pair, name),
        *own,
    ]


def pair_logs(config: Config, pair: str) -> list[str]:
    """Logs of what the report of a pair needs once, for any number of adapters: of the configured
    method and of `report.methods`, and of the mapping that it draws.
    """
    chosen = [config.content["transfer"]["method"], *config.content["report"]["methods"]]
    needed = {log for name in chosen for log in shared_logs(config, pair, name)}
    drawn = layout.logs(("embedding", "cka", "layers", "heads"), pair=pair)
    maps = [layout.log("maps", pair=pair, method=name) for name in dict.fromkeys(chosen)]
    outputs = [log for name in chosen for log in rows.outputs_logs(config, pair, name)]
    sums = layout.logs(("moments", "gradients"), pair=pair)
    optional = [*sums, *dict.fromkeys(outputs), *maps]
    return [
        *rows.model_logs(config, pair),
        *drawn,
        *(log for log in optional if log in needed),
    ]


def runs_of(every: list[Entry]) -> list[dict[str, Any]]:
    """All runs of all entries."""
    return [run for entry in every for run in entry["runs"]]
