"""What was measured, as benchmarks/results/smollm2.{json,md}: of every run that there is.

    python benchmarks/smollm2/results.py [--likelihood FOLDER] [--out benchmarks/results/smollm2]

Reads the score files below artifacts/ (`loraport.report.compare` makes the rows) and, where there
are some, the likelihoods of worked answers (`likelihood.py`), {pair}.{app}.json or
{pair}.{app}.*.json, and what `few.py`, `whole.py` and `settings.py` found. A seed that was not run
is left out, and the table says how many there are.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import starts
from asked import BUILT, ROOT, settings

from loraport.artifacts import read_json
from loraport.evaluation.statistics import bootstrap, difference
from loraport.planning import contenders
from loraport.planning.queries import Config
from loraport.report import compare
from loraport.runtime.measure import versions

Row = dict[str, Any]


def table(asked: Config, pair: str, app: str, worked: Mapping[str, list[float]]) -> list[Row]:
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
            row |= starts.named("worked", bootstrap(held.mean(axis=0)))
        if len(held) and len(matched) and entry["method"]:
            count = len(held) if row["stage"] == "finetuned" else len(matched)
            beside = np.mean(matched[:count], axis=0)  # of the same seeds
            row |= starts.named("worked_difference", difference(held.mean(axis=0), beside))
    return rows


def _folders(entry: Row) -> list[str]:
    return [run["adapter"] or "bare" for run in entry["runs"]]


def likelihoods(folder: Path, pair: str, app: str) -> dict[str, list[float]]:
    """Adapter -> nats of each worked answer, of all files of an app."""
    files = [*folder.glob(f"{pair}.{app}.json"), *sorted(folder.glob(f"{pair}.{app}.*.json"))]
    return {name: nats for file in files for name, nats in json.loads(file.read_text()).items()}


def diagnostics(asked: Config, pair: str) -> Row:
    """How far apart a pair's models are, how large its adapters' updates, and what was advised."""
    old, home = asked.pair(pair)[0], Path("artifacts") / pair
    files = {"distance": home / "distance.json"}
    for app in asked.apps(old):
        files[f"{app}/magnitude"] = Path("artifacts/models") / old / app / "magnitude.json"
        files[f"{app}/advice"] = home / app / "advice.json"
    found = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    own = ("kind", "format", "loraport", "inputs", "digest")  # of the file, not of the pair
    return {name: {k: v for k, v in row.items() if k not in own} for name, row in found.items()}


def rates(file: Path) -> dict[str, float]:
    """Mean likelihood on held-out training records of what was trained at each learning rate."""
    held = json.loads(file.read_text()) if file.exists() else {}
    return {name: float(np.mean(items)) for name, items in held.items()}


def of_models(asked: Config) -> list[Row]:
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


GAPS = {"many": "less LoRA from nothing", "few": "less it on a third"}
STARTED: dict[str, Callable[[Row], str]] = {
    "start": lambda row: row["row"],
    "seeds": lambda row: number(row["seeds"], "{:d}"),
    "score, %": lambda row: interval(row, "score", times=100),
    **{
        f"{name}, %": lambda row, gap=gap: interval(row, f"score_less_{gap}", times=100)
        for gap, name in GAPS.items()
    },
    "NLL": lambda row: interval(row, "nll", "{:.2f}"),
    **{
        name: lambda row, gap=gap: interval(row, f"nll_less_{gap}", "{:.2f}")
        for gap, name in GAPS.items()
    },
    "worked NLL": lambda row: interval(row, "worked"),
    **{
        f"{name} ": lambda row, gap=gap: interval(row, f"worked_less_{gap}", "{:.2f}")
        for gap, name in GAPS.items()
    },
}


def markdown(title: str, rows: list[Row], columns: Mapping[str, Callable[[Row], str]]) -> str:
    """A titled table, without the columns that say nothing."""
    shown = [[make(row) for make in columns.values()] for row in rows]
    used = [n for n in range(len(columns)) if any(line[n] not in ("–", "") for line in shown)]
    lines = [[line[n] for n in used] for line in ([*map(str.strip, columns)], *shown)]
    return f"{title}\n\n{_table(lines)}\n"


def held_out_table(pair: str, found: Mapping[str, Mapping[str, Row]]) -> str:
    """Methods and settings by the likelihood of held-out training records."""
    columns: dict[str, Callable[[Row], str]] = {"setting": lambda row: row["name"]}
    for app in dict.fromkeys(app for each in found.values() for app in each):
        columns[f"{app}, nats"] = lambda row, app=app: interval(row.get(app, {}), "nats")
        columns[f"{app}, less its method as it is, or aligned"] = lambda row, app=app: interval(
            row.get(app, {}), "less", "{:.2f}"
        )
    rows = [{"name": name, **each} for name, each in found.items()]
    return markdown(f"## {pair}: nats of held-out training records, no fine-tuning", rows, columns)


def _table(lines: list[list[str]]) -> str:
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--likelihood", type=Path, default=BUILT / "likelihood")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "smollm2")
    given = parser.parse_args()
    asked = settings()
    content: dict[str, Any] = {"versions": versions(), "models": of_models(asked), "apps": {}}
    content["settings"] = {k: asked.content[k] for k in ("finetune", "evaluation", "calibration")}
    text, right = [], {}
    for pair in asked.content["run"]:
        for app in asked.apps(asked.pair(pair)[0]):
            worked = likelihoods(given.likelihood, pair, app)
            found: Row = {"rows": table(asked, pair, app, worked)}
            text.append(markdown(f"## {pair}, {app}", found["rows"], COLUMNS))
            few = starts.groups(asked, pair, app, starts.limited_file, worked)
            if any(name.endswith(f", {starts.a_third(asked)} examples") for name in few):
                found["few"] = starts.table(asked, few)
                text.append(markdown(f"### {pair}, {app}: fewer examples", found["few"], STARTED))
            if whole := starts.groups(asked, pair, app, starts.whole_file, {}):
                found["whole"] = starts.table(asked, whole)
                right[f"{pair}/{app}"] = starts.right(whole)
                items = len(next(iter(next(iter(whole.values())).values()))["score"])
                title = f"### {pair}, {app}: all {items} items"
                text.append(markdown(title, found["whole"], STARTED))
            content["apps"][f"{pair}/{app}"] = found
        if tried := starts.held_out(sorted((BUILT / "settings").glob(f"{pair}*.json"))):
            content.setdefault("held_out_settings", {})[pair] = tried
            text.append(held_out_table(pair, tried))
        content.setdefault("diagnostics", {})[pair] = diagnostics(asked, pair)
    files = given.likelihood.glob("heldout.*.json")
    content["held_out"] = {file.name.split(".")[1]: rates(file) for file in sorted(files)}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    given.out.with_suffix(".md").write_text("\n".join(text))
    if right:  # 0 or 1 an item, of all items
        items = given.out.with_name(f"{given.out.name}_items.json")
        items.write_text(json.dumps(right, indent=1) + "\n")


if __name__ == "__main__":
    main()
