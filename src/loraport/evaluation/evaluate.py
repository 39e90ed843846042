"""Scores of a base model and of adapters on it, by lm-evaluation-harness; the base is loaded once.

Generation is greedy. Beside each task's metric stands the likelihood of the gold answers: the
negative log-likelihood in nats, summed over an answer's tokens, given its prompt.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..artifacts import ADAPTER_FILES, ADAPTER_WEIGHTS, atomic, sha256, write_json
from ..errors import LoraportError
from ..models.folder import weight_files
from ..models.loading import load_tokenizer
from ..models.weights import TensorFile
from ..runtime.measure import measured, versions
from . import own_data
from .harness import (
    adapted,
    answer_nll,
    code_of,
    load,
    load_task,
    run_task,
    task_manager,
    truncated,
)
from .statistics import CORPUS_METRICS, LEVEL, RESAMPLES, average_interval, bootstrap
from .translation import comet_scores, corpus_score

log = logging.getLogger("loraport")
SCORING_VERSION = 2  # of kept scores: raise it where the same answers get other numbers


@dataclass(frozen=True)
class Stage:
    """One thing to score: the bare base (`adapter` None) or an adapter on it.

    name : the stage's name, such as `transferred`
    out : the JSON file to write
    tasks : names of harness tasks, paths of task YAMLs, or tasks of own data (`own_data.entry`)
    template : how instructions are put to the model (see `loraport.training.data`)
    """

    name: str
    adapter: Path | None
    out: Path
    tasks: tuple[str | Mapping[str, str], ...]
    template: str = "question"


@dataclass(frozen=True)
class Settings:
    """How stages are scored.

    limit : items a task, the first ones; 0 takes all
    batch_size : a number, or `auto`: 64, halved whenever memory runs out
    data_dir, revisions : where the tasks' data comes from (see resources/tasks/utils.py)
    empty : what to do where a task's every answer is empty: `error`, or `score` it as wrong
    comet : a COMET model to score translations with, where `unbabel-comet` is installed
    """

    limit: int = 0
    batch_size: int | str = "auto"
    dtype: str = "auto"
    device: str = "auto"
    device_map: str = ""
    trust_remote_code: bool = False
    data_dir: str = ""
    revisions: Mapping[str, str] = field(default_factory=dict)
    level: float = LEVEL
    resamples: int = RESAMPLES
    seed: int = 0
    keep_outputs: bool = True
    empty: str = "error"
    comet: str = ""


# settings that change no score: what was scored under others is still good
_NEUTRAL = ("batch_size", "device", "device_map", "keep_outputs")


def score_stages(
    model_dir: str | Path,
    stages: Sequence[Stage],
    tasks_dir: str | Path,
    settings: Settings,
    *,
    cache: str | Path,
    model_identity: str = "",
    inputs: Mapping[str, str] | None = None,
) -> None:
    """Score all stages of one base model, loading it once, and only if something is left to score.

    Parameters
    ----------
    model_dir : the base model
    stages : what to score; each stage's JSON file is written when its tasks are done
    tasks_dir : directory of task YAMLs
    cache : directory that keeps each (stage, task)'s scores under a key of everything they depend
        on: a killed job goes on after its last task, and what is scored is not scored again
    model_identity : digest that names the base's weights; made from its files where empty
    inputs : identities of the rule's inputs, recorded in the JSON files

    Raises
    ------
    LoraportError
        If a task is unknown, has no item or generates nothing, or an adapter does not fit.
    """
    cache = Path(cache)
    identity = model_identity or _digest([sha256(path) for path in weight_files(model_dir)])
    tasks = load_tasks(stages, tasks_dir, settings)
    _write_out_chats(tasks, model_dir, settings)
    lm: Any = None
    for stage in stages:
        about = [identity, _adapter_identity(stage.adapter), _what(settings)]
        mine = tasks[stage.name, stage.out]
        files = {
            name: cache / f"{_digest([*about, _task_identity(task)])}.json"
            for name, task in mine.items()
        }
        left = [name for name, file in files.items() if not file.is_file()]
        if left:
            lm = lm or load(
                model_dir,
                settings.batch_size,
                dtype=settings.dtype,
                device=settings.device,
                device_map=settings.device_map,
                trust_remote_code=settings.trust_remote_code,
            )
            with adapted(lm, stage.adapter):
                for name in left:
                    scored = score_task(lm, mine[name], settings)
                    _remember(files[name], scored)
                    took = scored["run"]["seconds"]
                    log.info("%s, %s: %.4g in %.1f s", stage.name, name, scored["value"], took)
        by_task = {name: json.loads(file.read_text()) for name, file in files.items()}
        _write_stage(stage, by_task, settings, inputs or {})


def load_tasks(
    stages: Sequence[Stage], tasks_dir: str | Path, settings: Settings
) -> dict[tuple[str, Path], dict[str, Any]]:
    """(stage name, output) -> task name -> harness task; each task is made once a template."""
    made: dict[tuple[str, str], Any] = {}
    managers: dict[str, Any] = {}
    loaded: dict[tuple[str, Path], dict[str, Any]] = {}
    for stage in stages:
        if not stage.tasks:
            raise LoraportError(
                f"stage {stage.name!r} has no task to be scored on",
                got=f"no task for {stage.out}",
                expected="at least one",
                todo="name a `test` file, or `eval` tasks, of the task in config.yaml",
            )
        if stage.template not in managers:
            managers[stage.template] = task_manager(
                tasks_dir, stage.template, settings.data_dir, settings.revisions
            )
        of_stage: dict[str, Any] = {}
        for task in stage.tasks:
            key = stage.template, json.dumps(task)
            if key not in made:
                made[key] = load_task(managers[stage.template], task)
            of_stage.update(made[key])
        loaded[stage.name, stage.out] = of_stage
    return loaded


def _write_out_chats(
    tasks: Mapping[tuple[str, Path], Mapping[str, Any]], model_dir: str | Path, settings: Settings
) -> None:
    """Put conversations of own data into the form that the model knows."""
    chats = {id(task): task for of_stage in tasks.values() for task in of_stage.values()
             if own_data.are_chats(task)}  # fmt: skip
    if chats:
        tokenizer = load_tokenizer(model_dir, trust_remote_code=settings.trust_remote_code)
        for task in chats.values():
            own_data.write_out(task, tokenizer)


def score_task(lm: Any, task: Any, settings: Settings) -> dict[str, Any]:
    """Metric, interval, per-item scores and likelihoods of one task for the model in `lm`."""
    name = task.config.task
    items = len(task.eval_docs)
    if items == 0:
        raise LoraportError(f"task {name!r} has no item", got=0, expected="at least one")
    with measured() as run:
        result = run_task(lm, task, settings.limit)
        samples = sorted(result["samples"][name], key=lambda sample: sample["doc_id"])
        samples = [s for s in samples if s["filter"] == samples[0]["filter"]]
        nll = answer_nll(lm, task, samples)
    metric = task.config.metric_list[0]["metric"]
    outputs = _outputs(task, samples, settings)
    values = {
        key.partition(",")[0]: value
        for key, value in result["results"][name].items()
        if "," in key and "stderr" not in key and isinstance(value, int | float)
    }
    content: dict[str, Any] = {
        "metric": metric,
        **_score(metric, samples, settings),
        "n": len(samples),
        "others": {key: value for key, value in values.items() if key != metric},
        "items_sha256": _digest([[_asked(sample), str(sample["target"])] for sample in samples]),
        "task_version": task.VERSION,
        "truncated_prompts": truncated(lm, task, samples),
        "outputs": outputs,
        "run": run,
    }
    if settings.comet and metric in CORPUS_METRICS:
        sources = [sample["doc"]["source"] for sample in samples]
        pairs = [sample[metric] for sample in samples]
        content["others"]["comet"] = comet_scores(settings.comet, sources, pairs)
    if nll is not None:
        spread = bootstrap(nll, level=settings.level, resamples=settings.resamples)
        content |= {"nll": spread.mean, "nll_low": spread.low, "nll_high": spread.high}
        content["item_nll"] = [round(value, 6) for value in nll]
    _agree(name, metric, content["value"], values[metric])
    return content


def _asked(sample: Mapping[str, Any]) -> str:
    """An item's prompt, before any model's chat template."""
    return str(sample["doc"].get("bare", sample["arguments"][0][0]))


def _score(metric: str, samples: Sequence[Any], settings: Settings) -> dict[str, Any]:
    if metric in CORPUS_METRICS:
        return corpus_score(
            metric,
            [sample[metric] for sample in samples],
            level=settings.level,
            resamples=settings.resamples,
            seed=settings.seed,
        )
    items = [float(sample[metric]) for sample in samples]
    spread = bootstrap(
        items, level=settings.level, resamples=settings.resamples, seed=settings.seed
    )
    whole = [int(item) if item.is_integer() else item for item in items]
    return {"value": spread.mean, "low": spread.low, "high": spread.high, "items": whole}


def _agree(name: str, metric: str, counted: float, reported: float) -> None:
    """Compare the mean over logged samples with the harness's own number."""
    if abs(counted - reported) > 1e-6:
        raise LoraportError(
            f"task {name!r}: {metric} over the logged samples is not the harness's score",
            got=counted,
            expected=reported,
            todo="report it: the harness's aggregation differs from what its samples say",
        )


def _outputs(task: Any, samples: Sequence[Any], settings: Settings) -> list[str]:
    if task.OUTPUT_TYPE != "generate_until":
        return []
    outputs = [sample["resps"][0][0] for sample in samples]
    if settings.empty == "error" and not any(output.strip() for output in outputs):
        raise LoraportError(
            f"task {task.config.task!r} generates nothing: every answer is empty",
            got=f"{len(outputs)} empty answers",
            expected="some text before the end or a stop word",
            todo="look at the prompt's template and the task's `until`, or set "
            "`evaluation.empty: score` to count them as wrong",
        )
    return outputs if settings.keep_outputs else []


def _write_stage(
    stage: Stage, tasks: Mapping[str, Any], settings: Settings, inputs: Mapping[str, str]
) -> None:
    run = {name: scored.pop("run") for name, scored in tasks.items()}
    content: dict[str, Any] = {
        "stage": stage.name,
        "adapter_sha256": _adapter_identity(stage.adapter),
        "template": stage.template,
        "settings": {k: v for k, v in asdict(settings).items() if k != "data_dir"},
        "tasks": tasks,
        "versions": versions(),
    }
    metrics = {scored["metric"] for scored in tasks.values()}
    if len(metrics) == 1 and metrics.isdisjoint(CORPUS_METRICS):
        items = {name: scored["items"] for name, scored in tasks.items()}
        content["average"] = asdict(
            average_interval(items, level=settings.level, resamples=settings.resamples)
        )
    content["run"] = {
        "seconds": round(sum(part["seconds"] for part in run.values()), 3),
        "peak_mib": max(part["peak_mib"] for part in run.values()),
        "tasks": run,
    }
    write_json(stage.out, "eval", inputs, content)


def _remember(path: Path, scored: Mapping[str, Any]) -> None:
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(scored))


def _adapter_identity(adapter: Path | None) -> str:
    """Digest of an adapter; empty for none, and for one that changes nothing: it is scored as the
    bare model is.
    """
    if adapter is None:
        return ""
    for name in ADAPTER_FILES:
        if not (adapter / name).is_file():
            raise LoraportError(
                f"{adapter} holds no adapter",
                got=f"no {name}",
                expected="a PEFT directory with safetensors",
                todo="build it first, or check the adapter's `source` in adapters.tsv",
            )
    if _changes_nothing(TensorFile(adapter / ADAPTER_WEIGHTS)):
        return ""
    return _digest([sha256(adapter / name) for name in ADAPTER_FILES])


def _changes_nothing(file: TensorFile) -> bool:
    """Whether an adapter holds nothing but LoRA's factors, and all of B is zero."""
    output = [name for name in file.tensors if ".lora_B." in name]
    rest = [name for name in file.tensors if ".lora_A." not in name and name not in output]
    return bool(output) and not rest and not any(file.read(name).any() for name in output)


def _task_identity(task: Any) -> str:
    """Digest of a task: its settings, the code that they call and what that imports, its items."""
    config = task.config.to_dict()
    for key in ("metadata", "fewshot_config"):  # paths and repeats of the rest
        config.pop(key, None)
    return _digest([config, code_of(task), [dict(doc) for doc in task.eval_docs]])


def _what(settings: Settings) -> dict[str, Any]:
    skipped = (
        *_NEUTRAL,
        "data_dir",
        "revisions",
    )  # the items themselves are in the task's identity
    kept = {k: v for k, v in asdict(settings).items() if k not in skipped}
    return kept | versions() | {"scoring": SCORING_VERSION}


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
