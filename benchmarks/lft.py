"""Light fine-tuning from several starts on one schedule: who learns an app from how many examples.

    python benchmarks/lft.py resources/nano --out benchmarks/results/lft_nano.json --workers 8

Starts: an adapter from nothing on the same places (`scratch`), and the old model's adapter carried
by each method. Sets: examples with their answers `given`, or with `own` ones, those that the old
model with its adapter writes to the same prompts (empty and cut ones are left out and counted).
Every cell (app, start, answers, examples, learning rate, seed) is trained by
loraport.training.train with config.yaml's other settings, and scored on the app's test items: exact
match by greedy decoding, and the answers' negative log-likelihood in nats. A seed draws the small
set and orders it, the same for every start: from the whole training set, or by `--draw-from
calibration` from the prompts that the maps of one adapter are fitted on, so that no start has seen
a prompt that another has not. Cells that the output file already has are not run again, and a call
may be stopped at any time. `--toy` runs a small corner, to see that all is there."""

import argparse
import itertools
import json
import multiprocessing
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from aligned import METHODS, answer_nll, carried_by, examples, make_pair, read_rows

from loraport.adapters.attach import attach
from loraport.artifacts import write_json
from loraport.calibration.activations import read_texts
from loraport.evaluation.statistics import bootstrap, difference
from loraport.models.loading import load_base
from loraport.models.spec import open_model
from loraport.provenance import versions
from loraport.runtime.device import pick_device
from loraport.training.data import Example, subset
from loraport.training.own_answers import own_examples, write_answers
from loraport.training.settings import Settings
from loraport.training.starts import fresh_like
from loraport.training.train import train_lora

STARTS = {
    "lorasuite": "lorasuite (paper)",
    "aligned": "aligned",
    "sequential": "aligned_sequential",
}  # name here -> entry of METHODS
Cell = tuple[str, str, str, int, float, int]  # app, start, answers, examples, rate, seed


def draw(root: Path, cell: Cell, prompts: int) -> list[Example]:
    """The small set of a cell, with the answers given: of the first `prompts` of the training set's
    draw, or (0) of all of it.
    """
    app, _, _, count, _, seed = cell
    return subset(subset(read_rows(root, app, "train"), prompts, 0), count, seed) if count else []


def small_set(
    root: Path, cell: Cell, prompts: int, own: dict[str, dict[str, Any]]
) -> list[Example]:
    """What a cell is trained on: its draw, or those of its prompts that have an own answer."""
    app, _, answers, *_ = cell
    given = draw(root, cell, prompts)
    if answers != "own":
        return given
    written = own[app]["answers"]
    return [Example(each.prompt, written[each.prompt]) for each in given if each.prompt in written]


def answer_all(root: Path, cells: list[Cell], prompts: int, device: str) -> dict[str, Any]:
    """App -> what its cells with own answers are trained on, and the counts of what was written.

    The old model with its adapter answers each prompt once.
    """
    found = {}
    for app in dict.fromkeys(cell[0] for cell in cells if cell[2] == "own"):
        mine = [cell for cell in cells if cell[0] == app and cell[2] == "own"]
        asked = {each.prompt: each for cell in mine for each in draw(root, cell, prompts)}
        model, tokenizer = load_base(root / "v1", device=device, dtype="float32")
        model = attach(model, root / "adapters" / "v1" / app).merge_and_unload()
        written = write_answers(model, tokenizer, list(asked), 256, 64, 256)
        kept, counts = own_examples(list(asked), written)
        counts["as_given"] = sum(each == asked[each.prompt] for each in kept)
        print(app, "own answers", counts, flush=True)
        found[app] = {"counts": counts, "answers": dict(kept)}
    return found


def make_starts(
    root: Path,
    apps: list[str],
    starts: list[str],
    folder: Path,
    texts: int,
    prompts: int,
    device: str,
) -> None:
    """`folder/{app}/{start}`: the carried adapters, as PEFT directories."""
    old, new = (open_model(root / side) for side in ("v1", "v2"))
    generic = read_texts(root / "calibration.txt", texts)
    pair = make_pair(old, new, generic, device)
    for start in starts:
        if start != "scratch":
            entry = METHODS[STARTS[start]]
            carried_by(pair, root, entry, apps, folder, start, prompts, generic)


def score(
    root: Path, app: str, adapter: Path | None, limit: int, device: str
) -> dict[str, list[float]]:
    """Exact match and NLL of each test item, by the new model with an adapter or without."""
    sys.path.insert(0, str(root))
    from score import complete, is_right

    task = app.removesuffix("_all")
    lines = (root / "data" / f"{task}.test.jsonl").read_text().splitlines()[:limit]
    rows = [json.loads(line) for line in lines]
    model, tokenizer = load_base(root / "v2", device=device, dtype="float32")
    model = attach(model, adapter) if adapter else model
    tokenizer.padding_side = "left"
    texts = complete(model, tokenizer, [row["prompt"] for row in rows])
    right = [float(is_right(task, t, r["answer"])) for t, r in zip(texts, rows, strict=True)]
    return {"right": right, "nll": answer_nll(model, tokenizer, examples(root, app, limit))}


def run_cell(
    root: Path, starts: Path, cell: Cell, data: list[Example], limit: int, device: str
) -> dict[str, list[float]]:
    """Train one cell, where it has examples, and score it."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    app, start, _, _, rate, seed = cell
    source = starts / app / start if start != "scratch" else None
    if not data:
        return score(root, app, source, limit, device)
    settings = Settings(seed=seed, learning_rate=rate, dtype="float32", device=device)
    begun = source or fresh_like(root / "adapters" / "v1" / app)
    with TemporaryDirectory() as temporary:
        out = Path(temporary) / "adapter"
        train_lora(root / "v2", data, out, start=begun, settings=settings)
        return score(root, app, out, limit, device)


def cells(asked: argparse.Namespace) -> Iterator[Cell]:
    """All cells that were asked for; without fine-tuning there is one a start."""
    for app, start in itertools.product(asked.apps, asked.starts):
        yield app, start, "", 0, 0.0, 0
        for each, rate, seed in itertools.product(asked.sets, asked.rates, asked.seeds):
            answers, count = each.split(":")
            yield app, start, answers, int(count), rate, seed


def named(cell: Cell) -> str:
    """A cell's key in the file."""
    return "|".join(map(str, cell))


Runs = list[dict[str, list[float]]]  # of the seeds: scores of each test item


def tables(found: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Per app, set and rate: means over seeds and items, and paired differences from scratch on the
    same set, and from scratch on the largest set with own answers (`distilled`).

    Intervals are over test items, each item's score being its mean over the seeds.
    """
    groups: dict[tuple[str, str, int, str, str], Runs] = {}
    for name, scores in found.items():
        app, start, answers, count, rate, _ = name.split("|")
        groups.setdefault((app, answers, int(count), rate, start), []).append(scores)
    table: dict[str, Any] = {}
    for (app, answers, count, rate, start), runs in sorted(groups.items()):
        most = max((key[2] for key in groups if key[:2] == (app, "own")), default=0)
        others = {
            "scratch": groups.get((app, answers, count, rate, "scratch"), []),
            "distilled": groups.get((app, "own", most, rate, "scratch"), []),
        }
        name = f"{count} {answers} answers, rate {rate}" if count else "no fine-tuning"
        table.setdefault(app, {}).setdefault(name, {})[start] = _row(runs, others)
    return table


def _row(runs: Runs, others: dict[str, Runs]) -> dict[str, Any]:
    row: dict[str, Any] = {"seeds": len(runs)}
    for key in ("right", "nll"):
        items = np.mean([run[key] for run in runs], axis=0)
        row[key] = vars(bootstrap(items))
        row[f"{key}_by_seed"] = [float(np.mean(run[key])) for run in runs]
        for name, other in others.items():
            if other is not runs and len(other) == len(runs):
                base = np.mean([run[key] for run in other], axis=0)
                row[f"{key}_less_{name}"] = vars(difference(items, base))
    return row


def main() -> None:
    """Make the starts, run the cells that are missing, and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="folder with v1, v2, adapters, data, calibration")
    parser.add_argument("--apps", nargs="+", default=["math", "mcq", "command"])
    parser.add_argument("--starts", nargs="+", default=["scratch", *STARTS])
    parser.add_argument("--sets", nargs="+", default=["given:33", "given:100"],
                        help="given or own answers, and how many examples")  # fmt: skip
    parser.add_argument("--draw-from", choices=("task", "calibration"), default="task")
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-3, 3e-3])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--limit", type=int, default=500, help="test items")
    parser.add_argument("--texts", type=int, default=512, help="generic calibration texts")
    parser.add_argument("--prompts", type=int, default=400, help="for maps of one adapter")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--toy", action="store_true", help="one app, 8 examples, 8 items")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    if asked.toy:
        asked.apps, asked.rates, asked.seeds = asked.apps[:1], [1e-3], [0]
        asked.sets = list(dict.fromkeys(f"{each.split(':')[0]}:8" for each in asked.sets))
        asked.limit, asked.texts, asked.prompts = 8, 64, 16
    device = pick_device(asked.device)
    cache = asked.out.with_suffix(".cells.json")
    found = json.loads(cache.read_text()) if cache.is_file() else {}
    missing = [cell for cell in cells(asked) if named(cell) not in found]
    pool_of = asked.prompts if asked.draw_from == "calibration" else 0
    own = answer_all(asked.root, list(cells(asked)), pool_of, device)
    with TemporaryDirectory() as temporary:
        starts = Path(temporary)
        if missing:
            make_starts(
                asked.root, asked.apps, asked.starts, starts, asked.texts, asked.prompts, device
            )
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(asked.workers, mp_context=context) as pool:
            jobs = {}
            for cell in missing:
                data = small_set(asked.root, cell, pool_of, own)
                job = pool.submit(run_cell, asked.root, starts, cell, data, asked.limit, device)
                jobs[job] = cell
            for job in as_completed(jobs):
                scores = job.result()
                found[named(jobs[job])] = scores
                means = {key: round(float(np.mean(values)), 3) for key, values in scores.items()}
                print(*jobs[job], means, flush=True)
                cache.write_text(json.dumps(found))
    shown = tables({named(cell): found[named(cell)] for cell in cells(asked)})
    about = {key: str(value) for key, value in vars(asked).items() if key not in ("out", "root")}
    about["own_answers"] = {app: each["counts"] for app, each in own.items()}
    write_json(asked.out, "benchmark", {}, {"about": about, "versions": versions(), "table": shown})


if __name__ == "__main__":
    main()
