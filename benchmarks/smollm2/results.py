"""What was measured, as benchmarks/results/smollm2.{json,md}: of every run that there is.

    python benchmarks/smollm2/results.py [--likelihood FOLDER] [--out benchmarks/results/smollm2]

Reads the score files below artifacts/ (`loraport.compare` makes the rows) and, where there are
some, the likelihoods of worked answers (`likelihood.py`), {pair}.{app}.json. A seed that was not
run is left out, and the table says how many there are.
"""

import argparse
import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from loraport import compare, config, contenders, sweeps
from loraport.artifacts import read_json
from loraport.measure import versions
from loraport.scores import Interval, bootstrap, difference

ROOT = Path(__file__).resolve().parents[2]
FILES = (ROOT / "config" / "config.yaml", Path(__file__).with_name("config.yaml"))
Row = dict[str, Any]


def merged(into: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Maps merge, everything else is replaced: as Snakemake does with a second file."""
    for key, value in other.items():
        both = isinstance(value, Mapping) and isinstance(into.get(key), Mapping)
        into[key] = merged(dict(into[key]), value) if both else value
    return into


def settings() -> config.Config:
    """The benchmark's configuration."""
    content: dict[str, Any] = {}
    for path in FILES:
        content = merged(content, yaml.safe_load(path.read_text()))
    return config.load(content, ROOT / "workflow" / "schemas")


def table(
    asked: config.Config, pair: str, app: str, worked: Mapping[str, list[float]]
) -> list[Row]:
    """Rows of an app over all seeds that were run."""
    every = contenders.entries(asked, pair, app)
    for entry in every:
        entry["runs"] = [run for run in entry["runs"] if Path(run["scores"]).exists()]
    before = [r for r in contenders.reference(asked, pair, app) if Path(r["scores"]).exists()]
    rows = compare.over_seeds(compare.comparison(app, every, before, {}))
    items = {id(e): [worked[x] for x in _folders(e) if x in worked] for e in every}
    matched = next(items[id(e)] for e in every if e["stage"] == contenders.MATCHED)
    for row, entry in zip(rows, every, strict=True):
        held = np.array(items[id(entry)])
        if len(held):
            row |= _named("worked", bootstrap(held.mean(axis=0)))
        if len(held) and len(matched) and entry["method"]:
            count = len(held) if row["stage"] == "finetuned" else len(matched)
            beside = np.mean(matched[:count], axis=0)  # of the same seeds
            row |= _named("worked_difference", difference(held.mean(axis=0), beside))
    return rows


def _folders(entry: Row) -> list[str]:
    return [run["adapter"] or "bare" for run in entry["runs"]]


def _named(name: str, found: Interval) -> Row:
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def sweep(pair: str, app: str, worked: Mapping[str, list[float]]) -> list[Row]:
    """Points of the sweep over examples, where it was run."""
    home = Path("artifacts") / pair / app / "sweeps"
    if not (home / "examples.csv").exists():
        return []
    with (home / "examples.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    stages = {label: stage for stage, label in sweeps.STAGES.items()}
    for row in rows:
        held = worked.get(str(home / "examples" / row["value"] / stages.get(row["row"], "-")))
        row["worked"] = float(np.mean(held)) if held else None
    return rows


def rates(file: Path) -> dict[str, float]:
    """Mean likelihood on held-out training records of what was trained at each learning rate."""
    held = json.loads(file.read_text()) if file.exists() else {}
    return {name: float(np.mean(items)) for name, items in held.items()}


def of_models(asked: config.Config) -> list[Row]:
    """What training on all data and scoring took, and gave, for each model by itself."""
    found = []
    for app, model in asked.adapters:
        home = Path("artifacts/models") / model / app
        row: Row = {"model": model, "app": app}
        if (home / "lora_trained" / "training.json").exists():
            about = read_json(home / "lora_trained" / "training.json", "training")
            keys = ("examples", "steps", "trained_parameters", "first_loss", "last_loss", "run")
            row["training"] = {key: about[key] for key in keys}
            row["training"]["run"].pop("host", None)
        for stage in ("bare", "lora"):
            if (home / "eval" / f"{stage}.json").exists():
                held = read_json(home / "eval" / f"{stage}.json", "eval")
                row[stage] = {
                    "tasks": {
                        name: {k: task.get(k) for k in ("value", "low", "high", "n", "nll")}
                        for name, task in held["tasks"].items()
                    },
                    "run": {k: held["run"].get(k) for k in ("seconds", "peak_mib", "gpu_peak_mib")},
                }
        found.append(row)
    return found


def number(value: Any, form: str = "{:.1f}", times: float = 1) -> str:
    """A cell."""
    return form.format(value * times) if isinstance(value, int | float) else str(value or "–")


def interval(row: Row, key: str, form: str = "{:.1f}", times: float = 1) -> str:
    """A value with its interval."""
    ends = ("low", "high") if key == "average" else (f"{key}_low", f"{key}_high")
    value, low, high = (row.get(name) for name in (key, *ends))
    if low is None or high is None:
        return number(value, form, times)
    return (
        f"{number(value, form, times)} ({' to '.join(number(x, form, times) for x in (low, high))})"
    )


COLUMNS: dict[str, Callable[[Row], str]] = {
    "start": lambda row: row["row"],
    "seeds": lambda row: number(row.get("seeds"), "{:d}"),
    "score, %": lambda row: interval(row, "average", times=100),
    "less matched": lambda row: interval(row, "difference", times=100),
    "retention": lambda row: interval(row, "retention", "{:.2f}"),
    "NLL": lambda row: number(row.get("nll"), "{:.2f}"),
    "less matched ": lambda row: interval(row, "nll_difference", "{:.2f}"),
    "worked NLL": lambda row: interval(row, "worked"),
    "less matched  ": lambda row: interval(row, "worked_difference"),
    "negative flips": lambda row: number(row.get("negative_flips"), "{:.0f}"),
    "pair, s": lambda row: number(row.get("pair_s"), "{:.0f}"),
    "carry, s": lambda row: number(row.get("transfer_s")),
    "train, s": lambda row: number(row.get("train_s")),
    "GPU MiB": lambda row: number(row.get("gpu_peak_mib"), "{:.0f}"),
    "MiB": lambda row: number(row.get("peak_mib"), "{:.0f}"),
    "note": lambda row: " ".join(str(row.get("note") or "").split())[:120],
}


def markdown(title: str, rows: list[Row], points: list[Row]) -> str:
    """An app's table, and its sweep over examples."""
    shown = [[make(row) for make in COLUMNS.values()] for row in rows]
    used = [n for n in range(len(COLUMNS)) if any(line[n] not in ("–", "") for line in shown)]
    lines = [[line[n] for n in used] for line in ([*map(str.strip, COLUMNS)], *shown)]
    text = f"## {title}\n\n{_table(lines)}\n"
    if points:
        names = ("value", "row", "average", "low", "high", "nll", "worked")
        body = [[_short(row.get(name)) for name in names] for row in points]
        text += f"\n### {title}: examples of the fine-tuning\n\n{_table([list(names), *body])}\n"
    return text


def _table(lines: list[list[str]]) -> str:
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _short(value: Any) -> str:
    try:
        return f"{float(value):.4g}"
    except (TypeError, ValueError):
        return str(value or "–")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--likelihood", type=Path, default=Path("benchmarks/smollm2/built/likelihood")
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "smollm2")
    given = parser.parse_args()
    asked = settings()
    content: dict[str, Any] = {"versions": versions(), "models": of_models(asked), "apps": {}}
    content["settings"] = {k: asked.content[k] for k in ("finetune", "evaluation", "calibration")}
    text = []
    for pair in asked.content["run"]:
        for app in asked.apps(asked.pair(pair)[0]):
            file = given.likelihood / f"{pair}.{app}.json"
            worked = json.loads(file.read_text()) if file.exists() else {}
            rows, points = table(asked, pair, app, worked), sweep(pair, app, worked)
            content["apps"][f"{pair}/{app}"] = {"rows": rows, "examples": points}
            text.append(markdown(f"{pair}, {app}", rows, points))
    files = given.likelihood.glob("heldout.*.json")
    content["held_out"] = {file.name.split(".")[1]: rates(file) for file in sorted(files)}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    given.out.with_suffix(".md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
