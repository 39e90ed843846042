"""All methods side by side on one app: what each scores, keeps, changes and costs.

Seeds are averaged item by item, so that intervals are over items; the spread over seeds, a standard
deviation, stands beside them. `contenders` says what is compared.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..artifacts import read_json
from ..evaluation.statistics import (
    Interval,
    average_interval,
    difference,
    flips,
    mcnemar,
    retention,
)
from ..planning.contenders import BARE, FULL, MATCHED, OLD, runs_of
from . import render
from .tables import (
    ITEMS,
    SCORE,
    UNDEFINED,
    all_items,
    cost_records,
    costs,
    is_binary,
    score_columns,
    weighted_items,
)

Row = dict[str, Any]
Run = Mapping[str, Any]  # of `contenders.entries`, with its score file's `content`
SHARES = ("retention", "nll_retention", "difference", "nll_difference")
COLUMNS = (
    ("app", "row", "stage", "method", "variant_of", "seed", "seeds", "metric"),
    (
        *("average", "low", "high", "average_spread", "nll", "nll_spread"),
        *(f"{share}{end}" for share in SHARES for end in ("", "_low", "_high")),
        *("p_low", "p_high", "negative_flips", "positive_flips"),
        *("pair_s", "transfer_s", "train_s", "eval_s", "peak_mib", "gpu_peak_mib", "note"),
    ),
)


def comparison(
    app: str, every: Sequence[Row], old_lora: Sequence[Run], missing: Mapping[str, str]
) -> list[Row]:
    """The table: for each entry a row over all its seeds and, where there are several, one a seed.

    Parameters
    ----------
    every : from `contenders.entries`
    old_lora : from `contenders.reference`
    missing : score file -> why it is not there

    Returns
    -------
    Dicts with the columns `columns(…)`: `seeds` counts those of a row over all of them, `seed`
    names that of a single one; None where a number does not exist. Retention is of the score and,
    as `nll_retention`, of the answers' likelihood; differences are to the matched LoRA(small).
    """
    held = {
        run["scores"]: {**run, "content": read_json(run["scores"], "eval")}
        for run in [*runs_of(list(every)), *old_lora]
        if run["scores"] not in missing
    }
    runs_of_seed: dict[int, list[Run]] = {
        id(e): [held[r["scores"]] for r in e["runs"] if r["scores"] in held] for e in every
    }
    others: dict[str, list[Run]] = {
        e["stage"]: runs_of_seed[id(e)] for e in every if not e["method"]
    }
    others[OLD] = [held[run["scores"]] for run in old_lora if run["scores"] in held]
    table = []
    for entry in every:
        runs = runs_of_seed[id(entry)]
        about = {"app": app, "row": entry["label"]}
        about |= {key: entry[key] for key in ("stage", "method", "variant_of")}
        gone = [missing[run["scores"]] for run in entry["runs"] if run["scores"] in missing]
        told = f"failed: {gone[0]}" if gone else ""
        if entry["refused"]:
            told = f"not served: {entry['refused']}"
        if not runs:
            table.append({**about, "note": told})
            continue
        table.append({**about, **_row(runs, entry, others), "seeds": len(runs), "note": told})
        if len(runs) > 1:
            table += [{**about, **_row([run], entry, others), "seed": run["seed"]} for run in runs]
    return table


def columns(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """Columns of a comparison in their order; those of tasks between the others."""
    tasks = list(dict.fromkeys(key for row in table for key in row if key.startswith(SCORE)))
    named = [column for key in tasks for column in (key, ITEMS + key.removeprefix(SCORE))]
    return [*COLUMNS[0], *named, *COLUMNS[1]]


def over_seeds(table: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows over all seeds, without those of single ones."""
    return [row for row in table if row.get("seed") in (None, "")]


def _row(runs: Sequence[Run], entry: Row, others: Mapping[str, Sequence[Run]]) -> Row:
    row = _averaged([run["content"] for run in runs])
    row |= _kept(runs, others)
    if others.get(MATCHED) and entry["stage"] != MATCHED:
        row |= _beside_matched(runs, others[MATCHED])
    return row | _costs(runs, entry["shared"])


def _averaged(contents: Sequence[Mapping[str, Any]]) -> Row:
    """Scores and likelihoods: mean over seeds, interval over items, spread over seeds."""
    each = [score_columns(content) for content in contents]
    mean = dict(each[0])
    if len(each) == 1:
        return mean
    keys = [key for key in mean if key.startswith(SCORE) or key in ("average", "nll")]
    mean |= {key: math.fsum(row[key] for row in each) / len(each) for key in keys}
    spread: Interval | None = None
    if is_binary(contents[0]):
        tasks = contents[0]["tasks"]
        spread = average_interval(
            {t: np.mean([c["tasks"][t]["items"] for c in contents], axis=0) for t in tasks}
        )
    mean |= {end: getattr(spread, end, None) for end in ("low", "high")}
    for key in ("average", "nll"):
        if key in mean:
            mean[f"{key}_spread"] = float(np.std([row[key] for row in each], ddof=1))
    return mean


def _items(runs: Sequence[Run], like: Mapping[str, Any], of: str = "items") -> np.ndarray:
    """Items of all tasks (n,), averaged over seeds, after a check that they are those of `like`."""
    for run in runs:
        all_items(run["content"], like)
    return np.mean([weighted_items(run["content"], of) for run in runs], axis=0)


def _measures(content: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Prefix of a column -> what it is of, and the sign that makes more be better."""
    likely = all("item_nll" in task for task in content["tasks"].values())
    return {"": ("items", 1), **({"nll_": ("item_nll", -1)} if likely else {})}


def _kept(runs: Sequence[Run], others: Mapping[str, Sequence[Run]]) -> Row:
    """Retention of LoRA(full)'s gain, and flips against the old model with its adapter."""
    row: Row = {}
    like = runs[0]["content"]
    if others.get(BARE) and others.get(FULL):
        for prefix, (of, sign) in _measures(like).items():
            sides = (_items(each, like, of) for each in (runs, others[BARE], others[FULL]))
            kept = retention(*(sign * side for side in sides))
            name = f"{prefix}retention"
            row |= {
                name: UNDEFINED if kept.value is None else kept.value,
                f"{name}_low": kept.low,
                f"{name}_high": kept.high,
            }
    if is_binary(like) and others.get(OLD):
        before = all_items(others[OLD][0]["content"], like)
        changed = [flips(before, all_items(run["content"])) for run in runs]
        for kind in ("negative", "positive"):
            row[f"{kind}_flips"] = float(np.mean([getattr(each, kind) for each in changed]))
    return row


def _beside_matched(runs: Sequence[Run], matched: Sequence[Run]) -> Row:
    """Paired differences to the matched LoRA(small) of the same seeds, and McNemar's tests.

    A start without a seed is compared with every seed of the baseline. `p_low` and `p_high` are the
    least and the greatest p of the pairs.
    """
    seeds = {run["seed"] for run in runs} - {""}
    chosen = [run for run in matched if run["seed"] in seeds] if seeds else matched
    like = runs[0]["content"]
    if not chosen:
        return {}
    row: Row = {}
    for prefix, (of, _) in _measures(like).items():
        gap = difference(_items(runs, like, of), _items(chosen, like, of))
        name = f"{prefix}difference"
        row |= {name: gap.mean, f"{name}_low": gap.low, f"{name}_high": gap.high}
    if is_binary(like):
        pairs = [
            (run, other) for run in runs for other in chosen if run["seed"] in ("", other["seed"])
        ]
        tests = [
            mcnemar(all_items(a["content"]), all_items(b["content"])).p_value for a, b in pairs
        ]
        row |= {"p_low": min(tests, default=None), "p_high": max(tests, default=None)}
    return row


def _costs(runs: Sequence[Run], shared: Sequence[str]) -> Row:
    """Seconds of an adapter (mean over seeds) and of the maps, peak memory of any part."""
    each = [costs(run, run["content"]) for run in runs]
    total: Row = {}
    for key in ("transfer_s", "train_s", "eval_s"):
        held = [row[key] for row in each if row[key] is not None]
        total[key] = math.fsum(held) / len(held) if held else None
    records = cost_records(shared)
    total["pair_s"] = math.fsum(record["seconds"] for record in records) if records else None
    for key in ("peak_mib", "gpu_peak_mib"):
        held = [row[key] for row in each if row[key] is not None]
        held += [record[key] for record in records if record.get(key) is not None]
        total[key] = max(held, default=None)
    return total


def write_comparison(table: Sequence[Row], title: str, outputs: Mapping[str, str]) -> None:
    """Write a comparison as the files `csv` (with every seed), `md` and `html` of `outputs`."""
    shown = over_seeds(table)
    render.write_csv(outputs["csv"], table, columns(table))
    render.write_text(outputs["md"], render.markdown(title, shown))
    render.write_text(outputs["html"], render.page(title, shown))
