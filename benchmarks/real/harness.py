"""Cells of the benchmark: what one worker does between loading a model and writing a line.

A cell is a dict that names itself (`stage` and what the stage varies); `Worker.run` gives what is
to be stored beside it. Nats and scores of all starts of a cell's app come from the same items.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from loraport.adapters.attach import save_adapter
from loraport.artifacts import atomic
from loraport.evaluation.start import FOLDS
from loraport.training.data import Example, subset

from . import gauge, sets, upgrades
from .extract import right_fields
from .learn import Learner, Row, Schedule
from .scoring import RULES

Cell = dict[str, Any]
SMALL = 100  # records of the small set on which gains are told
TAUGHT, HELD = 400, 100  # prompts that the old adapted model answers, for training and held out
AUTO = {"g": (), "qkv": (0.0, 0.5, 1.0)}  # gains tried by key; those of g are the bench's
KEPT_ADAPTERS = 8  # carried ones whose SVDs stay in memory


def read_bench(path: str | Path) -> dict[str, Any]:
    """The settings of a run (bench.yaml)."""
    return yaml.safe_load(Path(path).read_text())


def cells(bench: Mapping[str, Any], stage: str, given: Any) -> list[Cell]:
    """All cells of a stage, the most wanted first.

    Parameters
    ----------
    given : `pairs`, `apps`, `models`, `starts`, `examples` (each a list; empty: all)
    """
    if stage in upgrades.STAGES:
        return upgrades.cells(bench, stage, given)
    apps = given.apps or list(bench["apps"])
    pairs = given.pairs or list(bench["pairs"])
    if stage in ("full", "answers"):
        models = given.models or list(bench["models"])
        return [{"stage": stage, "model": m, "app": a} for a in apps for m in models]
    named: list[Cell] = []
    for pair in pairs:
        for app in apps:
            for start in given.starts:
                # nothing is carried: one cell for all pairs with the same new model
                carried = gauge.parse(start).carried
                by_pair = carried or stage == "taught"
                whose = {"pair": pair} if by_pair else {"model": bench["pairs"][pair][1]}
                cell = {"stage": stage, **whose, "app": app, "start": start}
                if cell not in named and (carried or stage != "gain"):
                    named.append(cell)
    if stage == "gain":
        return named
    return [
        {**cell, "examples": count}
        for count in given.examples
        for cell in named
        # nothing without fine-tuning is the bare model, of `full`
        if count or gauge.parse(cell["start"]).carried
    ]


def model_of(bench: Mapping[str, Any], cell: Cell) -> str:
    """The model that a cell loads; of an upgrade the pair."""
    if cell["stage"] in upgrades.STAGES:
        return cell["pair"]
    return cell["model"] if "model" in cell else bench["pairs"][cell["pair"]][1]


class Worker:
    """Runs cells one after another; keeps the last model, its encoded sets and carried adapters."""

    def __init__(self, bench: Mapping[str, Any]):
        self.bench = bench
        self.built = Path(bench["built"])
        self.name = ""
        self.learner: Any = None
        self._rows: dict[tuple[str, str], list[Row]] = {}
        self._updates: dict[str, dict[str, gauge.Thin]] = {}

    def run(self, cell: Cell) -> dict[str, Any]:
        """What a cell gives."""
        begun = time.monotonic()
        upgrades.forget_gpu_peak()
        self._load(model_of(self.bench, cell))
        loaded = time.monotonic()
        result = getattr(self, f"_{cell['stage']}")(cell)
        seconds = {"load": loaded - begun, "run": time.monotonic() - loaded}
        told = {"seconds": {name: round(value, 2) for name, value in seconds.items()}}
        return result | told | {"gpu_gib": upgrades.gpu_gib()}

    def _load(self, name: str) -> None:
        if name == self.name:
            return
        self.learner, self.name = None, ""
        self._rows.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.learner = Learner(self.bench["models"][name], self.bench["rank"])
        self.name = name

    def records(self, app: str, part: str) -> list[dict[str, Any]]:
        """Records of an app: `train`, `held`, `test` (as many as are scored) or `worked`."""
        return sets.load(self.built / "sets", app, part, self.bench["items"])

    def rows(self, app: str, part: str) -> list[Row]:
        """The same, as tokens of the model at hand."""
        if (app, part) not in self._rows:
            self._rows[app, part] = self.learner.encoded(self.records(app, part))
        return self._rows[app, part]

    def drawn(self, app: str, count: int, seed: int) -> list[Row]:
        """The small set of a seed."""
        pairs = [Example(r["prompt"], r["completion"]) for r in self.records(app, "train")]
        return self.learner.encoded([each._asdict() for each in subset(pairs, count, seed)])

    def updates(self, cell: Cell, carried: str) -> dict[str, gauge.Thin]:
        """Thin SVDs of the update that a method carried to the cell's pair and app."""
        if not carried:
            return {}
        place = Path(self.bench["carried"]) / cell["pair"] / cell["app"] / carried
        folder = str(place / "lora_transferred")
        if folder not in self._updates:
            while len(self._updates) >= KEPT_ADAPTERS:
                self._updates.pop(next(iter(self._updates)))
            self._updates[folder] = {
                path: gauge.thin(each) for path, each in gauge.read(folder).items()
            }
        return self._updates[folder]

    def place(self, cell: Cell, start: gauge.Start, seed: int) -> None:
        """Let the model wear a start."""
        if start.transform == "as_is":
            prompts = int(start.number("prompts", upgrades.lesson(self.bench)))
            where = cell["pair"], cell["app"], cell["examples"], prompts, seed
            folder = upgrades.taught_place(self.built, *where)
            gauge.place_as_is(self.learner.model, gauge.read(folder))
            return
        updates = self.updates(cell, start.carried)
        gauge.place(self.learner.model, updates, start, self.bench["rank"], seed)

    def held(self, app: str) -> float:
        """Mean nats of a held-out answer."""
        return float(np.mean(self.learner.nats(self.rows(app, "held"))))

    def scored(self, app: str) -> dict[str, Any]:
        """What the model at hand writes to the test items, and its nats of worked answers."""
        kind, items = self.bench["apps"][app], self.records(app, "test")
        written = self.learner.answers([item["prompt"] for item in items], kind["tokens"])
        right = [RULES[kind["score"]](text, i) for text, i in zip(written, items, strict=True)]
        nats = self.learner.nats(self.rows(app, "worked"))
        result = {
            "score": float(np.mean(right)),
            "right": "".join(map(str, right)),
            "nats": [round(value, 3) for value in nats],
            "sample": written[:2],
        }
        if kind["score"] == "json":
            parts = [right_fields(t, i["answer"]) for t, i in zip(written, items, strict=True)]
            result["fields"] = np.mean(parts, axis=0).round(4).tolist()
        return result

    def _schedule(self, part: str, rate: float, **more: Any) -> Schedule:
        asked = self.bench[part]
        return Schedule(
            rate,
            batch_size=asked["batch_size"],
            warmup=asked.get("warmup", 0.0),
            steps=self.bench["steps"],
            **more,
        )

    def _full(self, cell: Cell) -> dict[str, Any]:
        """The bare model; and LoRA on all records at its best rate, written as a PEFT directory."""
        app, nothing = cell["app"], gauge.parse("nothing")
        self.place(cell, nothing, 0)
        result: dict[str, Any] = {"bare": {"held": self.held(app), **self.scored(app)}, "rates": {}}
        rows, best = self.rows(app, "train"), (float("inf"), None)
        known = self.bench["full"].get("best", {}).get(cell["model"], {}).get(app)
        for rate in [known] if known else self.bench["full"]["rates"]:
            self.place(cell, nothing, 0)
            schedule = self._schedule("full", rate, epochs=self.bench["apps"][app]["epochs"])
            told = self._trained(self.rows(app, "held"), rows, schedule, 0)
            result["rates"][str(rate)] = told
            if told["held"] is not None and told["held"] < best[0]:
                best = told["held"], self.learner.worn()
                result["rate"] = rate
        if best[1] is None:
            raise FloatingPointError("no rate gave a finite loss")
        self.learner.wear(best[1])
        with atomic(self.built / "adapters" / cell["model"] / app) as temporary:
            temporary.mkdir()
            save_adapter(self.learner.model, temporary, self.bench["models"][cell["model"]])
        return result | {"examples": len(rows), "full": self.scored(app)}

    def _trained(
        self, held_rows: Sequence[Row], rows: Sequence[Row], schedule: Schedule, seed: int
    ) -> dict[str, Any]:
        """A training of what is worn: first and last losses, held-out nats (None: not finite)."""
        try:
            losses = self.learner.train(rows, schedule, seed)
        except FloatingPointError as error:
            return {"held": None, "error": str(error)}
        held = float(np.mean(self.learner.nats(held_rows)))
        ends = [round(loss, 4) for loss in (losses[0], losses[-1])]
        return {"held": held if np.isfinite(held) else None, "steps": len(losses), "losses": ends}

    def _starts(self, cell: Cell) -> dict[str, Any]:
        """Light fine-tuning on labelled records, or none where `examples` is 0."""
        app, count = cell["app"], cell["examples"]
        seed = self.bench["light"]["seeds"][0]
        if not count:
            rows = self.drawn(app, min(SMALL, len(self.records(app, "train"))), seed)
            start = self._chosen_gain(cell, gauge.parse(cell["start"]), rows, seed)
            self.place(cell, start, seed)
            return {"held": self.held(app), "seeds": {"": self.scored(app)}, "gain": start.gains()}
        return self._tuned(cell, lambda seed: self.drawn(app, count, seed), self.rows(app, "held"))

    def _tuned(
        self, cell: Cell, drawn: Callable[[int], Sequence[Row]], held: Sequence[Row]
    ) -> dict[str, Any]:
        """Training with each seed, at the rate that has the least nats on `held` with it."""
        app, start = cell["app"], gauge.parse(cell["start"])
        result: dict[str, Any] = {"rates": {}, "rate": {}, "seeds": {}, "gains": {}}
        for seed in self.bench["light"]["seeds"]:
            rows, name = drawn(seed), str(seed)
            chosen = self._chosen_gain(cell, start, rows, seed)
            tried: dict[str, Any] = {}
            best: tuple[float, Any] = (float("inf"), None)
            for rate in self.bench["light"]["rates"]:
                told = tried[str(rate)] = self._light(cell, chosen, rows, held, rate, seed)
                if told["held"] is not None and told["held"] < best[0]:
                    best = told["held"], self.learner.worn()
                    result["rate"][name] = rate
            if best[1] is None:
                raise FloatingPointError("no rate gave a finite loss")
            self.learner.wear(best[1])
            result["rates"][name], result["gains"][name] = tried, chosen.gains()
            result["seeds"][name] = {"held": best[0], **self.scored(app)}
            if cell["start"] == "nothing" or start.transform == "as_is":  # choices need them
                left_out = self._left_out(cell, start, rows, result["rate"][name], seed)
                result["seeds"][name]["left_out"] = left_out
        return result

    def _left_out(
        self, cell: Cell, start: gauge.Start, rows: Sequence[Row], rate: float, seed: int
    ) -> list[float]:
        """Nats of every `FOLDS`th record after a training on the others."""
        rest = [row for n, row in enumerate(rows) if n % FOLDS]
        self.place(cell, start, seed)
        schedule = self._schedule("light", rate, epochs=self.bench["light"]["epochs"])
        try:
            self.learner.train(rest, schedule, seed)
        except FloatingPointError:
            return []
        return [round(value, 3) for value in self.learner.nats(rows[::FOLDS])]

    def _light(
        self,
        cell: Cell,
        start: gauge.Start,
        rows: Sequence[Row],
        held: Sequence[Row],
        rate: float,
        seed: int,
    ) -> dict[str, Any]:
        self.place(cell, start, seed)
        epochs = int(start.number("epochs", self.bench["light"]["epochs"]))
        schedule = self._schedule("light", rate, epochs=epochs, plus=start.number("plus"))
        return self._trained(held, rows, schedule, seed)

    def _answers(self, cell: Cell) -> dict[str, Any]:
        """What a model with its LoRA(full) writes to prompts of the training records."""
        app, model = cell["app"], cell["model"]
        folder = self.built / "adapters" / model / app
        updates = {path: gauge.thin(each) for path, each in gauge.read(folder).items()}
        gauge.place(self.learner.model, updates, gauge.parse("old:fresh"), self.bench["rank"], 0)
        prompts = [record["prompt"] for record in self.records(app, "train")]
        order = np.random.default_rng(0).permutation(len(prompts))[: TAUGHT + HELD]
        asked = [prompts[place] for place in order]
        kind = self.bench["apps"][app]
        written = self.learner.answers(asked, kind["tokens"])
        lines = [{"prompt": p, "completion": w} for p, w in zip(asked, written, strict=True)]
        path = self.built / "answers" / f"{model}.{app}.jsonl"
        with atomic(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return {"written": len(lines), "empty": sum(not w.strip() for w in written)}

    def _taught(self, cell: Cell) -> dict[str, Any]:
        """Training on the old adapted model's answers; no label is seen, held-out ones neither."""
        old = self.bench["pairs"][cell["pair"]][0]
        text = (self.built / "answers" / f"{old}.{cell['app']}.jsonl").read_text(encoding="utf-8")
        records = [json.loads(line) for line in text.split("\n") if line]
        split = len(records) * TAUGHT // (TAUGHT + HELD)
        held = [each for each in records[split:] if each["completion"].strip()]
        used = [each for each in records[:split] if each["completion"].strip()]
        used = used[: cell["examples"]]
        rows, held_rows = self.learner.encoded(used), self.learner.encoded(held)
        return self._tuned(cell, lambda seed: rows, held_rows)

    def _chosen_gain(
        self, cell: Cell, start: gauge.Start, rows: Sequence[Row], seed: int
    ) -> gauge.Start:
        """A start whose `auto` is replaced by the gains with the least nats on the small set."""
        tried = {key: AUTO[key] for key in AUTO if start.keys.get(key) == "auto"}
        if "g" in tried:
            tried["g"] = self.bench["gains"]
        if not tried:
            return start
        rows = rows[:SMALL]
        choices = [dict(zip(tried, values, strict=True)) for values in product(*tried.values())]
        nats = [self._told(cell, start.at(**each), rows, seed) for each in choices]
        return start.at(**choices[int(np.argmin(nats))])

    def _told(self, cell: Cell, start: gauge.Start, rows: Sequence[Row], seed: int) -> float:
        """Mean nats of `rows` with a start; infinite where they are not finite."""
        self.place(cell, start, seed)
        nats = float(np.mean(self.learner.nats(rows)))
        return nats if np.isfinite(nats) else float("inf")

    def _gain(self, cell: Cell) -> dict[str, Any]:
        """Nats of the small set and of held-out records by the update's gain."""
        app, start, seed = cell["app"], gauge.parse(cell["start"]), self.bench["light"]["seeds"][0]
        train = self.records(app, "train")
        rows = {
            "small": self.drawn(app, min(SMALL, len(train)), seed),
            "held": self.rows(app, "held"),
        }
        curve: dict[str, Any] = {}
        for gain in self.bench["gains"]:
            tried = start.at(g=gain, qkv=1.0)
            curve[str(gain)] = {
                part: self._told(cell, tried, each, seed) for part, each in rows.items()
            }
        return {"gains": curve}
