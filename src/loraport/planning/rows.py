"""The rows of an app's table: what each is, where its numbers lie, and why it has none."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .. import methods
from ..runtime.job import last_record
from . import stages
from .queries import Config

# stage -> what its row is called; {method} is the configured transfer method
LABELS = {
    "old": "old, bare",
    "old_lora": "old + LoRA",
    "new": "new, bare",
    "transferred": "transferred ({method}), no LFT",
    "lora_small": "LoRA(small), as published",
    "lora_small_matched": "LoRA(small), matched schedule",
    "finetuned": "transferred ({method}) + LFT(small)",
    "lora_full": "LoRA(full)",
}
MERGED = {  # stages of a merge's table on the new model
    "new": "new, bare",
    "before": "merged, then transferred ({method})",
    "after": "transferred ({method}), then merged",
}
PAIR_LOGS = ("embedding", "cka", "layers", "heads", "moments")
MODEL_LOGS = ("spec", "activations")
MADE_BY = {  # stages that are trained here -> the rule that trains them
    "lora_small": "lora_small",
    "lora_small_matched": "lora_small_matched",
    "finetuned": "lora_finetuned",
}


def rows(config: Config, pair: str, app: str) -> list[dict[str, Any]]:
    """Rows of an app's table: the configured stages, then those of `report.methods`.

    Returns
    -------
    one dict a row: `label`, `stage`, `method` and `seed` (empty where they mean nothing), `side`
    (old or new), `scores` (JSON file), `adapter` (its directory, or empty), `transfer_log`,
    `maps_log` (of maps that are the adapter's own; where there are none, empty), and `logs` (of all
    that comes before the scores, in the order in which it runs)
    """
    folder = f"artifacts/{pair}/{app}"
    method = config.content["transfer"]["method"]
    adapters = stages.adapters_of_pair(config, pair, app)
    found = []
    for stage in (stage for stage in LABELS if stage in config.content["evaluation"]["stages"]):
        carried = stage in ("transferred", "finetuned")
        found.append(
            {
                "label": LABELS[stage].format(method=method),
                "stage": stage,
                "method": method if carried else "",
                "seed": stages.first_seed(config) if stage in MADE_BY else "",
                "side": stages.SIDES[stage],
                "scores": f"{folder}/eval/{stage}.json",
                "adapter": adapters[stage],
                "transfer_log": f"artifacts/{pair}/logs/{app}/transferred.log" if carried else "",
                "maps_log": own_maps_log(config, pair, app, method) if carried else "",
                "logs": stage_logs(config, pair, app, stage),
            }
        )
    for name in config.content["report"]["methods"]:
        found += method_rows(config, pair, app, name)
    return found


def method_rows(config: Config, pair: str, app: str, method: str) -> list[dict[str, Any]]:
    """A named method's rows: as transferred, and after LFT with each seed."""
    config.method(method)
    seeds = config.content["finetune"]["seeds"]
    home = f"artifacts/{pair}/logs/{app}/{method}"
    own_maps = own_maps_log(config, pair, app, method)
    logs = [
        *_model_logs(config, pair),
        *(f"artifacts/{pair}/logs/{name}.log" for name in PAIR_LOGS),
        *(f"artifacts/{pair}/variants/{method}/logs/{name}.log" for name in PAIR_LOGS),
        *outputs_logs(config, pair, method),
        own_maps or f"artifacts/{pair}/logs/maps/{method}.log",
        f"{home}/transferred.log",
        *_answers_logs(config, pair, app),
        *(f"{home}/seed{seed}/lora_finetuned.log" for seed in seeds),
        f"{home}/evaluated.log",
    ]
    found = []
    for stage, adapter in stages.method_adapters(config, pair, app, method).items():
        seed = stage.partition("_seed")[2]
        suffix = f", seed {seed}" if len(seeds) > 1 else ""
        found.append(
            {
                "label": f"{method} + LFT(small){suffix}" if seed else f"{method}, no LFT",
                "stage": "finetuned" if seed else "transferred",
                "method": method,
                "seed": int(seed) if seed else "",
                "side": "new",
                "scores": f"artifacts/{pair}/{app}/{method}/eval/{stage}.json",
                "adapter": adapter,
                "transfer_log": f"{home}/transferred.log",
                "maps_log": own_maps,
                "logs": logs,
            }
        )
    return found


def merge_rows(config: Config, pair: str, app: str) -> list[dict[str, Any]]:
    """Rows of a merge's table: the old model with it, the bare new one, merged before and after."""
    folder, method = f"artifacts/{pair}/{app}", config.content["transfer"]["method"]
    places = {
        "old_lora": stages.adapter_of(config, app, config.pair(pair)[0]),
        "new": "",
        "before": f"{folder}/lora_transferred",
        "after": f"{folder}/after/lora_transferred",
    }
    return [
        {
            "label": {**MERGED, "old_lora": "old + merged LoRA"}[stage].format(method=method),
            "stage": stage,
            "method": method if stage in ("before", "after") else "",
            "seed": "",
            "side": "old" if stage == "old_lora" else "new",
            "scores": f"{folder}/{'eval' if stage == 'old_lora' else 'merged/eval'}/{stage}.json",
            "adapter": adapter,
            "transfer_log": "",
            "logs": [],
        }
        for stage, adapter in places.items()
    ]


def baseline_logs(config: Config, pair: str, app: str) -> list[str]:
    """Logs of what all methods of an app are compared with."""
    home = f"artifacts/{pair}/logs/{app}"
    seeds = config.content["finetune"]["seeds"]
    return [
        *_transfer_logs(config, pair, app),
        *_answers_logs(config, pair, app),
        f"artifacts/models/{config.pair(pair)[1]}/logs/{app}/lora_trained.log",
        *(f"{home}/seed{seed}/lora_small_matched.log" for seed in seeds),
        f"{home}/evaluated_baselines.log",
    ]


def _model_logs(config: Config, pair: str) -> list[str]:
    return [
        f"artifacts/models/{model}/logs/{name}.log"
        for model in config.pair(pair)
        for name in MODEL_LOGS
    ]


def outputs_logs(config: Config, pair: str, method: str) -> list[str]:
    """Log of the output maps that a method or variant reads; of most methods none."""
    owner = config.outputs_of(method)
    return [f"artifacts/{pair}/logs/output_maps/{owner}.log"] if owner else []


def own_maps_log(config: Config, pair: str, app: str, method: str) -> str:
    """Log of the maps of one adapter, where a method or variant makes some; else empty."""
    own = methods.per_adapter(config.method(method))
    return f"artifacts/{pair}/logs/{app}/maps/{method}.log" if own else ""


def _answers_logs(config: Config, pair: str, app: str, kind: str = "lft") -> list[str]:
    """Log of the answers of a training's small set, where the old model writes them."""
    if config.content["finetune"]["answers"] == "given":
        return []
    examples = stages.training(config, kind)["examples"]
    return [f"artifacts/{pair}/logs/{app}/own_answers/{examples}.log"]


def _transfer_logs(config: Config, pair: str, app: str) -> list[str]:
    """Logs of what the adapter carried by the configured method is made by."""
    method = config.content["transfer"]["method"]
    return [
        *_model_logs(config, pair),
        *(f"artifacts/{pair}/logs/{name}.log" for name in PAIR_LOGS),
        *outputs_logs(config, pair, method),
        f"artifacts/models/{config.pair(pair)[0]}/logs/{app}/lora_trained.log",
        own_maps_log(config, pair, app, method) or f"artifacts/{pair}/logs/maps/{method}.log",
        f"artifacts/{pair}/logs/{app}/transferred.log",
    ]


def stage_logs(config: Config, pair: str, app: str, stage: str) -> list[str]:
    """Logs of what a stage's scores are made by.

    Where failures are shown, stages of the new model are scored one by one: each has a log.
    """
    home = f"artifacts/{pair}/logs/{app}"
    side = stages.SIDES[stage]
    if side == "old":
        model = config.pair(pair)[0]
        trained = [f"artifacts/models/{model}/logs/{app}/lora_trained.log"]
        return [*_model_logs(config, pair), *trained, f"{home}/evaluated_old.log"]
    own = f"{home}/evaluated_new.{stage}.log"
    if stage in ("new", "lora_full"):
        trained = [f"artifacts/models/{config.pair(pair)[1]}/logs/{app}/lora_trained.log"]
        return [*_model_logs(config, pair), *(trained if stage == "lora_full" else []), own]
    before = _transfer_logs(config, pair, app)
    if stage in MADE_BY:
        kind = "small" if stage == "lora_small" else "lft"
        before += [*_answers_logs(config, pair, app, kind), f"{home}/{MADE_BY[stage]}.log"]
    return [*before, own]


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


def split(found: list[dict[str, Any]], show: bool) -> tuple[list[str], dict[str, str]]:
    """Score files to wait for, and of the others why they are missing.

    Parameters
    ----------
    found : from `rows`
    show : whether what has failed is left out and told of; otherwise everything is waited for
    """
    missing = {}
    for row in found:
        if show and not Path(row["scores"]).exists() and (reason := failure(row["logs"])):
            missing[row["scores"]] = reason
    return [row["scores"] for row in found if row["scores"] not in missing], missing


def shared_logs(config: Config, pair: str) -> list[str]:
    """Logs of what a pair needs once, for any number of adapters."""
    methods = [config.content["transfer"]["method"], *config.content["report"]["methods"]]
    outputs = [log for method in methods for log in outputs_logs(config, pair, method)]
    return [
        *_model_logs(config, pair),
        *(f"artifacts/{pair}/logs/{name}.log" for name in PAIR_LOGS),
        *dict.fromkeys(outputs),
        *(f"artifacts/{pair}/logs/maps/{method}.log" for method in dict.fromkeys(methods)),
    ]
