"""What a teaching starts from: a carried adapter at its best gain, the old one, or nothing.

Each candidate is multiplied by the gain under which the new model finds held-back answers most
likely (`evaluation.gain`), and the candidate that gains most over nothing is taken. Nothing is
taken where none pays, so that a start does no harm beyond chance.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..adapters.attach import attach, detach
from ..errors import LoraportError
from ..evaluation.gain import GAINS, Gain, measure, row_norms
from ..training.data import Example
from ..training.starts import Fresh, begin, fresh_like
from .base import Base
from .teachers import Target

NOTHING = "nothing"
AS_IT_IS = "simplecopy"


@dataclass(frozen=True)
class Start:
    """What was chosen.

    Attributes
    ----------
    name : of the candidate, or `nothing`
    directory : of its adapter; None for nothing
    gain : that its update is multiplied by
    tried : candidate -> its gain, curve and improvement
    """

    name: str
    directory: Path | None
    gain: float
    tried: dict[str, Gain]

    def told(self) -> dict[str, Any]:
        """As reports record it."""
        curves = {
            name: {**asdict(gain), "curve": {str(g): nats for g, nats in gain.curve.items()}}
            for name, gain in self.tried.items()
        }
        return {"start": self.name, "gain": self.gain, "tried": curves}


def fitting(new: Base, carried: Mapping[str, Path], old_adapter: Path) -> dict[str, Path]:
    """Candidates that fit the new model: those carried, and the old adapter where it fits as is."""
    every = {**carried, AS_IT_IS: old_adapter}
    fit: dict[str, Path] = {}
    for name, directory in every.items():
        if name == AS_IT_IS:
            with contextlib.suppress(LoraportError), new.wearing(directory):
                fit[name] = directory
        else:
            fit[name] = directory
    return fit


def choose_start(new: Base, candidates: Mapping[str, Path], held: Sequence[Target]) -> Start:
    """The candidate and its gain by the likelihood of held-back answers."""
    examples = [
        Example(text, target.answer)
        for text, target in zip(new.texts([each.prompt for each in held]), held, strict=True)
    ]
    most = new.limits.max_tokens + new.limits.new_tokens
    tried: dict[str, Gain] = {}
    for name, directory in candidates.items():
        with new.wearing(directory) as model:
            measured = partial(_gain, model, new.tokenizer, examples, most)
            tried[name] = new.fitted(measured)
    paying = {name: gain for name, gain in tried.items() if gain.gain > 0}
    if not paying:
        return Start(NOTHING, None, 0.0, tried)
    best = min(paying, key=lambda name: min(paying[name].curve.values()))
    return Start(best, candidates[best], paying[best].gain, tried)


def _gain(model: Any, tokenizer: Any, examples: list[Example], most: int, size: int) -> Gain:
    return measure(model, tokenizer, examples, most, size, GAINS, least=0.0)  # taught from here on


def started(new: Base, start: Start, like: Fresh | Path, steps: int) -> Any:
    """The new model with the adapter that is taught from here on: trainable, at the start's gain.

    Parameters
    ----------
    like : adapter of the new model whose shape a fresh one gets, where the start is nothing
    """
    if start.directory is None:
        fresh = like if isinstance(like, Fresh) else fresh_like(like)
        return begin(new.model, fresh, "init", steps)
    norms = {}
    if start.gain != 1:
        probe = attach(new.model, start.directory)
        norms = row_norms(probe)
        new.model = detach(probe)
    adapted = begin(new.model, start.directory, "init", steps)
    multiply(adapted, start.gain, norms)
    return adapted


@torch.no_grad()
def multiply(model: Any, gain: float, base_magnitudes: Mapping[str, torch.Tensor]) -> None:
    """Multiply the update of every module by a gain, in its weights.

    Parameters
    ----------
    base_magnitudes : DoRA module -> row norms of its base weight, its magnitudes at a gain of zero
    """
    if gain == 1:
        return
    for name, module in model.named_modules():
        if not isinstance(getattr(module, "scaling", None), dict):
            continue
        held = next(
            (
                getattr(module, kind)["default"]
                for kind in ("lora_E", "lora_B", "lora_embedding_B")
                if "default" in getattr(module, kind, {})
            ),
            None,
        )
        if held is not None:
            getattr(held, "weight", held).mul_(gain)
        if name in base_magnitudes:
            vector = module.lora_magnitude_vector["default"].weight
            at_zero = base_magnitudes[name].to(vector)
            vector.copy_(at_zero + gain * (vector - at_zero))
