"""Where a light fine-tuning begins: from nothing or from the carried update, whichever ends better.

How likely the answers are before training says little about where a training ends (a start that
destroys the model may learn fast, one that helps may learn slowly). So each start is trained as the
fine-tuning will be, on all parts of the small set but one, and asked for the part left out.

A further start may be taught on the small set itself (`upgrade.taught_start`). Its teaching learns
nothing of the first part, and that part alone decides whether it takes the others' place.
"""

import gc
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..adapters.attach import attach, detach, save_adapter
from ..artifacts import write_json
from ..errors import LoraportError
from ..runtime.memory import let_go, ran_out
from ..training.data import Example, fingerprint, subset
from ..training.settings import Settings
from ..training.starts import Fresh, begin
from ..training.train import load_for, make_deterministic, train_lora
from ..training.trainer import Diverged
from .folds import FOLDS
from .gain import is_ahead, mean_and_error
from .likelihood import answer_losses

log = logging.getLogger("loraport")
NOTHING, TAUGHT = "nothing", "taught"
LEAST_HELD = 2  # answers that a taught start is compared on: one has no standard error
Begin = Fresh | Path
Load = Callable[[], tuple[Any, Any]]  # gives the bare base and its tokenizer
# (the base where it is wanted, examples to learn, examples held back, folder to make) -> its report
Teach = Callable[[Load, Sequence[Example], Sequence[Example], Path], dict[str, Any]]


@dataclass(frozen=True)
class Start:
    """What was chosen, and on what.

    Attributes
    ----------
    start : `nothing`, the name of a carried start, or `taught`
    nats : start -> mean negative log-likelihood of an answer that it was not trained on
    improvement : nats an answer of the best carried start over nothing
    standard_error : of the improvement
    examples : answers of the small set
    answers : start -> how many of them its nats are of
    taught : of a start that was taught, the comparison (`choose_taught`) and what its teaching
        reports; why there is none, in `left_out`; None where none was asked for
    """

    start: str
    nats: dict[str, float]
    improvement: float
    standard_error: float
    examples: int
    answers: dict[str, int]
    taught: dict[str, Any] | None = None


def choose(losses: Mapping[str, np.ndarray]) -> Start:
    """The carried start with the least loss where it is ahead of nothing, else nothing.

    Parameters
    ----------
    losses : start -> (n,) nats of each answer after a training that left it out; `nothing` is one.
        A start whose losses are not finite is left out

    Raises
    ------
    LoraportError
        If the losses from nothing are not finite.
    """
    bare = losses[NOTHING]
    if not np.isfinite(bare).all():
        raise LoraportError(
            "a training from nothing ends in NaN or Inf",
            got="no likelihood of the answers left out",
            expected="finite log-likelihoods",
            todo="lower `learning_rate` under `finetune`, or set `finetune.start` to carried",
        )
    finite = {name: each for name, each in losses.items() if np.isfinite(each).all()}
    nats = {name: float(each.mean()) for name, each in finite.items()}
    count = len(bare)
    answers = dict.fromkeys(finite, count)
    carried = {name: value for name, value in nats.items() if name != NOTHING}
    if not carried:
        return Start(NOTHING, nats, 0.0, 0.0, count, answers)
    best = min(carried, key=carried.__getitem__)
    mean, error = mean_and_error(bare - finite[best])
    chosen = best if is_ahead(mean, error) else NOTHING
    return Start(chosen, nats, mean, error, count, answers)


def choose_taught(
    first: Start, losses: Mapping[str, np.ndarray], taught: np.ndarray, held: np.ndarray
) -> Start:
    """The taught start where it is ahead of the best other one on what it was not taught.

    Parameters
    ----------
    first : the choice among the others
    losses : other start -> (n,), as `choose` takes them
    taught : (k,) nats of the held-back answers after a training from the taught start without them
    held : (n,) booleans, k of them true: which answers these are

    Returns
    -------
    The choice. Its `taught` has `over` (the other start with the least nats on those k answers),
    `nats` of all starts on them, the `improvement` an answer over that start, paired, and its
    `standard_error`; a taught start whose losses are not finite is `left_out`.
    """
    if not np.isfinite(taught).all():
        return replace(first, taught={"left_out": "a training from it ends in NaN or Inf"})
    asked = {name: losses[name][held] for name in first.nats}
    nats = {name: float(each.mean()) for name, each in asked.items()}
    over = min(nats, key=nats.__getitem__)
    mean, error = mean_and_error(asked[over] - taught)
    own = float(taught.mean())
    told = {"over": over, "nats": {**nats, TAUGHT: own}, "improvement": mean}
    log.info("taught: %.3g nats an answer ahead of %s, standard error %.2g", mean, over, error)
    return replace(
        first,
        start=TAUGHT if is_ahead(mean, error) else first.start,
        nats={**first.nats, TAUGHT: own},
        answers={**first.answers, TAUGHT: len(taught)},
        taught={**told, "standard_error": error},
    )


def parts(count: int) -> np.ndarray:
    """Which part each of `count` examples of a small set is in, (count,)."""
    return np.arange(count) % min(FOLDS, max(count, 1))


def trained_losses(
    model_dir: str | Path,
    loaded: tuple[Any, Any],
    start: Begin,
    examples: Sequence[Example],
    settings: Settings,
    folder: Path,
    done: Callable[[], Any] = lambda: None,
    only: int | None = None,
) -> np.ndarray:
    """Nats of each example after a training from `start` on the parts that do not hold it, (n,).

    Parameters
    ----------
    loaded : the bare base of `model_dir`, and its tokenizer; it is bare again at the end
    settings : of the fine-tuning; its small set is `examples`
    folder : for the trained adapters, which are deleted
    done : called after each training
    only : the one part that is asked; the nats of the others are then infinite

    Notes
    -----
    `FOLDS` trainings, each of (FOLDS - 1) / FOLDS of the fine-tuning's steps; one for `only`.
    """
    part = parts(len(examples))
    losses = np.full(len(examples), np.inf)
    shorter = replace(settings, examples=0)
    for fold in range(int(part.max()) + 1) if only is None else (only,):
        out = part == fold
        rest = [each for each, left in zip(examples, out, strict=True) if not left]
        asked = [each for each, left in zip(examples, out, strict=True) if left]
        with TemporaryDirectory(dir=folder) as place:
            adapter = Path(place) / "trained"
            try:
                train_lora(model_dir, rest, adapter, start=start, settings=shorter, loaded=loaded)
            except Diverged:  # this start is none
                return losses
            at_once = settings.micro_batch or settings.batch_size
            adapted = attach(loaded[0], adapter).eval()
            losses[out] = answer_losses(adapted, loaded[1], asked, settings.cutoff, at_once)
            detach(adapted)
        done()
    return losses


def choose_start(
    model_dir: str | Path,
    data: Sequence[Example],
    starts: Mapping[str, Begin],
    settings: Settings,
    out: Path,
    inputs: Mapping[str, str],
    base_name: str | None = None,
    done: Callable[[], Any] = lambda: None,
    teach: Teach | None = None,
) -> Start:
    """Choose a start on the small set, and write it as a PEFT directory with `start.json`.

    Parameters
    ----------
    starts : name -> a start; `nothing` is one
    out : an empty folder to write into
    teach : makes one more start, from all of the small set but its first part
    """
    examples = subset(data, settings.examples, settings.subset_seed)
    load = cache(lambda: load_for(model_dir, settings))
    with TemporaryDirectory(dir=out.parent) as place:
        taught, told = Path(place) / TAUGHT, None
        if teach is not None:
            told = _teach(teach, load, examples, taught)
            if not taught.is_dir():  # a teaching that failed may have left something in the base
                load.cache_clear()
                gc.collect()
                let_go()
        loaded = load()
        ask = partial(
            trained_losses,
            model_dir,
            loaded,
            examples=examples,
            settings=settings,
            folder=out.parent,
            done=done,
        )
        if len(examples) < 2:
            losses = {NOTHING: np.zeros(len(examples))}
        else:
            losses = {name: ask(start) for name, start in starts.items()}
        chosen = replace(choose(losses), taught=told)
        if taught.is_dir():
            held = parts(len(examples)) == 0
            chosen = choose_taught(chosen, losses, ask(taught, only=0)[held], held)
            chosen = replace(chosen, taught={**(chosen.taught or {}), "lesson": told})
        make_deterministic(settings.seed)
        start = {**starts, TAUGHT: taught}[chosen.start]
        adapted = begin(loaded[0], start, settings.new_layers, steps=1)
        save_adapter(adapted, out, base_name)
    content = {**asdict(chosen), "data_sha256": fingerprint(examples)}
    write_json(out / "start.json", "start", inputs, content)
    return chosen


def _teach(teach: Teach, load: Load, examples: Sequence[Example], out: Path) -> dict[str, Any]:
    """What a teaching reports that makes the folder `out`, or why there is no such folder.

    A teaching holds a second model, so that memory may run out which suffices for a training.
    """
    held = parts(len(examples)) == 0
    if min(held.sum(), (~held).sum()) < LEAST_HELD:
        log.warning("no start is taught: %d examples are too few to hold some back", len(examples))
        return {"left_out": "the small set is too small to hold some back"}
    learned, kept = (
        [each for each, one in zip(examples, which, strict=True) if one] for which in (~held, held)
    )
    try:
        return teach(load, learned, kept, out)
    except LoraportError as error:
        log.warning("no start is taught: %s", error)
        why = error.what
    except Exception as error:
        if not ran_out(error):
            raise
        why = "memory ran out"
        log.warning("no start is taught: %s", why)
    shutil.rmtree(out, ignore_errors=True)
    return {"left_out": why}
