"""Training of adapters: from scratch, or lightly from a transferred one; transformers' Trainer.

The schedules differ in nothing but their `Settings`: light fine-tuning (LFT) starts from a
transferred adapter, or from what was chosen as its start; LoRA(small) trains a fresh one with the
published schedule, whose warm-up is longer than the run; the matched baseline trains a fresh one
with LFT's own settings, so that both take the same steps at the same learning rates.
"""

import csv
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import Trainer, set_seed

from ..adapters.attach import detach, save_adapter
from ..adapters.files import read_config
from ..artifacts import atomic, write_json
from ..models.loading import load_base
from ..runtime.measure import measured, versions
from . import checkpoints
from .card import Names, write_card
from .data import Encoded, Example, encode, fingerprint, subset
from .settings import Settings, count_steps
from .starts import Fresh, begin
from .trainer import Diverged, make_trainer
from .watched import UNWATCHED, Watched

LOSS_COLUMNS = ("step", "epoch", "loss", "learning_rate", "grad_norm")
# all but cuDNN's, whose gradients are NaN where a padded batch is 64 tokens long, or that and a
# multiple of 128 (https://github.com/pytorch/pytorch/issues/196678, since torch 2.11 on Hopper)
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def train_lora(
    model_dir: str | Path,
    data: Sequence[Example],
    out: str | Path,
    *,
    start: Fresh | str | Path,
    settings: Settings,
    resume_root: str | Path | None = None,
    inputs: Mapping[str, str] | None = None,
    base_name: str | None = None,
    loaded: tuple[Any, Any] | None = None,
    names: Names | None = None,
    watched: Watched = UNWATCHED,
) -> dict[str, Any]:
    """Train an adapter and write it as a PEFT directory, whole or not at all.

    Parameters
    ----------
    model_dir : the base model, in transformers' format
    data : the task's training examples; the small set is drawn from them by `settings`
    out : directory to write: `adapter_model.safetensors` (float32), `adapter_config.json`,
        `training.json` (what was done, and what came of it) and `loss.csv`
    start : a `Fresh` adapter, or the directory of one to start from
    resume_root : folder that holds the run's checkpoints while it lasts, under a name made of all
        that they depend on; a killed run goes on from the last one and ends with the same bytes.
        Without it, a killed run starts again
    inputs : identities of the rule's inputs, recorded in training.json
    base_name : what adapter_config.json calls the base model; as in `start` where None
    loaded : the base of `model_dir` as `load_for` gives it, where it is in memory already; it is
        bare again at the end
    names : of the adapter and its base in a model card; None: no card is written
    watched : where the training is logged besides

    Returns
    -------
    The content of training.json. On one machine and with the same number of threads, the same
    arguments give the same files but for `run` (times, memory, machine).

    Raises
    ------
    LoraportError
        If there are fewer examples than asked, the loss is not finite, or the adapter does not fit.
    """
    chosen = subset(data, settings.examples, settings.subset_seed)
    make_deterministic(settings.seed)
    with measured() as run:
        model, tokenizer = loaded or load_for(model_dir, settings)
        rows = encode(chosen, tokenizer, settings.cutoff, settings.loss)
        adapted = begin(model, start, settings.new_layers, count_steps(len(rows.rows), settings))
        key = checkpoints.key_of(chosen, start, settings, inputs)
        folder = checkpoints.make_folder(resume_root, key, out)
        allocates = isinstance(start, Fresh) and start.kind == "adalora"
        trainer = make_trainer(adapted, tokenizer, rows, settings, folder, allocates, watched)
        _run(trainer, adapted, folder)
    content = _report(trainer, rows, settings, start)
    content |= {"data_sha256": fingerprint(chosen), "run": run}
    with atomic(out) as temporary:
        _write(temporary, adapted, _losses(trainer), content, start, base_name, inputs, names)
    detach(adapted)
    shutil.rmtree(folder, ignore_errors=True)
    return content


def _run(trainer: Trainer, adapted: PeftModel, folder: Path) -> None:
    """Train to the end, from the newest checkpoint in a folder if there is one; a base whose
    adapter diverged is left bare.
    """
    try:
        with sdpa_kernel(ATTENTION):
            trainer.train(resume_from_checkpoint=checkpoints.newest(folder))
    except Diverged:
        detach(adapted)
        raise


def _report(
    trainer: Trainer, rows: Encoded, settings: Settings, start: Fresh | str | Path
) -> dict[str, Any]:
    """What a finished training has to say for itself, but for times and machines."""
    losses = [entry["loss"] for entry in _losses(trainer)]
    model: Any = trainer.model
    return {
        "settings": asdict(settings),
        "start": asdict(start) if isinstance(start, Fresh) else "adapter",
        "steps": trainer.state.global_step,
        "examples": len(rows.rows),
        "truncated": rows.truncated,
        "dropped": rows.dropped,
        "longest": rows.longest,
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "versions": versions(),
    }


def _losses(trainer: Trainer) -> list[dict[str, Any]]:
    """What was logged of each step."""
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def _write(
    folder: Path,
    adapted: PeftModel,
    losses: Sequence[Mapping[str, Any]],
    content: Mapping[str, Any],
    start: Fresh | str | Path,
    base_name: str | None,
    inputs: Mapping[str, str] | None,
    names: Names | None,
) -> None:
    """The adapter, its losses, its report, and its card where it has names, in a new folder."""
    begun = None if isinstance(start, Fresh) else Path(start)
    if not base_name and begun:
        base_name = read_config(begun).get("base_model_name_or_path")
    folder.mkdir()
    save_adapter(adapted, folder, base_name or None)
    _write_losses(folder / "loss.csv", losses)
    write_json(folder / "training.json", "training", inputs or {}, content)
    if names is not None:
        write_card(folder, content, names, begun)


def _write_losses(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, LOSS_COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


def load_for(model_dir: str | Path, settings: Settings) -> tuple[Any, Any]:
    """A base model where and how a training's settings say, and its tokenizer."""
    return load_base(
        model_dir,
        dtype=settings.dtype,
        device=settings.device,
        device_map=settings.device_map,
        trust_remote_code=settings.trust_remote_code,
    )


def make_deterministic(seed: int) -> None:
    """Seed every generator, and take deterministic kernels where there are any."""
    # cuBLAS reads it when its first handle is made
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    set_seed(seed)
