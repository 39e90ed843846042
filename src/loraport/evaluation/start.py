"""Where a light fine-tuning begins: from nothing or from the carried update, whichever ends better.

How likely the answers are before training says little about where a training ends (a start that
destroys the model may learn fast, one that helps may learn slowly). So each start is trained as the
fine-tuning will be, on all parts of the small set but one, and asked for the part left out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..adapters.attach import attach, detach, save_adapter
from ..artifacts import write_json
from ..errors import LoraportError
from ..training.data import Example, fingerprint, subset
from ..training.starts import Fresh, begin
from ..training.train import Diverged, Settings, load_for, make_deterministic, train_lora
from .gain import CERTAINTY, mean_and_error
from .likelihood import answer_losses

NOTHING = "nothing"
FOLDS = 3
Begin = Fresh | Path


@dataclass(frozen=True)
class Start:
    """What was chosen, and on what.

    Attributes
    ----------
    start : `nothing`, or the name of a carried start
    nats : start -> mean negative log-likelihood of an answer that it was not trained on
    improvement : nats an answer of the best carried start over nothing
    standard_error : of the improvement
    examples : answers that were read
    """

    start: str
    nats: dict[str, float]
    improvement: float
    standard_error: float
    examples: int


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
    carried = {name: value for name, value in nats.items() if name != NOTHING}
    if not carried:
        return Start(NOTHING, nats, 0.0, 0.0, len(bare))
    best = min(carried, key=carried.__getitem__)
    mean, error = mean_and_error(bare - finite[best])
    chosen = best if mean > 0 and mean > CERTAINTY * error else NOTHING
    return Start(chosen, nats, mean, error, len(bare))


def trained_losses(
    model_dir: str | Path,
    loaded: tuple[Any, Any],
    start: Begin,
    examples: Sequence[Example],
    settings: Settings,
    folder: Path,
    done: Callable[[], Any] = lambda: None,
) -> np.ndarray:
    """Nats of each example after a training from `start` on the parts that do not hold it, (n,).

    Parameters
    ----------
    loaded : the bare base of `model_dir`, and its tokenizer; it is bare again at the end
    settings : of the fine-tuning; its small set is `examples`
    folder : for the trained adapters, which are deleted
    done : called after each training

    Notes
    -----
    `FOLDS` trainings, each of (FOLDS - 1) / FOLDS of the fine-tuning's steps.
    """
    part = np.arange(len(examples)) % min(FOLDS, len(examples))
    losses = np.full(len(examples), np.inf)
    shorter = replace(settings, examples=0)
    for fold in range(int(part.max()) + 1):
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
) -> Start:
    """Choose a start on the small set, and write it as a PEFT directory with `start.json`.

    Parameters
    ----------
    starts : name -> a start; `nothing` is one
    out : an empty folder to write into
    """
    examples = subset(data, settings.examples, settings.subset_seed)
    loaded = load_for(model_dir, settings)
    if len(examples) < 2:
        losses = {NOTHING: np.zeros(len(examples))}
    else:
        losses = {
            name: trained_losses(model_dir, loaded, start, examples, settings, out.parent, done)
            for name, start in starts.items()
        }
    chosen = choose(losses)
    make_deterministic(settings.seed)
    adapted = begin(loaded[0], starts[chosen.start], settings.new_layers, steps=1)
    save_adapter(adapted, out, base_name)
    content = {**asdict(chosen), "data_sha256": fingerprint(examples)}
    write_json(out / "start.json", "start", inputs, content)
    return chosen
