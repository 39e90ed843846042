"""One worker: takes cells from a list that others take from too, and writes a line for each.

Started by run.py. A cell is taken by making its file in the folder of claims. What fails is written
as well, with its reason; nothing stops the worker but the end of the list or of its time.
"""

import argparse
import hashlib
import json
import os
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from .harness import Cell, Worker, model_of, read_bench
from .upgrades import STAGES, Upgrades


def named(cell: Cell) -> str:
    """A cell's name: its content."""
    return json.dumps(cell, sort_keys=True)


def taken(claims: Path, cell: Cell) -> bool:
    """Take a cell; whether it was free."""
    name = hashlib.sha256(named(cell).encode()).hexdigest()[:24]
    try:
        os.close(os.open(claims / name, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def following(left: list[Cell], claims: Path, bench: dict[str, Any], model: str) -> Cell | None:
    """The next cell that is free, of the model at hand where there is one; `left` loses it."""
    for cell in sorted(left, key=lambda each: model_of(bench, each) != model):
        left.remove(cell)
        if taken(claims, cell):
            return cell
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("bench", "cells", "claims", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--until", type=float, default=0, help="no cell begins after this time")
    parser.add_argument("--items", type=int, default=-1)
    given = parser.parse_args()
    bench = read_bench(given.bench)
    if given.items >= 0:
        bench["items"] = given.items
    left: list[Cell] = json.loads(given.cells.read_text())
    names = list(dict.fromkeys(model_of(bench, cell) for cell in left))
    of_pairs = bool(left) and left[0]["stage"] in STAGES
    worker: Worker | Upgrades = Upgrades(bench) if of_pairs else Worker(bench)
    model = names[given.number % len(names)] if names else ""
    while not given.until or time.time() < given.until:
        cell = following(left, given.claims, bench, model)
        if cell is None:
            break
        try:
            row = cell | worker.run(cell)
        except Exception as error:  # any: the other cells go on
            row = cell | {"error": repr(error), "traceback": traceback.format_exc()}
        model = model_of(bench, cell)
        with given.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row | {"cell": named(cell)}) + "\n")
        if "CUDA" in row.get("error", "") and "out of memory" not in row["error"]:
            raise SystemExit(1)  # the device's state is lost: run.py starts another worker
        if torch.cuda.is_available():  # the others on this GPU need what this cell held
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
