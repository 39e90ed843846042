"""Light fine-tuning from several starts on one schedule: who learns an app from how many examples.

    python benchmarks/lft.py resources/nano --out benchmarks/results/lft_nano.json --workers 8

Starts: an adapter from nothing on the same places (`scratch`), and the old model's adapter carried
by each method. Every cell (app, start, examples, learning rate, seed) is trained by loraport.train
with config.yaml's other settings, and scored on the app's test items: exact match by greedy
decoding, and the answers' negative log-likelihood in nats. A seed draws the small set and
orders it, the same for every start. Cells that the output file already has are not run again, and
a call may be stopped at any time. `--toy` runs a small corner, to see that all is there.
"""

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
from aligned import METHODS, answer_nll, carried_by, examples, make_pair

from loraport.activations import read_texts
from loraport.artifacts import write_json
from loraport.data import Example
from loraport.device import pick_device
from loraport.models import attach, load_base
from loraport.provenance import versions
from loraport.scores import bootstrap, difference
from loraport.spec import open_model
from loraport.starts import fresh_like
from loraport.train import Settings, train_lora

STARTS = {
    "lorasuite": "lorasuite (paper)",
    "aligned": "aligned",
    "sequential": "aligned_sequential",
}  # name here -> entry of METHODS


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
    pair = make_pair(old, new, read_texts(root / "calibration.txt", texts), device)
    for start in starts:
        if start != "scratch":
            carried_by(pair, root, METHODS[STARTS[start]], apps, folder, start, prompts)


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
    root: Path, starts: Path, cell: tuple[str, str, int, float, int], limit: int, device: str
) -> dict[str, list[float]]:
    """Train one cell, where it has examples, and score it."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    app, start, count, rate, seed = cell
    source = starts / app / start if start != "scratch" else None
    if not count:
        return score(root, app, source, limit, device)
    lines = (root / "data" / f"{app.removesuffix('_all')}.train.jsonl").read_text().splitlines()
    data = [Example(row["prompt"], row["completion"]) for row in map(json.loads, lines)]
    settings = Settings(examples=count, subset_seed=seed, seed=seed, learning_rate=rate,
                        dtype="float32", device=device)  # fmt: skip
    begun = source or fresh_like(root / "adapters" / "v1" / app)
    with TemporaryDirectory() as temporary:
        out = Path(temporary) / "adapter"
        train_lora(root / "v2", data, out, start=begun, settings=settings)
        return score(root, app, out, limit, device)


def cells(asked: argparse.Namespace) -> Iterator[tuple[str, str, int, float, int]]:
    """All cells that were asked for; without fine-tuning there is one a start."""
    for app, start in itertools.product(asked.apps, asked.starts):
        yield app, start, 0, 0.0, 0
        for count, rate, seed in itertools.product(asked.examples, asked.rates, asked.seeds):
            yield app, start, count, rate, seed


def tables(found: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Per app, examples and rate: means over seeds and items, and differences from scratch.

    Intervals are over test items, each item's score being its mean over the seeds.
    """
    groups: dict[tuple[str, str, str, str], list[dict[str, list[float]]]] = {}
    for name, scores in found.items():
        app, start, count, rate, _ = name.split("|")
        groups.setdefault((app, count, rate, start), []).append(scores)
    table: dict[str, Any] = {}
    for (app, count, rate, start), runs in sorted(groups.items()):
        row: dict[str, Any] = {"seeds": len(runs)}
        scratch = groups.get((app, count, rate, "scratch"), [])
        for key in ("right", "nll"):
            items = np.mean([run[key] for run in runs], axis=0)
            row[key] = vars(bootstrap(items))
            row[f"{key}_by_seed"] = [float(np.mean(run[key])) for run in runs]
            if start != "scratch" and len(scratch) == len(runs):
                base = np.mean([run[key] for run in scratch], axis=0)
                row[f"{key}_less_scratch"] = vars(difference(items, base))
        table.setdefault(app, {}).setdefault(f"{count} examples, rate {rate}", {})[start] = row
    return table


def main() -> None:
    """Make the starts, run the cells that are missing, and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="folder with v1, v2, adapters, data, calibration")
    parser.add_argument("--apps", nargs="+", default=["math", "mcq", "command"])
    parser.add_argument("--starts", nargs="+", default=["scratch", *STARTS])
    parser.add_argument("--examples", nargs="+", type=int, default=[33, 100])
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-3, 3e-3])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--limit", type=int, default=500, help="test items")
    parser.add_argument("--texts", type=int, default=512, help="generic calibration texts")
    parser.add_argument("--prompts", type=int, default=400, help="for maps of one adapter")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--toy", action="store_true", help="one app, 16 examples, 8 items")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    if asked.toy:
        asked.apps, asked.examples, asked.rates, asked.seeds = ["math"], [16], [1e-3], [0]
        asked.limit, asked.texts, asked.prompts = 8, 64, 16
    device = pick_device(asked.device)
    cache = asked.out.with_suffix(".cells.json")
    found = json.loads(cache.read_text()) if cache.is_file() else {}
    missing = [cell for cell in cells(asked) if "|".join(map(str, cell)) not in found]
    context = multiprocessing.get_context("spawn")
    with TemporaryDirectory() as temporary:
        starts = Path(temporary)
        if missing:
            make_starts(
                asked.root, asked.apps, asked.starts, starts, asked.texts, asked.prompts, device
            )
        with ProcessPoolExecutor(asked.workers, mp_context=context) as pool:
            jobs = {
                pool.submit(run_cell, asked.root, starts, cell, asked.limit, device): cell
                for cell in missing
            }
            for job in as_completed(jobs):
                scores = job.result()
                found["|".join(map(str, jobs[job]))] = scores
                means = {key: round(float(np.mean(values)), 3) for key, values in scores.items()}
                print(*jobs[job], means, flush=True)
                cache.write_text(json.dumps(found))
    asked_for = {"|".join(map(str, cell)) for cell in cells(asked)}
    shown = tables({name: scores for name, scores in found.items() if name in asked_for})
    about = {key: str(value) for key, value in vars(asked).items() if key not in ("out", "root")}
    write_json(asked.out, "benchmark", {}, {"about": about, "versions": versions(), "table": shown})


if __name__ == "__main__":
    main()
