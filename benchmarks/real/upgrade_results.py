"""What upgrades measured, as benchmarks/results/upgrades.json and .md: of every cell that there is.

    python -m benchmarks.real.upgrade_results [--cells FOLDER] [--out benchmarks/results/upgrades]

An upgrade is compared item by item with the bare new model, the old model with its adapter, LoRA on
100 labelled examples, LoRA on all of them, and plain distillation: taught from nothing on the old
adapter's answers to the given prompts, and no others. Items and seeds are drawn again
(`results.paired`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .results import paired, percent, vectors, write_tables
from .upgrades import STAGES

BENCH = Path(__file__).with_name("upgrades.yaml")
SHORT = 100  # examples of the labelled baseline
KEY = ("pair", "app", "start", "teacher", "given", "labels", "plain", "items")
AGAINST = ("bare", "old", "labelled", "full", "plain")
Row = dict[str, Any]


def table(bench: Mapping[str, Any], rows: Sequence[Row]) -> Row:
    """`upgraded` and `planted`: a row for each cell but for its seed."""
    good = {row["cell"]: row for row in rows if "error" not in row}.values()
    full = {(row["model"], row["app"]): row for row in good if row["stage"] == "full"}
    light = {
        (row["model"], row["app"]): row
        for row in good
        if row["stage"] == "starts" and row["start"] == "nothing" and row["examples"] == SHORT
    }
    upgraded: dict[tuple, dict[str, Row]] = {}
    for row in good:
        if row["stage"] == STAGES[0]:
            items = len(row["scores"]["upgraded"]["right"])
            named = row | {"plain": row.get("prompts") == 0, "items": items}
            upgraded.setdefault(tuple(named[key] for key in KEY), {})[str(row["seed"])] = row
    told = []
    order = list(bench["pairs"]), list(bench["apps"])
    for key in sorted(upgraded, key=lambda k: (order[0].index(k[0]), order[1].index(k[1]), k[2:])):
        seeds, model = upgraded[key], bench["pairs"][key[0]][1]
        others: dict[str, Any] = {"old": {s: each["scores"]["old"] for s, each in seeds.items()}}
        if all(each["report"]["start"]["start"] == "nothing" for each in seeds.values()):
            others["bare"] = {s: each["scores"]["start"] for s, each in seeds.items()}
        if (model, key[1]) in full:
            others |= {name: full[model, key[1]][name] for name in ("bare", "full")}
        if (model, key[1]) in light:
            others["labelled"] = light[model, key[1]]["seeds"]
        plain = (*key[:2], "nothing", "old", *key[4:6], True, key[-1])
        if key != plain and plain in upgraded:
            others["plain"] = {s: each["scores"]["upgraded"] for s, each in upgraded[plain].items()}
        told.append(dict(zip(KEY, key, strict=True)) | _cell(seeds, others))
    planted = [
        {key: row[key] for key in ("pair", "app")} | {"adapters": _words(row["adapters"])}
        for row in good
        if row["stage"] == STAGES[1]
    ]
    return {"upgraded": told, "planted": planted}


def _cell(seeds: Mapping[str, Row], others: Mapping[str, Any]) -> Row:
    mine = {seed: row["scores"]["upgraded"] for seed, row in seeds.items()}
    gaps = {}
    for name, other in others.items():
        if set(mine) <= set(other):
            theirs, own = (vectors(each, sorted(mine), "right") for each in (other, mine))
        else:  # other seeds, or none: the mean of the other's by item
            theirs, own = _items(other), vectors(mine, sorted(mine), "right")
        gaps[name] = {"score": float(theirs.mean()), **paired(own - theirs)}
    first = next(iter(seeds.values()))
    return {
        "seeds": len(seeds),
        "taught_by": sorted({row["report"]["choice"]["teacher"] for row in seeds.values()}),
        "from": sorted({row["report"]["start"]["start"] for row in seeds.values()}),
        "old_bare": first["scores"]["old_bare"]["score"],
        "start_score": float(np.mean([row["scores"]["start"]["score"] for row in seeds.values()])),
        "score": float(np.mean([each["score"] for each in mine.values()])),
        "against": gaps,
        "verdicts": [row["verdict"] for row in seeds.values()],
        "choices": [row["report"]["choice"]["measured"] for row in seeds.values()],
        "seconds": [row["seconds"]["run"] for row in seeds.values()],
        "gpu_gib": max(row["gpu_gib"] for row in seeds.values()),
    }


def _items(other: Mapping[str, Any]) -> np.ndarray:
    """Share of right answers by item, (1, items), of one row or of several seeds."""
    rows = [other] if "right" in other else list(other.values())
    return np.mean([list(map(int, row["right"])) for row in rows], axis=0, keepdims=True)


def _words(adapters: Mapping[str, Row]) -> Row:
    keys = ("labels", "agreement", "score")
    return {name: {key: row.get(key) for key in keys} for name, row in adapters.items()}


def markdown(_: Mapping[str, Any], content: Row) -> str:
    """The tables."""
    parts = [
        "# Upgrades on real pairs\n\nMade by `python -m benchmarks.real.upgrade_results`. Scores in"
        " %; differences of the upgraded adapter, 95 %, paired by item and by seed. Teacher: the "
        "one that was asked for, and the one that taught; start: likewise. Plain: taught from "
        "nothing on the old adapter's answers to these prompts, and no others.\n",
        "| pair | app | prompts | labels | teacher | start | seeds | items | old + LoRA | upgraded "
        f"| less bare new | less old + LoRA | less LoRA({SHORT}) | less LoRA(full) | less plain | "
        "verdicts |",
        "|" + "---|" * 16,
    ]
    for row in content["upgraded"]:
        gaps = [_gap(row["against"].get(n)) for n in AGAINST]
        cells = [
            row["pair"], row["app"], row["given"], row["labels"],
            "plain" if row["plain"] else _both(row["teacher"], row["taught_by"]),
            _both(row["start"], row["from"]), row["seeds"], row["items"],
            f"{100 * row['against']['old']['score']:.1f}", f"{100 * row['score']:.1f}", *gaps,
            ", ".join(row["verdicts"]),
        ]  # fmt: skip
        parts.append("| " + " | ".join(map(str, cells)) + " |")
    parts.append("\n## Planted failures\n\nVerdict by labels, and by agreement; score in %.\n")
    parts += ["| pair | app | adapter | score | by labels | by agreement |", "|" + "---|" * 6]
    for row in content["planted"]:
        for name, each in row["adapters"].items():
            score = "" if each["score"] is None else f"{100 * each['score']:.1f}"
            cells = [row["pair"], row["app"], name, score, each["labels"], each["agreement"]]
            parts.append("| " + " | ".join(cells) + " |")
    return "\n".join(parts) + "\n"


def _gap(gap: Row | None) -> str:
    return f"{percent(gap)} of {100 * gap['score']:.1f}" if gap else "–"


def _both(asked: str, got: Sequence[str]) -> str:
    return asked if list(got) == [asked] else f"{asked}: {', '.join(got)}"


def main() -> None:
    write_tables(table, markdown, __doc__, BENCH, "benchmarks/results/upgrades")


if __name__ == "__main__":
    main()
