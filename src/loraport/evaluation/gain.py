"""How much of a carried update helps: the gain that a held-back text likes best.

The update is multiplied by each gain g of a grid, zero among them, and the model with it is asked
how likely it finds answers that no map was fitted on: a task's own answers, or those that the old
model with its adapter wrote. A gain is taken only where it pays on answers that it was not chosen
on, and pays well; else it is zero, so that a carried adapter is not worse than none beyond chance.
On real pairs of models a carried update that took 5 to 25 % off the bare model's nats changed the
score by -6 to +9 points, either way (benchmarks/results/real.md): a little likelihood says nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..adapters.attach import attach
from ..adapters.streamed import attach_streamed
from ..artifacts import write_json
from ..calibration.batches import Batch
from ..calibration.walk import Walk
from ..errors import LoraportError
from ..models.blocks import Streamed
from ..models.loading import load_base
from ..models.spec import Model
from ..models.streaming import is_streamed
from ..runtime.job import progress as progress_bar
from ..training.data import Example, read, subset
from ..training.losses import needed_logits
from .likelihood import answer_losses, batches_of

GAINS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
EXAMPLES = 50  # answers that a gain is chosen on, at most
FOLDS = 5
LEAST = 1 / 3  # of the bare model's nats, that a gain has to take off
CERTAINTY = 1.0  # standard errors that the improvement over no update has to be above zero


@dataclass(frozen=True)
class Gain:
    """What was chosen, and on what.

    Attributes
    ----------
    gain : that the update is multiplied by
    curve : gain -> mean negative log-likelihood of an answer, in nats
    improvement : nats an answer over no update, of gains chosen without that answer
    standard_error : of the improvement
    examples : answers that were read
    """

    gain: float
    curve: dict[float, float]
    improvement: float
    standard_error: float
    examples: int


def choose(gains: Sequence[float], losses: np.ndarray, least: float = LEAST) -> Gain:
    """The gain with the least loss, or zero where that does not pay on answers left out.

    Parameters
    ----------
    gains : (g,), zero among them
    losses : (g, n) nats of each answer under each gain
    least : share of the nats under no update that a gain has to take off; 0 where the update is a
        start of a training, and not served as it is

    Returns
    -------
    The choice. By cross-validation: for each of `FOLDS` parts of the answers, the gain that is
    best on the others is held against none on the part; the mean improvement must be more than
    `CERTAINTY` standard errors above zero, and at least `least` of the nats under no update.

    Raises
    ------
    LoraportError
        If the losses under no update are not finite; a gain whose losses are not is left out.
    """
    finite = np.isfinite(losses).all(axis=1)
    zero = list(gains).index(0.0)
    if not finite[zero]:
        raise LoraportError(
            "the new model gives no likelihood of the answers that the gain is chosen on",
            got="NaN or Inf without any update",
            expected="finite log-likelihoods",
            todo="check the new model's weights, or give the gain as a number (transfer.gain)",
        )
    held = np.where(finite[:, None], losses, np.inf)
    count = losses.shape[1]
    part = np.arange(count) % min(FOLDS, count)
    better = np.zeros(count)
    for fold in range(int(part.max()) + 1):
        out = part == fold
        rest = held[:, ~out] if count > 1 else held
        best = int(rest.mean(axis=1).argmin())
        better[out] = losses[zero, out] - held[best, out]
    mean, error = mean_and_error(better)
    best = int(held.mean(axis=1).argmin())
    pays = is_ahead(mean, error) and mean >= least * losses[zero].mean()
    gain = float(gains[best]) if pays else 0.0
    curve = {
        float(g): float(row.mean())
        for g, row, there in zip(gains, losses, finite, strict=True)
        if there
    }
    return Gain(gain, curve, mean, error, count)


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean of `values (n,)` and its standard error; 0 for that of a single value."""
    count = len(values)
    error = float(values.std(ddof=1) / np.sqrt(count)) if count > 1 else 0.0
    return float(values.mean()), error


def is_ahead(mean: float, error: float) -> bool:
    """Whether a mean improvement is above zero by more than `CERTAINTY` standard errors."""
    return mean > 0 and mean > CERTAINTY * error


@contextmanager
def gained(model: Any, base_magnitudes: Mapping[str, torch.Tensor]) -> Any:
    """Give a function that sets the gain of every update of a PEFT model; undone at the end.

    Parameters
    ----------
    base_magnitudes : DoRA module -> row norms of its base weight, its magnitudes at a gain of zero;
        a module that is not in it keeps its own. What is added later counts from then on
    """
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(getattr(module, "scaling", None), dict)  # attention has a number of that name
    ]
    scaling = {name: dict(module.scaling) for name, module in layers}
    vectors = {
        name: module.lora_magnitude_vector["default"].weight.detach().clone()
        for name, module in layers
        if "default" in getattr(module, "lora_magnitude_vector", {})
    }

    def set_gain(gain: float) -> None:
        """Scale every update to `gain` times what it was; DoRA's magnitudes move with it."""
        for name, module in layers:
            for adapter, scale in scaling[name].items():
                module.scaling[adapter] = gain * scale
            if name in vectors and name in base_magnitudes:
                at_zero = base_magnitudes[name].to(vectors[name])
                weight = module.lora_magnitude_vector["default"].weight
                weight.data = at_zero + gain * (vectors[name] - at_zero)

    try:
        yield set_gain
    finally:
        set_gain(1.0)
        for name, module in layers:  # to the bit, which a sum at a gain of 1 is not
            if name in vectors and name in base_magnitudes:
                module.lora_magnitude_vector["default"].weight.data = vectors[name]


def row_norms(model: Any) -> dict[str, torch.Tensor]:
    """DoRA module -> ‖W‖ of each row of its base weight, (d_out,), where that is in memory."""
    weights = {
        name: module.get_base_layer().weight.detach()
        for name, module in model.named_modules()
        if "default" in getattr(module, "lora_magnitude_vector", {})
    }
    return {name: w.float().norm(dim=1) for name, w in weights.items() if not w.is_meta}


def measure(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    cutoff: int,
    batch_size: int,
    gains: Sequence[float] = GAINS,
    progress: Callable[[int], Any] = lambda count: None,
    least: float = LEAST,
) -> Gain:
    """Choose the gain of a PEFT model's update by the likelihood of answers.

    `least` is as in `choose`.

    Notes
    -----
    A forward pass over the examples for each gain.
    """
    losses = []
    with gained(model, row_norms(model)) as set_gain:
        for gain in gains:
            set_gain(gain)
            losses.append(answer_losses(model, tokenizer, examples, cutoff, batch_size))
            progress(1)
    return choose(gains, np.array(losses), least)


def measure_streamed(
    model: Model,
    blocks: Streamed,
    tokenizer: Any,
    examples: Sequence[Example],
    cutoff: int,
    batch_size: int,
    gains: Sequence[float] = GAINS,
    progress: Callable[[int], Any] = lambda count: None,
    least: float = LEAST,
) -> Gain:
    """The same choice, of a model with its head of which one block is in memory at a time.

    Parameters
    ----------
    blocks : with PEFT's layers in them (`adapters.streamed`)
    progress : told of each block, and of the head

    Notes
    -----
    One walk over the examples for all gains: each weight is read once. Kept between blocks are the
    streams of all examples under each gain. On a CPU the losses have the bytes of `measure`.
    """
    answers = batches_of(tokenizer, examples, cutoff, batch_size)
    inputs = [Batch("", [each.inputs]) for each in answers]
    walk = Walk(model, blocks, inputs * len(gains), 0)
    norms: dict[str, torch.Tensor] = {}
    losses = np.zeros((len(gains), len(examples)))

    with gained(walk.base, norms) as set_gain:

        def ready(number: int) -> None:
            """Before a batch runs: set its gain; before the first, note the weights' norms."""
            if number == 0:  # the next weights are there
                norms.update(row_norms(walk.base))
            if number % len(answers) == 0:
                set_gain(gains[number // len(answers)])

        for _ in range(model.dims.layers):
            for _ in walk.outputs(ready):
                pass
            progress(1)

        def asked(number: int) -> dict[str, torch.Tensor]:
            """What keeps the head to the positions of a batch's answers."""
            return needed_logits(walk.base, answers[number % len(answers)].labels)

        for number, given in enumerate(walk.given(ready, asked)):
            row, place = divmod(number, len(answers))
            losses[row, answers[place].places] = answers[place].losses(given.logits)
        progress(1)
    return choose(gains, losses, least)


def choose_for(
    model: Model,
    adapter: str | Path,
    data: Mapping[str, Any],
    settings: Mapping[str, Any],
    base: Mapping[str, Any],
) -> Gain:
    """Choose the gain of a carried adapter's directory on a small set.

    Parameters
    ----------
    model : the new one
    data : the small set, as `training.data.read` takes it
    settings : of the light fine-tuning: which examples, how they are cut, where the model is; the
        first `EXAMPLES` of the small set are read. `stream`, of calibration: whether one block of
        the model is in memory at a time
    base : of the new model: `remote_code`
    """
    examples = subset(read(**data), settings["examples"], settings["subset_seed"])[:EXAMPLES]
    size = settings["micro_batch"] or settings["batch_size"]
    how = {key: settings[key] for key in ("dtype", "device")}
    how["trust_remote_code"] = base["remote_code"]
    if is_streamed(settings, base["remote_code"]):
        blocks = Streamed(model, head=True, **how)
        attach_streamed(blocks, adapter)
        with progress_bar(model.dims.layers + 1, "blocks") as bar:
            return measure_streamed(
                model,
                blocks,
                blocks.tokenizer,
                examples,
                settings["cutoff"],
                size,
                progress=bar.update,
            )
    loaded, tokenizer = load_base(model.directory, device_map=settings["device_map"], **how)
    with progress_bar(len(GAINS), "gains") as bar:
        return measure(
            attach(loaded, adapter).eval(),
            tokenizer,
            examples,
            settings["cutoff"],
            size,
            progress=bar.update,
        )


def write_gain(path: str | Path, inputs: Mapping[str, str], chosen: Gain, chosen_on: str) -> None:
    """Write the artifact of a choice: what was chosen, its curve, and which answers were read."""
    content = {**asdict(chosen), "curve": {str(g): nats for g, nats in chosen.curve.items()}}
    write_json(path, "gain", inputs, {**content, "chosen_on": chosen_on})
