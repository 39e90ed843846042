"""Upgrades as cells of the benchmark, by the code of `loraport upgrade`; and planted failures.

A cell of the stage `upgraded` takes LoRA(full) of the old model to the new one: `given` prompts, of
which `labels` have a gold answer, drawn by the seed; more are written where they are fewer than the
bench's `prompts`; the test's items have gold answers. Scores are by the benchmark's own rules. A
cell of the stage `lessons` teaches a start of a light fine-tuning on its small set but for a third,
as `finetune.start: taught` does. A cell of the stage `planted` asks for a verdict on adapters of
the new model that are known to be good or bad. A cell of `certainty` asks which teacher is taken
without labels, and how often the two are right, on held-out prompts and on some that the old
adapter was trained on.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from loraport.artifacts import ADAPTER_FILES, atomic
from loraport.errors import LoraportError
from loraport.evaluation import verdict as verdicts
from loraport.evaluation.matching import scores
from loraport.evaluation.start import FOLDS
from loraport.training.data import Example, subset
from loraport.upgrade import teach as lessons
from loraport.upgrade import teachers
from loraport.upgrade.base import Base, Limits
from loraport.upgrade.choice import READ, by_certainty
from loraport.upgrade.learn import learn
from loraport.upgrade.more_prompts import ENOUGH as SHOWN
from loraport.upgrade.parts import Parts, Settings
from loraport.upgrade.prompts import Record
from loraport.upgrade.taught_start import MEANT_FOR
from loraport.upgrade.upgrade import upgrade
from loraport.upgrade.verify import judge, old_answers, verify

from . import sets
from .scoring import RULES

Cell = dict[str, Any]
NOTHING = "nothing"
STAGES = ("upgraded", "planted", "lessons", "certainty")
CERTAIN = 96  # prompts on which a cell of `certainty` asks
SETTINGS = ("prompts", "tested")  # that a block of upgrades may have, see upgrades.yaml
CONFIG, WEIGHTS = ADAPTER_FILES
AS_IT_IS, OTHER_TEMPLATE = "{}", "### Instruction:\n{}\n\n### Response:\n"


def cells(bench: Mapping[str, Any], stage: str, given: Any) -> list[Cell]:
    """All cells of a stage, the most wanted first; `given` may name pairs and apps."""
    pairs, apps = given.pairs or list(bench["pairs"]), given.apps or list(bench["apps"])
    if stage in ("planted", "certainty"):
        return [
            {"stage": stage, "pair": pair, "app": app}
            for pair, app in product(pairs, apps)
            if _wanted(bench, pair, app)
        ]
    if stage == "lessons":
        sizes = [count for count in given.examples if count]
        seeds, prompts = bench["light"]["seeds"], given.prompts or [lesson(bench)]
        names = ("stage", "seed", "examples", "prompts", "pair", "app")
        axes = product([stage], seeds, sizes, prompts, pairs, apps)
        every = [dict(zip(names, each, strict=True)) for each in axes]
        return [cell for cell in every if _wanted(bench, cell["pair"], cell["app"])]
    every: list[Cell] = []
    for block in bench["upgrades"]:
        prompts = block.get("given", [bench["prompts"]])
        axes = product(
            block["seeds"],
            prompts,
            block["labels"],
            block["teachers"],
            block.get("pairs", pairs),
            block.get("apps", apps),
            block["starts"],
        )
        for seed, count, labels, teacher, pair, app, start in axes:
            names = {"pair": pair, "app": app, "start": start, "teacher": teacher}
            also = {name: block[name] for name in SETTINGS if name in block}
            cell = {"stage": stage, **names, "given": count, "labels": labels, "seed": seed, **also}
            if pair in pairs and app in apps and _wanted(bench, pair, app) and cell not in every:
                every.append(cell)
    return every


def lesson(bench: Mapping[str, Any]) -> int:
    """Prompts of a lesson and taught ones of an upgrade, given and written, unless others are asked
    for.
    """
    return bench["prompts"] * 4 // 5


def _wanted(bench: Mapping[str, Any], pair: str, app: str) -> bool:
    return app in bench.get("only", {}).get(pair, bench["apps"])


class Noted(Base):
    """A base model that keeps what it wrote last to each list of prompts.

    Attributes
    ----------
    template : that each prompt is put into
    """

    def __init__(self, *given: Any):
        super().__init__(*given)
        self.template = AS_IT_IS
        self.kept: dict[tuple[Any, ...], list[str]] = {}

    def texts(self, prompts: Sequence[Any]) -> list[str]:
        return [self.template.replace("{}", text) for text in super().texts(prompts)]

    def write(self, prompts: Sequence[Any], **how: Any) -> Any:
        answers = super().write(prompts, **how)
        self.kept[tuple(prompts)] = [each.text for each in answers]
        return answers


class Upgrades:
    """Runs cells one after another; keeps the last pair's two models."""

    def __init__(self, bench: Mapping[str, Any]):
        self.bench = bench
        self.built = Path(bench["built"])
        self.pair = ""
        self.old: Any = None
        self.new: Any = None

    def run(self, cell: Cell) -> dict[str, Any]:
        """What a cell gives."""
        begun = time.monotonic()
        self._load(cell["pair"])
        tokens = self.bench["apps"][cell["app"]]["tokens"]
        for base in (self.old, self.new):
            base.limits = Limits(new_tokens=tokens, batch_size=self.bench["at_once"]["answers"])
            base.kept = {}
            base.template = AS_IT_IS
        forget_gpu_peak()
        loaded = time.monotonic()
        result = getattr(self, f"_{cell['stage']}")(cell)
        seconds = {"load": loaded - begun, "run": time.monotonic() - loaded}
        result["seconds"] = {name: round(value, 1) for name, value in seconds.items()}
        return result | {"gpu_gib": gpu_gib()}

    def _load(self, pair: str) -> None:
        if pair != self.pair:
            self.old = self.new = None
            names = self.bench["pairs"][pair]
            self.old, self.new = (Noted.load(self.bench["models"][name]) for name in names)
            self.pair = pair

    def _records(self, app: str, part: str) -> list[dict[str, Any]]:
        return sets.load(self.built / "sets", app, part, self.bench["items"])

    def drawn(self, app: str, count: int, labels: int, seed: int) -> list[Record]:
        """`count` prompts of an upgrade; the first `labels` are a small set, with their answers."""
        pairs = [Example(r["prompt"], r["completion"]) for r in self._records(app, "train")]
        first = subset(pairs, labels, seed) if labels else []
        taken = {each.prompt for each in first}
        rest = [e for e in subset(pairs, min(2 * count, len(pairs)), seed) if e.prompt not in taken]
        records = [Record(each.prompt, each.completion) for each in first]
        return records + [Record(each.prompt) for each in rest[: count - len(records)]]

    def test(self, app: str) -> list[Record]:
        """The items of the verdict, with gold answers."""
        return [Record(row["prompt"], row["answer"]) for row in self._records(app, "test")]

    def tested(self, app: str) -> list[Record]:
        """Items behind those of the verdict, as far as there are some, to choose a teacher on."""
        items = self.bench["items"]
        rows = sets.load(self.built / "sets", app, "test", 0)[items : items + READ] if items else []
        return [Record(row["prompt"], row["answer"]) for row in rows]

    def adapter(self, side: int, pair: str, app: str) -> Path:
        """LoRA(full) of the old (0) or new (1) model."""
        return self.built / "adapters" / self.bench["pairs"][pair][side] / app

    def settings(self, cell: Cell) -> Settings:
        """As `loraport upgrade` has them without options, but for the comparison of answers."""
        match = self.bench["apps"][cell["app"]]["match"]
        more = {"trial": 1, "epochs": 1} if self.bench["steps"] else {}
        if cell["stage"] == "lessons":
            more["meant_for"] = MEANT_FOR
        return Settings(
            teacher=cell["teacher"],
            prompts=cell["given"],
            at_least=cell.get("prompts", lesson(self.bench)),
            seed=cell["seed"],
            writing=teachers.Settings(seed=cell["seed"]),
            teaching=lessons.Settings(
                match=match,
                micro_batch=self.bench["at_once"]["targets"],
                seed=cell["seed"],
                **more,
            ),
            verdict=verdicts.Settings(match=match),
        )

    def _scored(self, app: str, written: Sequence[str]) -> dict[str, Any]:
        items, rule = self._records(app, "test"), RULES[self.bench["apps"][app]["score"]]
        right = [rule(text, item) for text, item in zip(written, items, strict=True)]
        return {"score": float(np.mean(right)), "right": "".join(map(str, right))}

    def _upgraded(self, cell: Cell) -> dict[str, Any]:
        pair, app, start = cell["pair"], cell["app"], cell["start"]
        place = Path(self.bench["carried"]) / pair / app / start / "lora_transferred"
        if start != NOTHING and not place.is_dir():
            raise FileNotFoundError(place)
        carried = {} if start == NOTHING else {start: place}
        records = self.drawn(app, cell["given"], cell["labels"], cell["seed"])
        with tempfile.TemporaryDirectory() as folder:
            done = upgrade(
                self.old,
                self.new,
                self.adapter(0, pair, app),
                carried,
                records,
                Path(folder) / "out",
                self.settings(cell),
                test=self.test(app),
                tested=self.tested(app) if cell.get("tested", True) else (),
            )
        scores = {side: self._scored(app, written) for side, written in done.answers.items()}
        told = {key: done.report[key] for key in ("choice", "start", "prompts")}
        teaching = {
            "best": done.report["taught"]["best"],
            "epochs": len(done.report["taught"]["epochs"]),
        }
        verdict = {"verdict": done.verdict.verdict, "why": done.verdict.why}
        return {"scores": scores, "report": told, "taught": teaching, **verdict}

    def _lessons(self, cell: Cell) -> dict[str, Any]:
        """A start that is taught on a small set's prompts, and on more that a model writes.

        Every `FOLDS`th record is held back; the others keep their answers.
        """
        pair, app, count, seed = (cell[key] for key in ("pair", "app", "examples", "seed"))
        pairs = [Example(r["prompt"], r["completion"]) for r in self._records(app, "train")]
        small = [Record(each.prompt, each.completion) for each in subset(pairs, count, seed)]
        held, kept = small[::FOLDS], [each for n, each in enumerate(small) if n % FOLDS]
        settings = self.settings({**cell, "teacher": "auto", "given": count})
        base = self.bench["models"][self.bench["pairs"][pair][1]]
        place = taught_place(self.built, pair, app, count, cell["prompts"], seed)
        with atomic(place) as temporary:
            done = learn(
                self.old,
                self.new,
                self.adapter(0, pair, app),
                {},
                Parts(kept, held, []),
                temporary,
                settings,
                base_name=base,
            )
        told = {key: done.report[key] for key in ("choice", "start", "prompts")}
        teaching = done.report["taught"]
        return {"report": told, "best": teaching["best"], "epochs": len(teaching["epochs"])}

    def _certainty(self, cell: Cell) -> dict[str, Any]:
        """What `choice.by_certainty` takes, and how often the two teachers are right."""
        pair, app = cell["pair"], cell["app"]
        match = self.bench["apps"][app]["match"]
        sample = [record.prompt for record in self.drawn(app, SHOWN, 0, 0)]
        parts = {"held": self._records(app, "held"), "trained": self._records(app, "train")[::-1]}
        told: dict[str, Any] = {}
        with self.old.wearing(self.adapter(0, pair, app)):
            room = teachers.Classroom(self.old, self.new, teachers.Settings())
            said = zip(sample, room.said(sample), strict=True)
            room.shown = [(prompt, answer.text) for prompt, answer in said if answer.whole]
            for part, records in parts.items():
                prompts = [row["prompt"] for row in records[:CERTAIN]]
                golds = [row["completion"] for row in records[:CERTAIN]]
                told[part] = by_certainty(room, prompts, match).told()
                for name in ("old", "context"):
                    answers = [t.answer for t in teachers.teacher(name).targets(room, prompts)]
                    told[part][name] = float(np.mean(scores(match, answers, golds)))
        return told

    def _planted(self, cell: Cell) -> dict[str, Any]:
        """Verdicts on LoRA(full) of the new model and on bad ones, with labels and without."""
        pair, app = cell["pair"], cell["app"]
        judging = verdicts.Settings(match=self.bench["apps"][app]["match"])
        test = self.test(app)
        unlabelled = [Record(record.prompt) for record in test]
        before = old_answers(self.old, self.adapter(0, pair, app), unlabelled)
        prompts = tuple(record.prompt for record in test)
        told: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as folder:
            for name, adapter in self._bad(pair, app, Path(folder)).items():
                self.new.kept.clear()
                self.new.template = OTHER_TEMPLATE if name == "another template" else AS_IT_IS
                judged = _word(
                    lambda path=adapter: verify(self.new, path, before, test, (), judging)[0]
                )
                written = self.new.kept[prompts]  # a verdict lets the adapted model write last
                agreed = _word(lambda said=written: judge(before, said, unlabelled, judging))
                told[name] = {"labels": judged, "agreement": agreed, **self._scored(app, written)}
        self.new.template = AS_IT_IS
        old = {"old_bare": before.bare, "old": before.adapted}
        return {"adapters": told} | {name: self._scored(app, said) for name, said in old.items()}

    def _bad(self, pair: str, app: str, folder: Path) -> dict[str, Path]:
        """LoRA(full) of the new model, what is made of it, and what is asked otherwise."""
        good = self.adapter(1, pair, app)
        others = [name for name in self.bench["apps"] if name != app]
        other = next(path for name in others if (path := self.adapter(1, pair, name)).is_dir())
        changes: dict[str, Callable[[str, torch.Tensor], torch.Tensor]] = {
            "zero": lambda name, values: 0 * values,
            "half of the layers": lambda name, values: values * (_layer(name) % 2),
            "half of the strength": lambda name, values: values / 2,
        }
        made = {"good": good, "another task": other, "another template": good}
        for name, change in changes.items():
            made[name] = folder / name
            made[name].mkdir()
            shutil.copy(good / CONFIG, made[name])
            weights = load_file(good / WEIGHTS)
            changed = {n: change(n, v) if "lora_B" in n else v for n, v in weights.items()}
            save_file(changed, made[name] / WEIGHTS, {"format": "pt"})
        return made


def forget_gpu_peak() -> None:
    """Let `gpu_gib` count from here on."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def gpu_gib() -> float:
    """The most that torch allocated of the GPU since `forget_gpu_peak`, GiB; 0 without one."""
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return round(peak / 2**30, 2)


def taught_place(built: Path, pair: str, app: str, *counts: int) -> Path:
    """Folder of the start that a cell of `lessons` teaches.

    counts : examples, prompts and seed
    """
    return built / "taught" / pair / app / ".".join(map(str, counts))


def _layer(name: str) -> int:
    """The layer of a tensor's name."""
    return int(name.partition(".layers.")[2].partition(".")[0])


def _word(work: Callable[[], verdicts.Verdict]) -> str:
    """A verdict's word; `refused` and why, where the yardstick does not measure."""
    try:
        return work().verdict
    except LoraportError as error:
        return f"refused: {error}"
