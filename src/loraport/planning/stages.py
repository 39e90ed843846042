"""What is trained and scored for an app: its task, its settings, and the stages of its table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import LoraportError
from ..models.families import Dimensions
from . import layout, needs, tasks, times
from .queries import Config
from .sizes import HALF_BYTES, SINGLE_BYTES, parameters


@dataclass(frozen=True)
class Stage:
    """What is scored for an app, a row of its table.

    Attributes
    ----------
    side : the base model that it is scored on, `old` or `new`
    label : what its row is called; `{method}` is the transfer method, `{set}` the small set
    carried : whether it is, or starts from, the carried adapter
    rule : the rule that trains it on the small set; empty where it is not trained on that
    point_label : what its rows in a sweep are called; empty where sweeps have none
    """

    side: str
    label: str
    carried: bool = False
    rule: str = ""
    point_label: str = ""


STAGES = {  # in the order of a table's rows
    "old": Stage("old", "old model"),
    "old_lora": Stage("old", "old model + adapter"),
    "new": Stage("new", "new model"),
    "transferred": Stage("new", "carried by {method}", carried=True),
    "lora_small": Stage("new", "new LoRA on {set}, as published", rule="lora_small"),
    "lora_small_matched": Stage(
        "new",
        "new LoRA on {set}",
        rule="lora_small_matched",
        point_label="new LoRA, same examples",
    ),
    "finetuned": Stage(
        "new",
        "carried by {method}, fine-tuned on {set}",
        carried=True,
        rule="lora_finetuned",
        point_label="carried, fine-tuned",
    ),
    "lora_full": Stage("new", "new LoRA on all data"),
}
MERGE_STAGES = {  # of a merge's table
    "old_lora": Stage("old", "old model + merged adapter"),
    "new": STAGES["new"],
    "before": Stage("new", "merged, then carried by {method}", carried=True),
    "after": Stage("new", "carried by {method}, then merged", carried=True),
}
MODEL_STAGES = ("bare", "lora")  # of one model, without a pair
# keys of `finetune` that are no training settings
NO_TRAINING_KEYS = (
    "seeds", "answers", "start", "taught_prompts", "small", "full", "lora", "gpus", "report_to",
)  # fmt: skip


def label(config: Config, stage: Stage, method: str) -> str:
    """What a stage's row is called."""
    few = small_set_in_words(config)
    if stage.rule == "lora_finetuned" and start_is_chosen(config):
        return f"fine-tuned on {few} from the best start"
    return stage.label.format(method=method, set=few)


def start_is_chosen(config: Config) -> bool:
    """Whether a light fine-tuning's start is chosen among several, or what was carried untried."""
    return config.content["finetune"]["start"] != "carried"


def small_set_in_words(config: Config) -> str:
    """The small set of light fine-tuning, in words."""
    count = config.content["finetune"]["examples"]
    return f"{count or 'all'} examples"


def task_of(config: Config, app: str, *models: str) -> dict[str, Any]:
    """The task that an app is trained and scored on, by the first row that names one.

    Rows of `models` are asked first, then any other row of the app. A merge is scored on the tasks
    of all its apps, and has no training data.
    """
    if merge := config.merge(app):
        parts = [task_of(config, each, *models) for each in merge["apps"]]
        return _joined(app, parts)
    rows = [config.adapters[app, model] for model in models if (app, model) in config.adapters]
    rows += [row for (name, _), row in config.adapters.items() if name == app]
    for row in rows:
        if row["task"]:
            return tasks.completed(row["task"], config.content["tasks"][row["task"]])
    raise LoraportError(
        f"app {app!r} has no task, so there is nothing to train or to score it on",
        got=f"{len(rows)} row(s) of it in {config.content['adapters']}, each with an empty task",
        expected=f"one of {', '.join(config.content['tasks']) or 'the entries of `tasks`'}",
        todo="name its task in the table's last column, and describe it under `tasks`",
    )


def _joined(name: str, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The task of a merge."""
    templates = sorted({part["template"] for part in parts})
    if len(templates) > 1:
        raise LoraportError(
            f"the apps of merge {name!r} put their questions in different ways",
            got=", ".join(templates),
            expected="one template",
            todo="merge apps whose tasks have the same `template`",
        )
    scored: list[Any] = []
    for each in (each for part in parts for each in part["eval"]):
        scored += [] if each in scored else [each]
    return {**parts[0], "task": name, "train": "", "test": "", "eval": scored}


def has_training_data(config: Config, app: str, *models: str) -> bool:
    """Whether an app has a task with training data."""
    rows = [row for (name, _), row in config.adapters.items() if name == app and row["task"]]
    return bool(rows) and not config.merge(app) and bool(task_of(config, app, *models)["train"])


def train_data(task: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `data.read` for a task's training data."""
    if not task["train"]:
        raise LoraportError(
            f"task {task['task']!r} names no training data",
            got="`train` is empty",
            expected="a .jsonl or .json file, or a data set of the hub",
            todo="fill in `train` of the task in config.yaml",
        )
    keys = {"source": "train", **{key: key for key in ("template", "name", "split", "revision")}}
    return {key: task[name] for key, name in keys.items()}


def training(config: Config, kind: str = "lft", **overrides: Any) -> dict[str, Any]:
    """Settings of a training.

    Parameters
    ----------
    kind : `lft` (and the matched baseline), `small` or `full`
    """
    section = config.content["finetune"]
    settings = {key: value for key, value in section.items() if key not in NO_TRAINING_KEYS}
    return {
        **settings,
        **section.get(kind, {}),
        **overrides,
        "seed": overrides.get("seed", first_seed(config)),
    }


def small_set(
    config: Config, pair: str, app: str, task: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """A small set: `files` that it is read from, `data` as `data.read` takes it, and the `settings`
    of a training on it.

    Its answers are the task's, or those that the old model with its adapter writes: these lie in a
    file of their own, which is the draw already.
    """
    files = tasks.train_files(task)
    if config.content["finetune"]["answers"] == "given":
        return {"files": files, "data": train_data(task), "settings": dict(settings)}
    file = layout.path(layout.OWN_ANSWERS, pair=pair, app=app, examples=settings["examples"])
    data = {"source": file, "template": "plain"}
    return {"files": [file], "data": data, "settings": {**settings, "examples": 0}}


def answering(config: Config) -> dict[str, Any]:
    """Settings of the writing of a small set's answers."""
    settings = config.content["finetune"]
    keys = ("subset_seed", "cutoff", "dtype", "device", "device_map")
    at_once = settings["micro_batch"] or settings["batch_size"]
    return {"batch_size": at_once, **{key: settings[key] for key in keys}}


def first_seed(config: Config) -> int:
    """The seed of artifacts that name none."""
    return config.content["finetune"]["seeds"][0]


def adapter_of(config: Config, app: str, model: str) -> str:
    """Directory of a model's adapter for an app: as given, or to be trained or merged here."""
    if config.merge(app):
        return layout.path(layout.LORA_MERGED, model=model, app=app)
    row = config.adapters.get((app, model))
    if row and row["source"]:
        return config.given_adapter(app, model)
    return layout.path(layout.LORA_TRAINED, model=model, app=app)


def adapters_of_pair(config: Config, pair: str, app: str) -> dict[str, str]:
    """Stage -> the adapter that it scores; an empty path for a bare model."""
    old, new = config.pair(pair)
    folder = layout.path(layout.APP, pair=pair, app=app)
    return {
        "old": "",
        "old_lora": adapter_of(config, app, old),
        "new": "",
        "transferred": f"{folder}/{layout.TRANSFERRED}",
        "lora_small": f"{folder}/{layout.SMALL}",
        "lora_small_matched": f"{folder}/{layout.SMALL_MATCHED}",
        "finetuned": f"{folder}/{layout.FINETUNED}",
        "lora_full": adapter_of(config, app, new),
    }


def wanted(config: Config, side: str) -> list[str]:
    """The configured stages that are scored on the old, or on the new model."""
    return [stage for stage in config.content["evaluation"]["stages"] if STAGES[stage].side == side]


def method_stages(config: Config) -> list[str]:
    """Stages of a method's own table: as transferred, and after LFT with each seed."""
    if not config.content["compare"]["finetuned"]:
        return ["transferred"]
    return [
        "transferred",
        *(f"finetuned_seed{seed}" for seed in config.content["finetune"]["seeds"]),
    ]


def baseline_stages(config: Config) -> list[str]:
    """What all methods of an app are compared with: the matched LoRA(small) with each seed."""
    seeds = config.content["finetune"]["seeds"]
    return ["new", "lora_full", *(f"lora_small_matched_seed{seed}" for seed in seeds)]


def baseline_adapters(config: Config, pair: str, app: str) -> dict[str, str]:
    """Stage -> adapter, for `baseline_stages`; an empty path for the bare model."""
    by_seed = f"{layout.BY_SEED}/{layout.SMALL_MATCHED}"
    trained = {
        f"lora_small_matched_seed{seed}": layout.path(by_seed, pair=pair, app=app, seed=seed)
        for seed in config.content["finetune"]["seeds"]
    }
    return {"new": "", "lora_full": adapter_of(config, app, config.pair(pair)[1]), **trained}


def method_adapters(config: Config, pair: str, app: str, method: str) -> dict[str, str]:
    """Stage -> adapter, for `method_stages`."""
    folder = layout.path(layout.BY_METHOD, pair=pair, app=app, method=method)
    every = {
        "transferred": f"{folder}/{layout.TRANSFERRED}",
        **{
            f"finetuned_seed{seed}": f"{folder}/seed{seed}/{layout.FINETUNED}"
            for seed in config.content["finetune"]["seeds"]
        },
    }
    return {stage: every[stage] for stage in method_stages(config)}


def scoring(config: Config) -> dict[str, Any]:
    """Settings of an evaluation."""
    section = config.content["evaluation"]
    return {
        key: value for key, value in section.items() if key not in ("stages", "tasks_dir", "gpus")
    }


def about_base(config: Config, model: str) -> dict[str, Any]:
    """Where a base model is, for the rules that load it, and what adapters record as their base."""
    entry = config.model(model)
    return {
        "source": entry["source"],
        "name": config.recorded_base(model),
        "remote_code": entry["remote_code"],
    }


def base_need(dims: Dimensions, settings: Mapping[str, Any]) -> needs.Need:
    """What to ask for where a base model is trained on or scored.

    The weights, the scores of a batch of `cutoff` tokens (or 512) thrice, and what the batch keeps
    of every layer where there is a step back (settings with `micro_batch`), else of one. float32 on
    a CPU; on a GPU bfloat16, but for the scores. Time depends on the data, which is not looked at:
    its limit follows from the model's size alone.
    """
    weights = parameters(dims)
    batch = settings.get("micro_batch") or settings.get("batch_size") or 16
    tokens = (batch if isinstance(batch, int) else 64) * settings.get("cutoff", 512)
    layer = 16 * dims.hidden + 4 * dims.intermediate + 2 * dims.heads * settings.get("cutoff", 512)
    layers = dims.layers if "micro_batch" in settings or "rates" in settings else 1
    scores = 3 * tokens * dims.vocabulary * SINGLE_BYTES

    def mib(number: int) -> int:
        kept = tokens * layers * layer * number
        return int((needs.MARGIN * weights * number + kept + scores) / needs.MIB)

    seconds = times.limit_seconds(30 + weights / 1e7)
    memory = 2 * needs.BASE_MIB + mib(SINGLE_BYTES)
    return needs.Need(memory, seconds, needs.GPU_HOST_MIB, mib(HALF_BYTES), seconds)
