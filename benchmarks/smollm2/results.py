"""What was measured, as benchmarks/results/smollm2.{json,md}: of every run that there is.

    python benchmarks/smollm2/results.py [--likelihood FOLDER] [--out benchmarks/results/smollm2]

Reads the score files below artifacts/ (`loraport.compare` makes the rows) and, where there are
some, the likelihoods of worked answers (`likelihood.py`), {pair}.{app}.json. A seed that was not
run is left out, and the table says how many there are.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from loraport import compare, config, contenders
from loraport.artifacts import read_json
from loraport.measure import versions
from loraport.scores import bootstrap

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
    for row, entry in zip(rows, every, strict=True):
        folders = [run["adapter"] or "bare" for run in entry["runs"]]
        held = [worked[folder] for folder in folders if folder in worked]
        if held:
            spread = bootstrap(np.mean(held, axis=0))
            row |= {"worked_nll": spread.mean, "worked_low": spread.low, "worked_high": spread.high}
    return rows


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


def interval(row: Row, *keys: str, form: str = "{:.1f}", times: float = 1) -> str:
    """A value with its interval."""
    value, low, high = (row.get(key) for key in keys)
    if low is None or high is None:
        return number(value, form, times)
    return (
        f"{number(value, form, times)} ({number(low, form, times)} to {number(high, form, times)})"
    )


def markdown(title: str, rows: list[Row]) -> str:
    """An app's table."""
    header = ["start", "seeds", "score, %", "retention", "NLL", "worked NLL", "neg. flips",
              "pair, s", "carry, s", "train, s", "GPU MiB", "note"]  # fmt: skip
    lines = [header, ["---"] * len(header)]
    for row in rows:
        lines.append([
            row["row"], number(row.get("seeds"), "{:d}"),
            interval(row, "average", "low", "high", times=100),
            interval(row, "retention", "retention_low", "retention_high", form="{:.2f}"),
            number(row.get("nll"), "{:.2f}"),
            interval(row, "worked_nll", "worked_low", "worked_high"),
            number(row.get("negative_flips"), "{:.0f}"), number(row.get("pair_s"), "{:.0f}"),
            number(row.get("transfer_s")), number(row.get("train_s")),
            number(row.get("gpu_peak_mib"), "{:.0f}"),
            " ".join(str(row.get("note") or "").split())[:160],
        ])  # fmt: skip
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"## {title}\n\n{body}\n"


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
            rows = table(asked, pair, app, worked)
            content["apps"][f"{pair}/{app}"] = rows
            text.append(markdown(f"{pair}, {app}", rows))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    given.out.with_suffix(".md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
