"""What was measured, as benchmarks/results/real.json and real.md: of every cell that there is.

    python -m benchmarks.real.results [--bench FILE] [--out benchmarks/results/real]

A start is compared with `nothing` on the same examples, before fine-tuning with the bare model:
paired by item and by seed, and items as well as seeds are drawn again (percentile bootstrap). p is
two-sided; Holm's correction is over all (pair, app) cells of a start and number of examples.

The start `chosen` is, in each cell, the one that ends with the least nats on held-out records at
its best rate, `nothing` among them. The start `taught where ahead` is chosen seed by seed, as
`finetune.start: taught` does: an adapter that was taught on two thirds of the small set, where
after a fine-tuning on these it is ahead of `nothing` on the last third; else `nothing`.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loraport.artifacts import atomic
from loraport.evaluation.start import choose

from .gauge import AS_TAUGHT
from .harness import read_bench
from .run import BENCH, lines

LEVEL = 0.95
RESAMPLES = 20000
BATCH = 2000
GAINED = 0.10  # of an old adapter over its bare model: then there is something to carry
CHOSEN = "chosen"
DEFAULT = "taught where ahead"
NOTHING_ELSE = "nothing:"  # nothing, trained otherwise
TAUGHT = " taught"  # behind a start: on the old adapted model's answers
Row = dict[str, Any]
Key = tuple[str, str, str, int]  # pair, app, start, examples


def paired(gaps: np.ndarray) -> Row:
    """Mean of `gaps (seeds, items)`, interval and two-sided p; items and seeds are drawn again."""
    rng = np.random.default_rng(0)
    seeds, items = gaps.shape
    means = []
    for _ in range(RESAMPLES // BATCH):
        drawn = rng.multinomial(items, np.full(items, 1 / items), size=BATCH) @ gaps.T / items
        picked = rng.integers(seeds, size=(BATCH, seeds))
        means.append(np.take_along_axis(drawn, picked, axis=1).mean(axis=1))
    every = np.concatenate(means)
    low, high = np.percentile(every, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    tail = min((every <= 0).mean(), (every >= 0).mean())
    p = float(np.clip(2 * tail, 2 / RESAMPLES, 1))
    return {"mean": float(gaps.mean()), "low": float(low), "high": float(high), "p": p}


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's corrected p-values, in the order given."""
    order = np.argsort(p_values, kind="stable")
    count, largest = len(p_values), 0.0
    corrected = [0.0] * count
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (count - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def vectors(seeds: Mapping[str, Row], names: Sequence[str], what: str) -> np.ndarray:
    """Per-item numbers, (seeds, items): `right` or `nats`."""
    rows = [seeds[name][what] for name in names]
    return np.array([list(map(int, row)) if what == "right" else row for row in rows], float)


def compared(mine: Mapping[str, Row], theirs: Mapping[str, Row]) -> Row:
    """Differences in score and nats on the seeds that both have."""
    names = sorted(set(mine) & set(theirs))
    if not names:
        return {}
    return {
        what: paired(vectors(mine, names, key) - vectors(theirs, names, key))
        for what, key in (("score", "right"), ("nats", "nats"))
    }


def told(seeds: Mapping[str, Row]) -> Row:
    """Means over seeds, and the score of each."""
    row: Row = {
        "seeds": len(seeds),
        "scores": {seed: each["score"] for seed, each in seeds.items()},
        "score": float(np.mean([each["score"] for each in seeds.values()])),
        "nats": float(np.mean([np.mean(each["nats"]) for each in seeds.values()])),
    }
    if all("fields" in each for each in seeds.values()):
        row["fields"] = float(np.mean([each["fields"] for each in seeds.values()]))
    return row


def table(bench: Mapping[str, Any], rows: Sequence[Row]) -> Row:
    """Everything as nested dicts: models -> app, then pairs -> app -> starts and gains."""
    good = {row["cell"]: row for row in rows if "error" not in row}.values()
    full = {(row["model"], row["app"]): row for row in good if row["stage"] == "full"}
    models: Row = {}
    for (model, app), row in sorted(full.items()):
        models.setdefault(model, {})[app] = {
            "bare": told({"": row["bare"]}),
            "full": told({"": row["full"]}),
            "gain": compared({"": row["full"]}, {"": row["bare"]}),
            **{key: row[key] for key in ("rate", "rates", "examples")},
        }
    starts: dict[Key, Row] = {}
    for row in good:
        if row["stage"] == "taught":  # never compared with labelled data
            starts[row["pair"], row["app"], row["start"] + TAUGHT, row["examples"]] = row
        if row["stage"] == "starts":
            names = [p for p, (_, new) in bench["pairs"].items() if new == row.get("model")]
            for pair in names or [row["pair"]]:
                starts[pair, row["app"], row["start"], row["examples"]] = row
    add_chosen(starts)
    add_default(starts)
    pairs: Row = {}
    order = list(bench["pairs"])
    for key in sorted(starts, key=lambda each: (order.index(each[0]), *each[1:])):
        (pair, app, start, examples), row = key, starts[key]
        bare = full.get((bench["pairs"][pair][1], app))
        nothing = "nothing" + (TAUGHT if start.endswith(TAUGHT) else "")
        other = starts.get((pair, app, nothing, examples))
        against = other["seeds"] if examples and other else {"": bare["bare"]} if bare else {}
        entry = {"start": start, "examples": examples, **told(row["seeds"])}
        kept = ("rate", "gains", "chosen", "from")
        entry |= {name: row[name] for name in kept if name in row}
        if start == CHOSEN or start.startswith(DEFAULT) or against is not row["seeds"]:
            entry["less"] = compared(row["seeds"], against)
        pairs.setdefault(pair, {}).setdefault(app, {"starts": [], "gains": {}})
        pairs[pair][app]["starts"].append(entry)
    for row in good:
        if row["stage"] == "gain":
            pairs.setdefault(row["pair"], {}).setdefault(row["app"], {"starts": [], "gains": {}})
            pairs[row["pair"]][row["app"]]["gains"][row["start"]] = row["gains"]
    correct(pairs)
    failed = [row["cell"] for row in rows if "error" in row]
    return {"models": models, "pairs": pairs, "verdicts": verdicts(bench, models, pairs),
            "failed": sorted(set(failed) - {row["cell"] for row in good})}  # fmt: skip


def add_chosen(starts: dict[Key, Row]) -> None:
    """Add the start that held-out records choose, where a carried one was trained."""
    cells: dict[tuple[str, str, int], dict[str, Row]] = {}
    for (pair, app, start, examples), row in starts.items():
        trained_otherwise = start.startswith((NOTHING_ELSE, AS_TAUGHT)) or start.endswith(TAUGHT)
        if examples and not trained_otherwise:
            cells.setdefault((pair, app, examples), {})[start] = row
    for (pair, app, examples), tried in cells.items():
        if len(tried) < 2 or "nothing" not in tried:
            continue
        best = min(tried, key=lambda name: tried[name]["seeds"]["0"]["held"])
        starts[pair, app, CHOSEN, examples] = {**tried[best], "chosen": best}


def add_default(starts: dict[Key, Row]) -> None:
    """Add what records left out choose, seed by seed, where a start was taught."""
    for (pair, app, start, examples), row in list(starts.items()):
        nothing = starts.get((pair, app, "nothing", examples))
        if not start.startswith(AS_TAUGHT) or not nothing:
            continue
        picked = taught_where_ahead(nothing["seeds"], row["seeds"])
        both = {"nothing": nothing["seeds"], AS_TAUGHT: row["seeds"]}
        seeds = {seed: both[name][seed] for seed, name in picked.items()}
        name = start.replace(AS_TAUGHT, DEFAULT)
        starts[pair, app, name, examples] = {"seeds": seeds, "from": picked}


def taught_where_ahead(nothing: Mapping[str, Row], taught: Mapping[str, Row]) -> dict[str, str]:
    """Seed -> the start that answers left out choose, by the rule of `evaluation.start`."""
    picked = {}
    for seed in sorted(set(nothing) & set(taught)):
        losses = {"nothing": nothing[seed]["left_out"], AS_TAUGHT: taught[seed]["left_out"]}
        known = {name: np.array(each) for name, each in losses.items() if each}
        picked[seed] = choose(known).start
    return picked


def correct(pairs: Row) -> None:
    """Add Holm's p to the score differences: over the cells of a start and number of examples."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for apps in pairs.values():
        for content in apps.values():
            for entry in content["starts"]:
                if entry.get("less"):
                    key = entry["start"], entry["examples"]
                    groups.setdefault(key, []).append(entry["less"]["score"])
    for gaps in groups.values():
        for gap, p in zip(gaps, holm([gap["p"] for gap in gaps]), strict=True):
            gap["holm"] = p


def verdicts(bench: Mapping[str, Any], models: Row, pairs: Row) -> list[Row]:
    """For each start and number of examples: how many cells are above and below `nothing`."""
    counts: dict[tuple[str, int], Counter] = {}
    for pair, apps in pairs.items():
        old = models.get(bench["pairs"][pair][0], {})
        for app, content in apps.items():
            gained = app in old and old[app]["gain"]["score"]["mean"] >= GAINED
            for entry in content["starts"]:
                if not entry.get("less"):
                    continue
                count = counts.setdefault((entry["start"], entry["examples"]), Counter())
                gap = entry["less"]["score"]
                count["cells"] += 1
                count["gained"] += gained
                if gap["holm"] < 1 - LEVEL:
                    count["above" if gap["mean"] > 0 else "below"] += 1
                    count["above_gained"] += gap["mean"] > 0 and gained
    names = ("cells", "above", "below", "gained", "above_gained")
    return [
        {"start": start, "examples": examples} | {name: count[name] for name in names}
        for (start, examples), count in sorted(counts.items())
    ]


def percent(gap: Row | None, sign: bool = True) -> str:
    """A difference in points with its interval, bold where Holm's p is below 0.05."""
    if not gap:
        return "–"
    mean, low, high = (100 * gap[key] for key in ("mean", "low", "high"))
    text = f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
    return f"**{text}**" if gap.get("holm", 1) < 1 - LEVEL else text


def markdown(bench: Mapping[str, Any], content: Row) -> str:
    """The tables."""
    parts = ["# Real pairs\n\nMade by `python -m benchmarks.real.results`. Scores in %; nats an "
             "answer; differences from `nothing` on the same examples (no LFT: from the bare new "
             "model), 95 %; bold where Holm's p over the cells is below 0.05; ↑ the largest rate "
             "that was tried, so that a larger one may be better.\n"]  # fmt: skip
    head = (
        "| start | examples | cells | above | below | old adapter gains 10 points | of them above |"
    )
    parts.append(f"## Verdicts\n\n{head}\n|---|---|---|---|---|---|---|")
    for row in content["verdicts"]:
        parts.append("| " + " | ".join(str(value) for value in row.values()) + " |")
    for pair, apps in content["pairs"].items():
        for app, cell in apps.items():
            parts.append(
                f"\n## {pair}, {app}\n\n" + _table(bench, content["models"], pair, app, cell)
            )
    return "\n".join(parts) + "\n"


def _table(bench: Mapping[str, Any], models: Row, pair: str, app: str, cell: Row) -> str:
    rows = ["| row | examples | score | nats | less nothing | less nothing, nats | rate |",
            "|---|---|---|---|---|---|---|"]  # fmt: skip
    for side, model in zip(("old", "new"), bench["pairs"][pair], strict=True):
        if app in models.get(model, {}):
            for name, label in (("bare", "bare"), ("full", "LoRA(full)")):
                row = models[model][app][name]
                rate = models[model][app]["rate"] if name == "full" else ""
                numbers = f"{100 * row['score']:.1f} | {row['nats']:.1f}"
                rows.append(f"| {side}, {label} | | {numbers} | | | {rate} |")
    for row in sorted(cell["starts"], key=lambda r: (r["examples"], r["start"] != "nothing")):
        less = row.get("less") or {}
        nats = less.get("nats")
        gap = f"{nats['mean']:+.2f} ({nats['low']:+.2f} to {nats['high']:+.2f})" if nats else "–"
        rows.append(
            f"| {_named(row)} | {row['examples'] or 'no LFT'} | {100 * row['score']:.1f} | "
            f"{row['nats']:.2f} | {percent(less.get('score'))} | {gap} | {_rate(bench, row)} |"
        )
    return "\n".join(rows)


def _named(row: Row) -> str:
    return f"{CHOSEN}: {row['chosen']}" if "chosen" in row else row["start"]


def _rate(bench: Mapping[str, Any], row: Row) -> str:
    """The rates of the seeds, marked where it is the largest that was tried: a larger one may be
    better.
    """
    largest = max(bench["light"]["rates"])
    rates = sorted(set(row.get("rate", {}).values()))
    return ", ".join(f"{rate}{'↑' if rate == largest else ''}" for rate in rates)


def write_tables(
    tables: Callable[[Mapping[str, Any], Sequence[Row]], Row],
    words: Callable[[Mapping[str, Any], Row], str],
    said: str,
    bench: Path,
    out: str,
) -> None:
    """Read the command line, and write what `tables` makes of all cells as JSON and, by `words`, as
    Markdown.
    """
    parser = argparse.ArgumentParser(description=said.partition("\n")[0])
    parser.add_argument("--bench", type=Path, default=bench)
    parser.add_argument("--cells", type=Path, help="folder of lines, where it is not the bench's")
    parser.add_argument("--out", type=Path, default=Path(out))
    given = parser.parse_args()
    settings = read_bench(given.bench)
    content = tables(settings, lines(given.cells or Path(settings["built"]) / "cells"))
    for suffix, text in (
        (".json", json.dumps(content, indent=1) + "\n"),
        (".md", words(settings, content)),
    ):
        with atomic(given.out.with_suffix(suffix)) as temporary:
            temporary.write_text(text)


def main() -> None:
    write_tables(table, markdown, __doc__, BENCH, "benchmarks/results/real")


if __name__ == "__main__":
    main()
