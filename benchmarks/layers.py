"""What fitting layers side by side gains and costs: `aligned`'s maps with one worker and with more.

A synthetic pair: random weights, and second moments of random rows that a random linear map
relates, written as rule moments writes them. Every run makes the same maps file by rule maps' own
functions, in a process of its own, the numbers of workers in turn; the files have to be equal to
the last byte. What counts is the ratio of two times of one round, where nothing else uses the
machine. Where something does (`others_cpus`), that ratio says little: `at_work`, how many threads
could run at a time on average, says how many cores the work would keep busy, and CPU seconds what
it costs.

    PYTHONPATH=src python benchmarks/layers.py --hidden 256 --intermediate 1024 --layers 3 \\
        --workers 1 2 --repeats 2 --out benchmarks/results/layers.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from pipeline import busy_seconds, machine
from transformers import LlamaConfig, LlamaForCausalLM

from loraport.artifacts import sha256, write_h5
from loraport.calibration.batches import PARTS
from loraport.calibration.moments import Moments, site_bytes
from loraport.calibration.moments_file import read_moments, write_layer
from loraport.calibration.sites import needed, width
from loraport.mapping.pair import Pair
from loraport.methods import make_maps
from loraport.models.spec import Model, open_model
from loraport.planning.memory import fit_bytes
from loraport.provenance import versions
from loraport.runtime.memory import peak_mib
from loraport.transfer.maps import write_maps

ROWS = {"fit": 4, "held": 1}  # times the hidden size
SETTINGS: dict[str, Any] = {
    "modules": ["q", "k", "v", "o", "gate", "up", "down"],
    "ridge": "auto",
    "prior": "procrustes",
    "writes": "stream",
}


def make_model(folder: Path, hidden: int, intermediate: int, layers: int, seed: int) -> Model:
    """A Llama of random weights with the shape of a small language model."""
    torch.manual_seed(seed)
    shape = {"hidden_size": hidden, "intermediate_size": intermediate, "vocab_size": 64}
    heads = {"num_attention_heads": hidden // 64, "num_key_value_heads": hidden // 128 or 1}
    config = LlamaConfig(**shape, **heads, num_hidden_layers=layers)
    LlamaForCausalLM(config).save_pretrained(folder)
    return open_model(folder)


def make_moments(path: Path, old: Model, new: Model) -> None:
    """Sums of rows x and M x + noise, for every site of every layer."""
    random = torch.Generator().manual_seed(0)
    with write_h5(path, "moments", {}) as writer:
        for layer in range(new.dims.layers):
            found = {}
            for site in needed(SETTINGS["modules"]):
                o, n = width(old.dims, site), width(new.dims, site)
                relation = torch.randn(o, n, generator=random, dtype=torch.float64) / o**0.5
                both = [Moments.empty(site, o, n, "cpu") for _ in PARTS]
                for part, moments in zip(PARTS, both, strict=True):
                    rows = ROWS[part] * old.dims.hidden
                    x = torch.randn(rows, o, generator=random, dtype=torch.float64)
                    noise = torch.randn(rows, n, generator=random, dtype=torch.float64)
                    moments.add(x, x @ relation + noise)
                found[site] = (both[0], both[1])
            write_layer(writer, layer, layer, found)


@contextmanager
def threads_at_work() -> Iterator[list[int]]:
    """How many threads of this process run, or would if a core were free, every 20 ms (Linux)."""
    found: list[int] = []
    done = threading.Event()

    def watch() -> None:
        me = threading.get_native_id()
        while not done.wait(0.02):
            files = [each for each in Path("/proc/self/task").iterdir() if each.name != str(me)]
            states = [(each / "stat").read_text().rpartition(")")[2].split()[0] for each in files]
            found.append(states.count("R"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def make(folder: Path, workers: int) -> dict[str, float]:
    """The maps file of one number of workers; seconds, and MiB more than the process began with."""
    old, new = open_model(folder / "old"), open_model(folder / "new")
    path = [(layer, layer) for layer in range(new.dims.layers)]

    def no_heads(layer: int) -> Any:
        raise AssertionError("aligned declares no heads")

    pair = Pair(
        old, new, SETTINGS, "cpu", None, path, no_heads,
        lambda layer: read_moments(folder / "moments.h5", layer), workers=workers,
    )  # fmt: skip
    before, start, mine, all_ = peak_mib(), time.perf_counter(), time.process_time(), busy_seconds()
    with threads_at_work() as counts:
        write_maps(folder / f"maps_{workers}.h5", "aligned", {}, make_maps("aligned", pair))
    seconds, mine = time.perf_counter() - start, time.process_time() - mine
    others = (busy_seconds() - all_ - mine) / seconds
    return {
        "seconds": seconds,
        "cpu_seconds": mine,
        "others_cpus": max(0.0, others),
        "at_work": sum(counts) / len(counts),
        "mib": peak_mib() - before,
    }


def measure(folder: Path, workers: int) -> dict[str, float]:
    """`make` in a process of its own."""
    call = [sys.executable, __file__, "--in", str(folder), "--workers", str(workers)]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def summary(runs: dict[int, list[dict[str, float]]]) -> dict[str, Any]:
    """Of each number of workers: seconds, memory, and its time over that of the fewest."""
    first = min(runs)
    found = {}
    for workers, each in runs.items():
        ratios = [
            one["seconds"] / base["seconds"] for one, base in zip(each, runs[first], strict=True)
        ]
        found[str(workers)] = {
            "seconds": [round(run["seconds"], 2) for run in each],
            "cpu_seconds": [round(run["cpu_seconds"], 2) for run in each],
            "others_cpus": [round(run["others_cpus"], 2) for run in each],
            "at_work": [round(run["at_work"], 2) for run in each],
            "mib": [round(run["mib"]) for run in each],
            f"time_over_{first}_worker": {
                "median": round(median(ratios), 3),
                "least": round(min(ratios), 3),
                "greatest": round(max(ratios), 3),
            },
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--intermediate", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--in", dest="folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.folder:
        print(json.dumps(make(asked.folder, asked.workers[0])))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sides = [make_model(folder / side, asked.hidden, asked.intermediate, asked.layers, seed)
                 for seed, side in enumerate(("old", "new"))]  # fmt: skip
        make_moments(folder / "moments.h5", *sides)
        runs: dict[int, list[dict[str, float]]] = {workers: [] for workers in asked.workers}
        for _ in range(asked.repeats):
            for workers in asked.workers:
                runs[workers].append(measure(folder, workers))
        names = {sha256(folder / f"maps_{workers}.h5") for workers in asked.workers}
        sums, stored = site_bytes(*sides) * asked.layers, (folder / "moments.h5").stat().st_size
    assert len(names) == 1, "the number of workers changed the maps"
    result = {
        "hidden": asked.hidden,
        "intermediate": sides[0].dims.intermediate,
        "layers": asked.layers,
        "maps_sha256": names.pop(),
        "workers": summary(runs),
        "planned_mib_a_layer": round(fit_bytes(*(side.dims for side in sides)) / 2**20),
        "moments": {"bytes_in_memory": sums, "bytes_on_disk": stored},
        "machine": machine("cpu"),
        "versions": versions(),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if asked.out:
        asked.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
