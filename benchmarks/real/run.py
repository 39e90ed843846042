"""Runs a stage of the benchmark: workers that share its cells, several on a GPU.

    python -m benchmarks.real.run full --gpus 2 --per-gpu 6
    python -m benchmarks.real.run starts --starts nothing aligned:fresh --examples 100 33 400
    python -m benchmarks.real.run gain --starts aligned:fresh

Each worker writes a line for each cell to built/cells/{stage}.{tag}.{number}.jsonl when it is done;
cells that stand there without an error are not run again. Without a GPU (`--gpus 0`) they run on
the CPU.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import upgrades
from .harness import Cell, cells, read_bench
from .worker import named

BENCH = Path(__file__).with_name("bench.yaml")
STAGES = ("full", "starts", "gain", "answers", "taught", *upgrades.STAGES)
RESTARTS = 2  # of a worker that dies


def lines(folder: Path, stage: str = "") -> list[dict[str, Any]]:
    """Rows of all workers, of one stage or of all; a line that was cut short is left out."""
    rows = []
    for path in sorted(folder.glob(f"{stage or '*'}.*.jsonl")):
        for line in path.read_text(encoding="utf-8").split("\n"):
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
    return rows


def undone(every: Sequence[Cell], rows: Sequence[dict[str, Any]]) -> list[Cell]:
    """Cells that no row without an error tells of."""
    done = {row["cell"] for row in rows if "error" not in row}
    return [cell for cell in every if named(cell) not in done]


def start(command: Sequence[str], number: int, gpus: int, log: Path) -> subprocess.Popen:
    """A worker on its GPU, what it says in a file."""
    env = dict(os.environ)
    if gpus:
        env["CUDA_VISIBLE_DEVICES"] = str(number % gpus)
    with log.open("a") as out:
        return subprocess.Popen(
            [*command, "--number", str(number)], env=env, stdout=out, stderr=subprocess.STDOUT
        )


def watch(command: Sequence[str], folder: Path, stage: str, given: Any) -> int:
    """Start the workers and wait; one that dies is started again a few times."""
    count = max(1, given.gpus) * given.per_gpu

    def begin(number: int) -> subprocess.Popen:
        file = folder / f"{stage}.{given.tag}.{number}.jsonl"
        called = [*command, "--out", str(file)]
        return start(called, number, given.gpus, file.with_suffix(".log"))

    running = {number: begin(number) for number in range(count)}
    restarts = dict.fromkeys(running, 0)
    failed = 0
    while running:
        time.sleep(0.5)
        for number, process in list(running.items()):
            code = process.poll()
            if code is None:
                continue
            del running[number]
            if code and restarts[number] < RESTARTS:
                restarts[number] += 1
                running[number] = begin(number)
            elif code:
                failed += 1
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--bench", type=Path, default=BENCH)
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--per-gpu", type=int, default=1, help="workers on each")
    parser.add_argument("--examples", type=int, nargs="*", default=[100, 33, 400, 0])
    parser.add_argument("--minutes", type=float, default=0, help="no cell begins after them")
    parser.add_argument("--tag", default="0", help="of files, where two runs go side by side")
    parser.add_argument(
        "--items", type=int, default=-1, help="test items, in place of bench.yaml's"
    )
    parser.add_argument("--prompts", type=int, nargs="*", help="of lessons; default: the bench's")
    for name in ("pairs", "apps", "models", "starts"):
        parser.add_argument(f"--{name}", nargs="*", default=[])
    given = parser.parse_args(arguments)
    bench = read_bench(given.bench)
    folder = Path(bench["built"]) / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    left = undone(cells(bench, given.stage, given), lines(folder, given.stage))
    print(f"{given.stage}: {len(left)} cells", flush=True)
    begun = time.time()
    with tempfile.TemporaryDirectory() as temporary:
        claims = Path(temporary) / "claims"
        claims.mkdir()
        listed = Path(temporary) / "cells.json"
        listed.write_text(json.dumps(left))
        command = [sys.executable, "-m", "benchmarks.real.worker"]
        command += ["--bench", str(given.bench), "--cells", str(listed), "--claims", str(claims)]
        command += ["--items", str(given.items)]
        if given.minutes:
            command += ["--until", str(begun + 60 * given.minutes)]
        failed = watch(command, folder, given.stage, given)
    rows = lines(folder, given.stage)
    still = undone(left, rows)
    print(f"{len(left) - len(still)} done, {len(still)} not, {failed} workers lost, "
          f"{time.time() - begun:.0f} s", flush=True)  # fmt: skip
    return 1 if still else 0


if __name__ == "__main__":
    raise SystemExit(main())
