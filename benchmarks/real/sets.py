"""The apps: training records, records that are held out, and test items; the same at every call.

    python -m benchmarks.real.sets DATA OUT

DATA is a folder with math/gsm8k.{train,test}.jsonl, math/{AddSub,MultiArith,SVAMP}.test.json and
commonsense/ARC-Easy.{train,test}.json (LLM-Adapters' layout). For each app OUT gets
`{app}.train.jsonl` (`prompt`, `completion`), `{app}.held.jsonl` (200 that nothing trains on, for
the choice of rates and gains), `{app}.test.jsonl` (with `answer`, and `set` where it has several)
and `{app}.worked.jsonl` (test records with a worked answer, whose nats are told).

ARC-Easy's answers say the chosen option's words before its number: from the number alone, small
models learn the form and guess. Its test items stand in a seeded order, so that the first 400 are a
sample of all 2376. `calibration.txt` holds documentation strings of scipy and scikit-learn (BSD).
"""

import argparse
import json
import random
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from loraport.training.data import to_example

from ..smollm2.sets import documentation, spelled_out
from ..smollm2.sets import records as read
from . import extract

HELD = 200
CAP = 4000  # training records of an app
TESTED = 400
REPOSITORY = Path(__file__).parents[2]
MATH = {"AddSub": 133, "MultiArith": 133, "SVAMP": 134}
Rows = list[dict[str, Any]]
Parts = dict[str, Rows]  # train, held, test, worked -> rows


def asked(rows: Sequence[dict[str, Any]], **more: Any) -> Rows:
    """Records in the template of LoRASuite's authors."""
    made = [to_example(row, "question", f"record {n}") for n, row in enumerate(rows)]
    return [
        {"prompt": each.prompt, "completion": each.completion}
        | {key: row[key] for key in ("answer",) if key in row and "question" not in row}
        | more
        for each, row in zip(made, rows, strict=True)
    ]


def split(rows: Rows, tests: Rows) -> tuple[Rows, Rows]:
    """Training and held-out records: none twice, none whose prompt is also in `tests`."""
    taken = {row["prompt"] for row in tests}
    once = {row["prompt"]: row for row in rows if row["prompt"] not in taken}
    kept = [{key: row[key] for key in ("prompt", "completion")} for row in once.values()]
    return kept[:-HELD][:CAP], kept[-HELD:]


def arc(data: Path) -> Parts:
    """ARC-Easy with its answers spelt out."""
    train, test = (
        asked([spelled_out(row) for row in read(data / "commonsense" / f"ARC-Easy.{part}.json")])
        for part in ("train", "test")
    )
    random.Random(0).shuffle(test)
    kept, held = split(train, test)
    return {"train": kept, "held": held, "test": test, "worked": test[:TESTED]}


def command(_: Path) -> Parts:
    """Nano's command language: a form that no model knows."""
    home = REPOSITORY / "resources" / "nano" / "data"
    test = read(home / "command.test.jsonl")[:TESTED]
    train, held = split(read(home / "command.train.jsonl"), test)
    return {"train": train, "held": held, "test": test, "worked": test}


def math(data: Path) -> Parts:
    """GSM8K to train on; the first items of three sets with short answers to test."""
    home = data / "math"
    test = [
        row
        for name, count in MATH.items()
        for row in asked(read(home / f"{name}.test.json")[:count], set=name)
    ]
    train, held = split(asked(read(home / "gsm8k.train.jsonl")), test)
    worked = asked(read(home / "gsm8k.test.jsonl")[:HELD])
    return {"train": train, "held": held, "test": test, "worked": worked}


def notes(_: Path) -> Parts:
    """Text to JSON, made here."""
    every = extract.records(2000 + HELD + TESTED)
    test = every[-TESTED:]
    train, held = split(every[:-TESTED], test)
    return {"train": train, "held": held, "test": test, "worked": test}


APPS: dict[str, Callable[[Path], Parts]] = {
    "arc": arc,
    "command": command,
    "math": math,
    "extract": notes,
}


@cache
def load(folder: Path, app: str, part: str, items: int) -> Rows:
    """Records of an app as `write` left them; of test items and worked ones the first `items`."""
    text = (folder / f"{app}.{part}.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.split("\n") if line]
    return rows[:items] if items and part in ("test", "worked") else rows


def write(path: Path, rows: Rows) -> None:
    """Records as .jsonl."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for app, make in APPS.items():
        for part, rows in make(given.data).items():
            write(given.out / f"{app}.{part}.jsonl", rows)
            print(app, part, len(rows))
    texts = (documentation("scipy") + documentation("sklearn"))[::8]
    lines = "".join(" ".join(text.split()) + "\n" for text in texts)
    (given.out / "calibration.txt").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
