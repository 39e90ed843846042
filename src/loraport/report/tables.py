"""An app's table from its score files; on the terminal: `python -m loraport.tables TABLE.csv`.

Everything but times and memory is a function of the score files alone.
"""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..artifacts import read_json
from ..errors import LoraportError
from ..evaluation.statistics import flips, mcnemar, retention
from ..planning import layout
from ..runtime.job import last_record
from . import render

UNDEFINED = "undefined"
MATCHED = "lora_small_matched"
SCORE = "score "  # column of a task's score: this and the task's name
ITEMS = "items "
FIXED = ("app", "row", "stage", "method", "seed", "start", "metric")
DERIVED = (
    "average",
    "low",
    "high",
    "nll",
    "retention",
    "retention_low",
    "retention_high",
    "negative_flips",
    "positive_flips",
    "p_matched",
)
COSTS = ("transfer_s", "train_s", "eval_s", "peak_mib", "gpu_peak_mib")
Row = dict[str, Any]


def make_table(
    app: str, rows: Sequence[Mapping[str, Any]], missing: Mapping[str, str]
) -> list[Row]:
    """The table of one app.

    Parameters
    ----------
    rows : from `rows.rows`
    missing : score file -> why it is not there; its row says so

    Returns
    -------
    One dict a row, with the columns `columns(…)` gives; None where a number does not exist, and
    `retention` "undefined" where LoRA(full) gains too little over the bare model to divide by.
    """
    scores = {
        row["scores"]: read_json(row["scores"], "eval")
        for row in rows
        if row["scores"] not in missing
    }
    by_stage = {
        row["stage"]: scores[row["scores"]] for row in reversed(rows) if row["scores"] in scores
    }
    seeds = {row["seed"] for row in rows if row["stage"] == MATCHED} | {""}
    table = []
    for row in rows:
        others = by_stage if row["seed"] in seeds else {**by_stage, MATCHED: None}
        entry: Row = {
            "app": app,
            "row": row["label"],
            **{key: row[key] for key in ("stage", "method", "seed")},
            "start": taken_start(row.get("start", "")),
        }
        if row["scores"] in scores:
            entry |= score_columns(scores[row["scores"]])
            if row["side"] == "new":
                entry |= _compared(scores[row["scores"]], row["stage"], others)
            entry |= costs(row, scores[row["scores"]])
        else:
            entry["note"] = f"failed: {missing[row['scores']]}"
        table.append(entry)
    return table


def columns(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """Columns of a table in their order; those of tasks between the fixed and the derived ones."""
    tasks = list(dict.fromkeys(key for row in table for key in row if key.startswith(SCORE)))
    named = [column for key in tasks for column in (key, ITEMS + key.removeprefix(SCORE))]
    return [*FIXED, *named, *DERIVED, *COSTS, "note"]


def score_columns(content: Mapping[str, Any]) -> Row:
    """Scores per task, their unweighted mean with its interval, and the answers' likelihood."""
    tasks = content["tasks"]
    row: Row = {"metric": ", ".join(sorted({task["metric"] for task in tasks.values()}))}
    for name, task in tasks.items():
        row |= {SCORE + name: task["value"], ITEMS + name: task["n"]}
    if len(tasks) == 1:
        (only,) = tasks.values()
        row |= {"average": only["value"], "low": only["low"], "high": only["high"]}
    elif "average" in content:
        mean = content["average"]
        row |= {"average": mean["mean"], "low": mean["low"], "high": mean["high"]}
    likelihoods = [task.get("nll") for task in tasks.values()]
    if None not in likelihoods:
        row["nll"] = math.fsum(likelihoods) / len(likelihoods)
    return row


def scored(path: str | Path) -> Row:
    """Scores of one file, as columns of a table."""
    return score_columns(read_json(path, "eval"))


def _compared(content: Mapping[str, Any], stage: str, others: Mapping[str, Any]) -> Row:
    """What a row of the new model is beside other rows: retention, flips, a paired test.

    The test is against the matched LoRA(small) of the same seed; other seeds have none here.
    """
    row: Row = {}
    notes = []
    if "new" in others and "lora_full" in others:
        kept = retention(
            *(weighted_items(each) for each in (content, others["new"], others["lora_full"]))
        )
        row["retention"] = UNDEFINED if kept.value is None else kept.value
        row |= {"retention_low": kept.low, "retention_high": kept.high}
        notes += [f"retention undefined: {kept.reason}"] if kept.reason and stage == "new" else []
    if is_binary(content):
        if "old_lora" in others:
            changed = flips(all_items(others["old_lora"], content), all_items(content))
            row |= {"negative_flips": changed.negative, "positive_flips": changed.positive}
        if others.get(MATCHED) and stage != MATCHED:
            baseline = all_items(others[MATCHED], content)
            row["p_matched"] = mcnemar(all_items(content), baseline).p_value
    return {**row, "note": "; ".join(notes)}


def is_binary(content: Mapping[str, Any]) -> bool:
    """Whether items are right or wrong, so that flips can be counted."""
    return all(set(task["items"]) <= {0, 1} for task in content["tasks"].values())


def all_items(content: Mapping[str, Any], like: Mapping[str, Any] | None = None) -> np.ndarray:
    """Scores of the items of all tasks `(n,)`, after checking that they are those of `like`.

    Raises
    ------
    LoraportError
        If the two were scored on other items.
    """
    tasks = content["tasks"]
    if like is not None:
        kept = {name: task["items_sha256"] for name, task in like["tasks"].items()}
        held = {name: task["items_sha256"] for name, task in tasks.items()}
        if kept != held:
            wrong = sorted(name for name in kept | held if kept.get(name) != held.get(name))
            raise LoraportError(
                f"stages {content['stage']} and {like['stage']} were scored on other items",
                got=f"other questions in {', '.join(wrong)}",
                expected="the same tasks, template and `limit`",
                todo="run the evaluation again, so that both are scored by the same settings",
            )
    return np.concatenate([np.asarray(tasks[name]["items"], float) for name in sorted(tasks)])


def weighted_items(content: Mapping[str, Any], of: str = "items") -> np.ndarray:
    """Items of all tasks `(n,)`, weighted so that their mean is the unweighted mean over tasks.

    Parameters
    ----------
    of : `items`, the scores, or `item_nll`, the answers' negative log-likelihoods
    """
    tasks = content["tasks"]
    total = sum(len(task[of]) for task in tasks.values())
    return np.concatenate(
        [
            np.asarray(tasks[name][of], float) * (total / len(tasks) / len(tasks[name][of]))
            for name in sorted(tasks)
        ]
    )


def costs(row: Mapping[str, Any], content: Mapping[str, Any]) -> Row:
    """Seconds and peak memory (MiB) of a row; None for what was not done here.

    The choice of a training's start, with its trials and what it is taught, counts as training.
    """
    run = content["run"]
    training = training_of(row["adapter"])
    logs = [log for log in (row["transfer_log"], row.get("maps_log")) if log]
    moved = cost_records(logs)
    trained = [training["run"]] if "run" in training else []
    trained += cost_records([row["start_log"]] if row.get("start_log") else [])
    made = [*trained, *moved]
    peaks = [run["peak_mib"], *(part.get("peak_mib") for part in made)]
    on_gpu = [part.get("gpu_peak_mib") for part in (*run["tasks"].values(), *made)]
    return {
        "transfer_s": math.fsum(part["seconds"] for part in moved) if moved else None,
        "train_s": math.fsum(part["seconds"] for part in trained) if trained else None,
        "eval_s": run["seconds"],
        "peak_mib": max(peak for peak in peaks if peak is not None),
        "gpu_peak_mib": max((peak for peak in on_gpu if peak), default=None),
    }


def cost_records(logs: Iterable[str]) -> list[dict[str, Any]]:
    """The last records of logs, which tell of time and memory; none of what was made elsewhere,
    whose log is empty.

    Raises
    ------
    LoraportError
        If a log is not there: its columns would be blank for no reason that can be told.
    """
    records = []
    for log in logs:
        if not Path(log).is_file():
            rule = layout.rule_of(log)
            raise LoraportError(
                f"the log of rule {rule or 'unknown'} is missing, which a table reads costs from",
                got=f"no file {log}",
                expected="the log that the rule wrote, or an empty one where its result was made "
                "elsewhere",
                todo=f"put it back, run the rule again (snakemake --forcerun {rule}), or, where "
                f"its result was copied from another workflow: touch {log}",
            )
        if record := last_record(log):
            records.append(record)
    return records


def training_of(adapter: str) -> dict[str, Any]:
    """training.json of an adapter that was trained here; empty for one that was given."""
    path = Path(adapter) / "training.json"
    return json.loads(path.read_text()) if adapter and path.is_file() else {}


def taken_start(folder: str) -> str:
    """What a training began from, of what was tried (start.json); empty where nothing was."""
    path = Path(folder) / "start.json"
    return str(read_json(path, "start")["start"]) if folder and path.is_file() else ""


def write_table(table: Sequence[Row], title: str, outputs: Mapping[str, str]) -> None:
    """Write a table as the files `csv`, `md` and `html` of `outputs`."""
    render.write_csv(outputs["csv"], table, columns(table))
    render.write_text(outputs["md"], render.markdown(title, table))
    render.write_text(outputs["html"], render.page(title, table))


def main(arguments: Sequence[str]) -> int:
    """Print tables; status 2 where there is none to print."""
    try:
        if not arguments:
            raise LoraportError(
                "no table was named", expected="python -m loraport.tables TABLE.csv"
            )
        for path in arguments:
            print(f"{render.text(render.read_csv(path))}\n")
            print(f"With times, memory, likelihoods and tests: {Path(path).with_suffix('.md')}")
    except LoraportError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
