"""Where every artifact and every log lies, said once.

A pattern holds the wildcards of the rule that writes it (`artifacts/{pair}/distance.json`): rules
take it as it is, and `path` fills it in for what looks it up.
"""

import re
from collections.abc import Iterable
from typing import Any

from ..artifacts import ROOT

# names of folders, which no pair, app or variant may have
RESERVED_PAIRS = ("models",)
RESERVED_APPS = ("models", "maps", "output_maps", "variants", "tables", "logs", "all")
RESERVED_VARIANTS = ("after", "baselines", "merged", "sweeps", "plots", "eval", "own_answers")

# folders
MODEL = f"{ROOT}/models/{{model}}"
PAIR = f"{ROOT}/{{pair}}"
VARIANT = f"{PAIR}/variants/{{method}}"  # of a variant's own mapping
MODEL_APP = f"{MODEL}/{{app}}"
APP = f"{PAIR}/{{app}}"
BY_METHOD = f"{APP}/{{method}}"
BY_SEED = f"{APP}/seed{{seed}}"
SWEEP = f"{APP}/sweeps/{{name}}"
POINT = f"{SWEEP}/{{value}}"
# what runs keep while they last, or so as not to do a thing twice
SCORES_KEPT = f"{ROOT}/.resume/scores"
TRAINING_KEPT = f"{ROOT}/.resume/training"
MOMENTS_KEPT = f"{ROOT}/.resume/moments"
ACTIVATIONS_KEPT = f"{ROOT}/.resume/activations"

# of one model
SPEC = f"{MODEL}/spec.json"
ACTIVATIONS = f"{MODEL}/activations.h5"
MAGNITUDE = f"{MODEL_APP}/magnitude.json"
LORA_TRAINED = f"{MODEL_APP}/lora_trained"
LORA_MERGED = f"{MODEL_APP}/lora_merged"
MODEL_SCORES = f"{MODEL_APP}/eval/{{stage}}.json"

# of a pair's mapping, in its folder or in a variant's: artifact -> file
MAPPING = {
    "embedding": "embedding.h5",
    "cka": "cka.h5",
    "layers": "layers.json",
    "heads": "heads.h5",
    "moments": "moments.h5",
    "gradients": "gradients.h5",
}
DISTANCE = f"{PAIR}/distance.json"
EXPERTS = f"{PAIR}/experts.h5"
MAPS = f"{PAIR}/maps/{{method}}.h5"
OUTPUT_MAPS = f"{PAIR}/output_maps/{{method}}.h5"
ADAPTER_MAPS = f"{APP}/maps/{{method}}.h5"

# what workflows share, by Snakemake's cache or in an archive -> the rule that makes it
SHARED = {
    SPEC: "spec",
    ACTIVATIONS: "activations",
    **{f"{PAIR}/{file}": name for name, file in MAPPING.items()},
    **{f"{VARIANT}/{file}": f"variant_{name}" for name, file in MAPPING.items()},
    DISTANCE: "distance",
    EXPERTS: "experts",
    MAPS: "maps",
    OUTPUT_MAPS: "output_maps",
}

# adapters of the new model, each in one of the folders above
TRANSFERRED = "lora_transferred"
GAIN = "gain.json"
START = "lora_start"
SMALL = "lora_small"
SMALL_MATCHED = "lora_small_matched"
FINETUNED = "lora_finetuned"
LORA_UPGRADED = f"{APP}/lora_upgraded"
VERDICT = f"{APP}/verdict.json"
FLEET_CSV, FLEET_JSON = f"{PAIR}/fleet.csv", f"{PAIR}/fleet.json"
SOURCE = "lora_source"  # of the old model, as a sweep cuts it
MODEL_MERGED = "model_merged"
AFTER = "after"  # folder of merges that are made of carried adapters
OWN_ANSWERS = f"{APP}/own_answers/{{examples}}.jsonl"
ABOUT_OWN_ANSWERS = f"{APP}/own_answers/{{examples}}.json"

# scores
SCORES = f"{APP}/eval/{{stage}}.json"
BASELINE_SCORES = f"{APP}/baselines/eval/{{stage}}.json"
METHOD_SCORES = f"{BY_METHOD}/eval/{{stage}}.json"
MERGE_SCORES = f"{APP}/merged/eval/{{stage}}.json"

# tables, plots and pages
TABLE = f"{PAIR}/tables/{{app}}"  # with an ending: csv, md or html
TABLE_OF_ALL = f"{PAIR}/tables/all"
COMPARISON = f"{PAIR}/tables/{{app}}.methods"
TABLE_OF_MERGE = f"{PAIR}/tables/{{app}}.merged"
APP_PLOT = f"{APP}/plots/{{view}}.svg"
PAIR_PLOT = f"{PAIR}/plots/{{view}}.svg"
ADVICE = f"{APP}/advice.json"
ADVICE_PAGE = f"{PAIR}/advice.html"
RUN_PAGE = f"{PAIR}/run.html"
REPORT = f"{PAIR}/report.html"

_MODEL_LOGS = f"{MODEL}/logs"
_PAIR_LOGS = f"{PAIR}/logs"
_APP_LOGS = f"{PAIR}/logs/{{app}}"
_SWEEP_LOGS = f"{_APP_LOGS}/sweeps/{{name}}"
LOGS = {  # rule -> its log
    "spec": f"{_MODEL_LOGS}/spec.log",
    "activations": f"{_MODEL_LOGS}/activations.log",
    "magnitude": f"{_MODEL_LOGS}/{{app}}/magnitude.log",
    "lora_trained": f"{_MODEL_LOGS}/{{app}}/lora_trained.log",
    "lora_merged": f"{_MODEL_LOGS}/{{app}}/lora_merged.log",
    "evaluated_model": f"{_MODEL_LOGS}/{{app}}/evaluated.log",
    **{name: f"{_PAIR_LOGS}/{name}.log" for name in MAPPING},
    **{f"variant_{name}": f"{VARIANT}/logs/{name}.log" for name in MAPPING},
    "distance": f"{_PAIR_LOGS}/distance.log",
    "experts": f"{_PAIR_LOGS}/experts.log",
    "maps": f"{_PAIR_LOGS}/maps/{{method}}.log",
    "output_maps": f"{_PAIR_LOGS}/output_maps/{{method}}.log",
    "adapter_maps": f"{_APP_LOGS}/maps/{{method}}.log",
    "gain": f"{_APP_LOGS}/gain.log",
    "gain_by_method": f"{_APP_LOGS}/{{method}}/gain.log",
    "lora_start": f"{_APP_LOGS}/lora_start.log",
    "transferred": f"{_APP_LOGS}/transferred.log",
    "transferred_by_method": f"{_APP_LOGS}/{{method}}/transferred.log",
    "model_merged": f"{_APP_LOGS}/model_merged.log",
    "model_merged_by_method": f"{_APP_LOGS}/{{method}}/model_merged.log",
    "merged_after": f"{_APP_LOGS}/after/lora_merged.log",
    "merged_after_by_method": f"{_APP_LOGS}/{{method}}/after/lora_merged.log",
    "own_answers": f"{_APP_LOGS}/own_answers/{{examples}}.log",
    "lora_small": f"{_APP_LOGS}/lora_small.log",
    "lora_small_matched": f"{_APP_LOGS}/lora_small_matched.log",
    "lora_small_by_seed": f"{_APP_LOGS}/seed{{seed}}/lora_small.log",
    "lora_small_matched_by_seed": f"{_APP_LOGS}/seed{{seed}}/lora_small_matched.log",
    "lora_finetuned": f"{_APP_LOGS}/lora_finetuned.log",
    "lora_finetuned_by_method": f"{_APP_LOGS}/{{method}}/seed{{seed}}/lora_finetuned.log",
    "lora_upgraded": f"{_APP_LOGS}/lora_upgraded.log",
    "verdict": f"{_APP_LOGS}/verdict.log",
    "fleet": f"{_PAIR_LOGS}/fleet.log",
    "evaluated_old": f"{_APP_LOGS}/evaluated_old.log",
    "evaluated_new": f"{_APP_LOGS}/evaluated_new.log",
    "evaluated_method": f"{_APP_LOGS}/{{method}}/evaluated.log",
    "evaluated_baselines": f"{_APP_LOGS}/evaluated_baselines.log",
    "evaluated_merge": f"{_APP_LOGS}/evaluated_merge.log",
    "table": f"{_APP_LOGS}/table.log",
    "tables": f"{_PAIR_LOGS}/tables.log",
    "table_of_merge": f"{_APP_LOGS}/table_of_merge.log",
    "compared": f"{_APP_LOGS}/compared.log",
    "plots_pair": f"{_PAIR_LOGS}/plots_pair.log",
    "plots_app": f"{_APP_LOGS}/plots.log",
    "plots_methods": f"{_APP_LOGS}/plots_methods.log",
    "plots_methods_of_apps": f"{_PAIR_LOGS}/plots_methods_of_apps.log",
    "plots_distance": f"{_PAIR_LOGS}/plots_distance.log",
    "advice": f"{_APP_LOGS}/advice.log",
    "advice_page": f"{_PAIR_LOGS}/advice_page.log",
    "account": f"{_PAIR_LOGS}/account.log",
    "report_page": f"{_PAIR_LOGS}/report_page.log",
    "sweep": f"{_SWEEP_LOGS}.log",
    "lora_source": f"{_SWEEP_LOGS}/{{value}}/lora_source.log",
    "sweep_transferred": f"{_SWEEP_LOGS}/{{value}}/transferred.log",
    "sweep_finetuned": f"{_SWEEP_LOGS}/{{value}}/lora_finetuned.log",
    "sweep_small_matched": f"{_SWEEP_LOGS}/{{value}}/lora_small_matched.log",
}
# of evaluated_new where failures are shown: stages are then scored one by one
STAGE_LOG = f"{_APP_LOGS}/evaluated_new.{{stage}}.log"


def path(pattern: str, **names: Any) -> str:
    """A pattern with its wildcards filled in; names that it does not hold are passed over."""
    return pattern.format(**names)


def log(rule: str, **names: Any) -> str:
    """The log of a rule, its wildcards filled in."""
    return path(LOGS[rule], **names)


def logs(rules: Iterable[str], **names: Any) -> list[str]:
    """The logs of several rules with the same wildcards."""
    return [log(rule, **names) for rule in rules]


def home(pair: str, variant: str = "") -> str:
    """Folder of a pair's mapping, or of a variant's own."""
    return path(VARIANT, pair=pair, method=variant) if variant else path(PAIR, pair=pair)


def is_made_here(folder: str) -> bool:
    """Whether an adapter is made by the workflow, and not given."""
    return folder.startswith(f"{ROOT}/")


def rule_of(log_path: str) -> str:
    """The rule that a log is of; empty where it is none's.

    Where the patterns of several rules fit, the one with the fewest wildcards is meant.
    """
    fits = [rule for rule, pattern in LOGS.items() if _names(pattern, log_path) is not None]
    return min(fits, key=lambda rule: LOGS[rule].count("{"), default="")


def log_of(artifact: str) -> str:
    """The log of what made an artifact that may come from elsewhere (`SHARED`)."""
    for pattern, rule in SHARED.items():
        names = _names(pattern, artifact)
        if names is not None:
            return log(rule, **names)
    raise ValueError(f"{artifact} is no artifact that workflows share")


def _names(pattern: str, filled: str) -> dict[str, str] | None:
    """What the wildcards of a pattern stand for in a path; None where it does not fit."""
    parts = re.split(r"\{(\w+)\}", pattern)
    regex = "".join(
        f"(?P<{part}>[^/]+)" if number % 2 else re.escape(part) for number, part in enumerate(parts)
    )
    match = re.fullmatch(regex, filled)
    return match.groupdict() if match else None
