"""Starts side by side, each over its seeds: on a third of the examples, and on all test items."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from asked import BUILT, a_third, adapters, few_folder
from whole import METHODS

from loraport.artifacts import read_json
from loraport.evaluation.statistics import Interval, bootstrap, difference
from loraport.planning.queries import Config
from loraport.report.tables import weighted_items

Row = dict[str, Any]
Items = dict[str, np.ndarray]  # `score`, `nll`, `worked` -> a number an item, (n,)
Groups = dict[str, dict[str, Items]]  # label -> seed (empty: none) -> items
NOTHING = "LoRA from nothing"


def label(asked: Config, name: str) -> tuple[str, str]:
    """The row and the seed of a name of `asked.adapters`."""
    many, few = asked.content["finetune"]["examples"], a_third(asked)
    start, _, rest = name.partition("/")
    stage, _, seed = rest.partition("_seed")
    if start == "few":
        start, _, seed = rest.partition("/seed")
        return f"{NOTHING if start == 'scratch' else start}, {few} examples", seed
    if start == "baselines":
        known = {"new": "new, bare", "lora_full": "LoRA(full)"}
        return known.get(stage, f"{NOTHING}, {many} examples"), seed
    return (f"{start}, {many} examples" if seed else f"{start}, no LFT"), seed


def limited_file(asked: Config, pair: str, app: str, name: str) -> Path:
    """Where a name's scores on the configured items are."""
    start, _, rest = name.partition("/")
    if start == "few":
        return few_folder(asked, pair, app) / "scores" / f"{rest.replace('/', '.')}.json"
    return Path("artifacts") / pair / app / start / "eval" / f"{rest}.json"


def whole_file(asked: Config, pair: str, app: str, name: str) -> Path:
    """Where a name's scores on all items are."""
    return BUILT / "whole" / pair / app / f"{name.replace('/', '.')}.json"


def groups(
    asked: Config, pair: str, app: str, file: Any, worked: Mapping[str, list[float]]
) -> Groups:
    """What is scored, by row and seed; `file` is one of the two above."""
    found: Groups = {}
    for name, adapter in adapters(asked, pair, app, METHODS).items():
        path = file(asked, pair, app, name)
        if not path.exists():
            continue
        content = read_json(path, "eval")
        items = {"score": weighted_items(content)}
        if all("item_nll" in task for task in content["tasks"].values()):
            items["nll"] = weighted_items(content, "item_nll")
        if (adapter or "bare") in worked:
            items["worked"] = np.array(worked[adapter or "bare"])
        row, seed = label(asked, name)
        found.setdefault(row, {})[seed] = items
    return found


def table(asked: Config, found: Groups) -> list[Row]:
    """A row a label: means over seeds, intervals over items, and the paired differences from what
    was trained from nothing with the same seeds, on all the examples (`many`) and a third (`few`).
    """
    counts = {"many": asked.content["finetune"]["examples"], "few": a_third(asked)}
    against = {name: f"{NOTHING}, {count} examples" for name, count in counts.items()}
    rows = []
    for name, runs in sorted(found.items(), key=lambda each: _place(each[0])):
        row: Row = {"row": name, "seeds": len(runs)}
        for key in ("score", "nll", "worked"):
            mine = {seed: items[key] for seed, items in runs.items() if key in items}
            if mine:
                row |= named(key, bootstrap(_mean(mine, mine)))
            for short, other in against.items():
                theirs = {s: each[key] for s, each in found.get(other, {}).items() if key in each}
                seeds = [seed for seed in mine if seed in theirs] if "" not in mine else [""]
                others = seeds if "" not in mine else list(theirs)
                if name != other and theirs and seeds:
                    gap = difference(_mean(mine, seeds), _mean(theirs, others))
                    row |= named(f"{key}_less_{short}", gap)
        rows.append(row)
    return rows


def _place(name: str) -> tuple[bool, bool, str]:
    """Baselines first, then what is not trained."""
    return not name.startswith(("new,", "LoRA", NOTHING)), "no LFT" not in name, name


def _mean(each: Mapping[str, np.ndarray], seeds: Any) -> np.ndarray:
    return np.mean([each[seed] for seed in seeds], axis=0)


def named(name: str, found: Interval) -> Row:
    """A mean with its interval, as columns of a row."""
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def right(found: Groups) -> dict[str, dict[str, str]]:
    """Row -> seed -> a 1 for each item that is right and a 0 for each that is wrong."""
    return {
        name: {
            seed: "".join(str(int(x > 0)) for x in items["score"]) for seed, items in runs.items()
        }
        for name, runs in found.items()
    }


def held_out(files: Sequence[Path]) -> dict[str, dict[str, Row]]:
    """Rows of `settings.py`: method or setting -> app -> nats with their interval, and the paired
    difference from the method as it is, or (of a method as it is) from aligned.
    """
    nats: dict[str, dict[str, list[float]]] = {}
    for file in files:
        for name, each in json.loads(file.read_text()).items():
            nats.setdefault(name, {}).update(each)
    table: dict[str, dict[str, Row]] = {}
    for name, each in sorted(nats.items(), key=lambda row: (", " in row[0], row[0])):
        default = name.partition(", ")[0] if ", " in name else "aligned"
        for app, items in each.items():
            row = named("nats", bootstrap(items))
            if name != default and app in nats.get(default, {}):
                row |= {"from": default}
                row |= named("less", difference(items, nats[default][app]))
            table.setdefault(name, {})[app] = row
    return table
