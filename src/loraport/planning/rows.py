"""The rows of an app's table: what each is, where its numbers lie, and why it has none."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .. import methods
from ..runtime.job import last_record
from . import layout, stages
from .queries import Config

Row = dict[str, Any]
MODEL_RULES = ("spec", "activations")
PAIR_RULES = tuple(layout.MAPPING)


def rows(config: Config, pair: str, app: str) -> list[Row]:
    """Rows of an app's table: the configured stages, then those of `report.methods`.

    Returns
    -------
    one dict a row: `label`, `stage`, `method` and `seed` (empty where they mean nothing), `side`
    (old or new), `scores` (JSON file), `adapter` (its directory, or empty), `transfer_log`,
    `maps_log` (of maps that are the adapter's own; where there are none, empty), `start` and
    `start_log` (folder and log of the choice of its training's start, likewise), and `logs` (of
    all that comes before the scores, in the order in which it runs)
    """
    asked = config.content["evaluation"]["stages"]
    return [
        *(_stage_row(config, pair, app, stage) for stage in stages.STAGES if stage in asked),
        *(
            row
            for method in config.content["report"]["methods"]
            for row in method_rows(config, pair, app, method)
        ),
    ]


def _stage_row(config: Config, pair: str, app: str, name: str) -> Row:
    """The row of a configured stage."""
    stage, method = stages.STAGES[name], config.content["transfer"]["method"]
    transfer_log = layout.log("transferred", pair=pair, app=app)
    return {
        "label": stages.label(config, stage, method),
        "stage": name,
        "method": method if stage.carried else "",
        "seed": stages.first_seed(config) if stage.rule else "",
        "side": stage.side,
        "scores": layout.path(layout.SCORES, pair=pair, app=app, stage=name),
        "adapter": stages.adapters_of_pair(config, pair, app)[name],
        "transfer_log": transfer_log if stage.carried else "",
        "maps_log": own_maps_log(config, pair, app, method) if stage.carried else "",
        "start": start_folder(config, pair, app) if name == "finetuned" else "",
        "start_log": start_log(config, pair, app) if name == "finetuned" else "",
        "logs": stage_logs(config, pair, app, name),
    }


def method_rows(config: Config, pair: str, app: str, method: str) -> list[Row]:
    """A named method's rows: as transferred, and after LFT with each seed."""
    names = {"pair": pair, "app": app, "method": method}
    several = len(config.content["finetune"]["seeds"]) > 1
    few = stages.small_set_in_words(config)
    about = {
        "method": method,
        "side": "new",
        "transfer_log": layout.log("transferred_by_method", **names),
        "maps_log": own_maps_log(config, pair, app, method),
        "logs": _method_logs(config, pair, app, method),
    }
    table = []
    for stage, adapter in stages.method_adapters(config, pair, app, method).items():
        seed = stage.partition("_seed")[2]
        suffix = f", seed {seed}" if several else ""
        table.append(
            {
                "label": f"{method}, fine-tuned on {few}{suffix}" if seed else f"{method}, carried",
                "stage": "finetuned" if seed else "transferred",
                "seed": int(seed) if seed else "",
                "scores": layout.path(layout.METHOD_SCORES, stage=stage, **names),
                "adapter": adapter,
                **about,
            }
        )
    return table


def _method_logs(config: Config, pair: str, app: str, method: str) -> list[str]:
    """Logs of what a named method's scores are made by; of a variant's mapping, as far as it has
    its own."""
    names = {"pair": pair, "app": app, "method": method}
    config.method(method)
    return [
        *model_logs(config, pair),
        *layout.logs(PAIR_RULES, pair=pair),
        *layout.logs([f"variant_{rule}" for rule in PAIR_RULES], pair=pair, method=method),
        *outputs_logs(config, pair, method),
        own_maps_log(config, pair, app, method) or layout.log("maps", pair=pair, method=method),
        layout.log("transferred_by_method", **names),
        *_answers_logs(config, pair, app),
        *(
            layout.log("lora_finetuned_by_method", seed=seed, **names)
            for seed in config.content["finetune"]["seeds"]
        ),
        layout.log("evaluated_method", **names),
    ]


def merge_rows(config: Config, pair: str, app: str) -> list[Row]:
    """Rows of a merge's table: the old model with it, the bare new one, merged before and after."""
    method = config.content["transfer"]["method"]
    folder = layout.path(layout.APP, pair=pair, app=app)
    adapters = {
        "old_lora": stages.adapter_of(config, app, config.pair(pair)[0]),
        "new": "",
        "before": f"{folder}/{layout.TRANSFERRED}",
        "after": f"{folder}/{layout.AFTER}/{layout.TRANSFERRED}",
    }
    table: list[Row] = []
    for name, stage in stages.MERGE_STAGES.items():
        scores = layout.SCORES if stage.side == "old" else layout.MERGE_SCORES
        table.append(
            {
                "label": stages.label(config, stage, method),
                "stage": name,
                "method": method if stage.carried else "",
                "seed": "",
                "side": stage.side,
                "scores": layout.path(scores, pair=pair, app=app, stage=name),
                "adapter": adapters[name],
                "transfer_log": "",
                "logs": [],
            }
        )
    return table


def baseline_logs(config: Config, pair: str, app: str) -> list[str]:
    """Logs of what all methods of an app are compared with."""
    return [
        *_transfer_logs(config, pair, app),
        *_answers_logs(config, pair, app),
        layout.log("lora_trained", model=config.pair(pair)[1], app=app),
        *(
            layout.log("lora_small_matched_by_seed", pair=pair, app=app, seed=seed)
            for seed in config.content["finetune"]["seeds"]
        ),
        layout.log("evaluated_baselines", pair=pair, app=app),
    ]


def model_logs(config: Config, pair: str) -> list[str]:
    """Logs of what is made once for each of a pair's models."""
    return [log for model in config.pair(pair) for log in layout.logs(MODEL_RULES, model=model)]


def mapping_log(config: Config, pair: str, name: str, artifact: str) -> str:
    """Log of an artifact of a mapping: of a variant's own where it makes another, or the pair's."""
    rule = f"variant_{artifact}" if config.has_own(name, artifact) else artifact
    return layout.log(rule, pair=pair, method=name)


def outputs_logs(config: Config, pair: str, method: str) -> list[str]:
    """Log of the output maps that a method or variant reads; of most methods none."""
    owner = config.outputs_of(method)
    return [layout.log("output_maps", pair=pair, method=owner)] if owner else []


def own_maps_log(config: Config, pair: str, app: str, method: str) -> str:
    """Log of the maps of one adapter, where a method or variant makes some; else empty."""
    own = methods.per_adapter(config.method(method))
    return layout.log("adapter_maps", pair=pair, app=app, method=method) if own else ""


def start_folder(config: Config, pair: str, app: str) -> str:
    """What a light fine-tuning was chosen to start from; empty where nothing is chosen."""
    chosen = stages.start_is_chosen(config)
    return f"{layout.path(layout.APP, pair=pair, app=app)}/{layout.START}" if chosen else ""


def start_log(config: Config, pair: str, app: str) -> str:
    """Log of the choice of a light fine-tuning's start; empty where none is chosen."""
    return layout.log("lora_start", pair=pair, app=app) if stages.start_is_chosen(config) else ""


def _answers_logs(config: Config, pair: str, app: str, kind: str = "lft") -> list[str]:
    """Log of the answers of a training's small set, where the old model writes them."""
    if config.content["finetune"]["answers"] == "given":
        return []
    examples = stages.training(config, kind)["examples"]
    return [layout.log("own_answers", pair=pair, app=app, examples=examples)]


def _transfer_logs(config: Config, pair: str, app: str) -> list[str]:
    """Logs of what the adapter carried by the configured method is made by."""
    method = config.content["transfer"]["method"]
    return [
        *model_logs(config, pair),
        *layout.logs(PAIR_RULES, pair=pair),
        *outputs_logs(config, pair, method),
        layout.log("lora_trained", model=config.pair(pair)[0], app=app),
        own_maps_log(config, pair, app, method) or layout.log("maps", pair=pair, method=method),
        layout.log("transferred", pair=pair, app=app),
    ]


def stage_logs(config: Config, pair: str, app: str, name: str) -> list[str]:
    """Logs of what a stage's scores are made by.

    Where failures are shown, stages of the new model are scored one by one: each has a log.
    """
    stage, (old, new) = stages.STAGES[name], config.pair(pair)
    if stage.side == "old":
        trained = layout.log("lora_trained", model=old, app=app)
        scored = layout.log("evaluated_old", pair=pair, app=app)
        return [*model_logs(config, pair), trained, scored]
    scored = layout.path(layout.STAGE_LOG, pair=pair, app=app, stage=name)
    if name in ("new", "lora_full"):
        full = [layout.log("lora_trained", model=new, app=app)] if name == "lora_full" else []
        return [*model_logs(config, pair), *full, scored]
    before = _transfer_logs(config, pair, app)
    if stage.rule:
        kind = "small" if name == "lora_small" else "lft"
        before += _answers_logs(config, pair, app, kind)
        if name == "finetuned" and (chosen := start_log(config, pair, app)):
            before.append(chosen)
        before.append(layout.log(stage.rule, pair=pair, app=app))
    return [*before, scored]


def failure(logs: Iterable[str]) -> str:
    """The first failure that logs tell of, as `rule: reason`; empty where none failed."""
    for log in logs:
        record = last_record(log)
        if record.get("status") == "failed":
            lines = [line for line in Path(log).read_text().splitlines() if line.strip()][:-1]
            told = [line for line in lines if line.startswith("unexpected ")] or lines[-1:]
            reason = told[0].partition(" (traceback in")[0] if told else "no reason was logged"
            return f"{record['rule']}: {reason}"
    return ""


def split(every: list[dict[str, Any]], show: bool) -> tuple[list[str], dict[str, str]]:
    """Score files to wait for, and of the others why they are missing.

    Parameters
    ----------
    every : from `rows`, or from `contenders.runs_of`
    show : whether what has failed is left out and told of; otherwise everything is waited for
    """
    missing = {}
    for row in every:
        if show and not Path(row["scores"]).exists() and (reason := failure(row["logs"])):
            missing[row["scores"]] = reason
    return [row["scores"] for row in every if row["scores"] not in missing], missing
