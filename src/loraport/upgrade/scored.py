"""Verdicts from scores: all four stages on the same tasks, their items pooled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..artifacts import identity, read_json
from ..evaluation.evaluate import Settings, Stage, load_tasks, score_stages
from ..evaluation.statistics import CORPUS_METRICS
from ..evaluation.verdict import Settings as Judging
from ..evaluation.verdict import Verdict, by_labels, with_alone, with_flips


@dataclass(frozen=True)
class Scoring:
    """How the stages are scored.

    task : with its `eval` tasks and its template
    kept : folder of scores that are used again
    """

    task: Mapping[str, Any]
    tasks_dir: str
    settings: Mapping[str, Any]
    kept: str


def verdict_by_scores(
    folders: Sequence[Path],
    adapters: Sequence[Path],
    scoring: Scoring,
    judging: Judging,
    specs: Mapping[str, str] | None = None,
) -> Verdict:
    """Score both models with and without their adapters; judge.

    Parameters
    ----------
    folders, adapters : of the old and the new model
    specs : `old_spec` and `new_spec`, which name the models' weights; without, these are read
    """
    settings = Settings(**scoring.settings)
    with TemporaryDirectory(prefix="loraport-") as folder:
        tasks = tuple(scoring.task["eval"])
        stages = {
            name: Stage(
                name, adapter, Path(folder, f"{name}.json"), tasks, scoring.task["template"]
            )
            for name, adapter in (
                ("old", None),
                ("old_lora", adapters[0]),
                ("new", None),
                ("upgraded", adapters[1]),
            )
        }
        sides = {"old": ("old", "old_lora"), "new": ("new", "upgraded")}
        for model, (side, names) in zip(folders, sides.items(), strict=True):
            score_stages(
                model,
                [stages[name] for name in names],
                scoring.tasks_dir,
                settings,
                cache=scoring.kept,
                model_identity=identity(specs[f"{side}_spec"])[0] if specs else "",
            )
        scored = {name: read_json(stage.out, "eval")["tasks"] for name, stage in stages.items()}
        items = _items(stages["old_lora"], scored, scoring, settings)
    bare, old, alone, new = (pooled(scored[name]) for name in stages)
    verdict = by_labels(old, new, bare, judging, shown=items)
    return with_flips(with_alone(verdict, alone, new, judging), old, new, items)


def pooled(tasks: Mapping[str, Mapping[str, Any]]) -> list[float]:
    """Scores of all items of all tasks, 0 to 1, in the order of the tasks' names."""
    return [
        float(item) / (100 if tasks[name]["metric"] in CORPUS_METRICS else 1)
        for name in sorted(tasks)
        for item in tasks[name]["items"]
    ]


def _items(
    stage: Stage,
    scored: Mapping[str, Mapping[str, Any]],
    scoring: Scoring,
    settings: Settings,
) -> list[dict[str, str]]:
    """Prompt, gold and both outputs of each item, in `pooled`'s order; none where a task keeps no
    outputs.
    """
    loaded = load_tasks([stage], scoring.tasks_dir, settings)[stage.name, stage.out]
    rows = []
    for name in sorted(loaded):
        task, sides = loaded[name], [scored[side][name] for side in ("old_lora", "upgraded")]
        if not all(side.get("outputs") for side in sides):
            return []
        outputs = zip(*(side["outputs"] for side in sides), strict=True)
        for doc, (before, after) in zip(list(task.eval_docs), outputs, strict=False):
            texts = {"prompt": task.doc_to_text(doc), "gold": task.doc_to_target(doc)}
            texts |= {"output": before, "new": after}
            rows.append({key: str(value) for key, value in texts.items()})
    return rows
