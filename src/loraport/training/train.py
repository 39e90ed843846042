"""Training of adapters: from scratch, or lightly from a transferred one; transformers' Trainer.

The schedules differ in nothing but their `Settings`: light fine-tuning (LFT) starts from a
transferred adapter; LoRA(small) trains a fresh one with the published schedule, whose warm-up is
longer than the run; the matched baseline trains a fresh one with LFT's own settings, so that both
take the same steps at the same learning rates.
"""

import csv
import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, PeftType
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    DataCollatorForSeq2Seq,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from ..adapters.attach import detach, save_adapter
from ..adapters.files import read_config
from ..artifacts import ADAPTER_WEIGHTS, atomic, sha256, write_json
from ..errors import LoraportError
from ..models.loading import load_base
from ..runtime.job import progress
from ..runtime.measure import measured, versions
from .card import Names, write_card
from .data import IGNORED, Encoded, Example, encode, fingerprint, subset
from .losses import needed_logits, token_losses
from .starts import Fresh, begin
from .watched import UNWATCHED, Watched

LOSS_COLUMNS = ("step", "epoch", "loss", "learning_rate", "grad_norm")
CHECKPOINT = "checkpoint-"
# all but cuDNN's, whose gradients are NaN where a padded batch is 64 tokens long, or that and a
# multiple of 128 (https://github.com/pytorch/pytorch/issues/196678, since torch 2.11 on Hopper)
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@dataclass(frozen=True)
class Settings:
    """How an adapter is trained.

    examples : size of the small set drawn from the task's data; 0 takes all of it
    subset_seed : of that draw, the same for every method
    loss : `answer` (completion only) or `text` (the prompt as well)
    max_steps : where above 0, the number of optimiser steps in place of `epochs`
    batch_size : examples an optimiser step; `micro_batch` of them at once (0: all), the rest by
        gradient accumulation
    warmup_steps : a whole number of steps, or, below 1, a share of all of them
    save_steps : steps between checkpoints (kept outside the output, for a run that is killed)
    new_layers : `init` gives modules whose factors are both zero a standard LoRA start; `zero`
        leaves them as they are, for good
    """

    examples: int = 0
    subset_seed: int = 0
    seed: int = 0
    loss: str = "answer"
    learning_rate: float = 1e-3
    schedule: str = "linear"
    warmup_steps: float = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    batch_size: int = 16
    micro_batch: int = 0
    epochs: float = 3
    max_steps: int = 0
    cutoff: int = 256
    save_steps: int = 50
    new_layers: str = "init"
    dtype: str = "auto"
    device: str = "auto"
    device_map: str = ""
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        allowed = {"loss": ("answer", "text"), "new_layers": ("init", "zero")}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise LoraportError(
                    f"unknown `{name}` under `finetune`",
                    got=repr(getattr(self, name)),
                    expected=" or ".join(values),
                )
        micro = self.micro_batch or self.batch_size
        if self.batch_size < 1 or self.batch_size % micro:
            raise LoraportError(
                "`batch_size` is not a multiple of `micro_batch`",
                got=f"{self.batch_size} and {self.micro_batch}",
                expected="a whole number of micro-batches a step",
            )


def count_steps(examples: int, settings: Settings) -> int:
    """Optimiser steps of a run over `examples` training examples."""
    if settings.max_steps > 0:
        return settings.max_steps
    return math.ceil(math.ceil(examples / settings.batch_size) * settings.epochs)


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
        steps = count_steps(len(rows.rows), settings)
        adapted = begin(model, start, settings.new_layers, steps)
        key = _key(chosen, start, settings, inputs)
        checkpoints = _checkpoint_folder(resume_root, key, out)
        trainer = _trainer(adapted, tokenizer, rows, settings, checkpoints, start, watched)
        try:
            with sdpa_kernel(ATTENTION):
                trainer.train(resume_from_checkpoint=_last_checkpoint(checkpoints))
        except Diverged:
            detach(adapted)
            raise
    content = _report(trainer, rows, settings, start)
    content |= {"data_sha256": fingerprint(chosen), "run": run}
    with atomic(out) as temporary:
        temporary.mkdir()
        save_adapter(adapted, temporary, base_name or _recorded_base(start))
        _write_losses(temporary / "loss.csv", _losses(trainer))
        write_json(temporary / "training.json", "training", inputs or {}, content)
        if names is not None:
            write_card(temporary, content, names, None if isinstance(start, Fresh) else start)
    detach(adapted)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return content


def _recorded_base(start: Fresh | str | Path) -> str | None:
    if isinstance(start, Fresh):
        return None
    return read_config(Path(start)).get("base_model_name_or_path")


def _losses(trainer: Trainer) -> list[dict[str, Any]]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


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


class Diverged(LoraportError):
    """A training whose loss is not finite."""


class _Watch(TrainerCallback):
    """Shows progress, stops at a loss that is not finite, lets a fresh AdaLoRA prune its ranks."""

    def __init__(self, model: PeftModel, allocates: bool):
        self.model, self.allocates = model, allocates

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = progress(state.max_steps, "steps")
        self.bar.update(state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update()

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()

    def on_optimizer_step(self, args, state, control, **kwargs):
        if self.allocates:
            allocator: Any = self.model.base_model
            allocator.update_and_allocate(state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            raise Diverged(
                f"the training loss is {loss} at step {state.global_step}",
                got=f"learning rate {logs.get('learning_rate')}",
                expected="a finite loss",
                todo="lower `learning_rate` under `finetune`, and check the adapter it starts from",
            )


def _trainer(
    model: PeftModel,
    tokenizer: Any,
    rows: Encoded,
    settings: Settings,
    folder: Path,
    start: Fresh | str | Path,
    watched: Watched,
) -> Trainer:
    micro = settings.micro_batch or settings.batch_size
    on_gpu = model.device.type != "cpu"
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=settings.batch_size // micro,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        optim="adamw_torch",
        seed=settings.seed,
        bf16=on_gpu and model.dtype == torch.bfloat16,
        use_cpu=not on_gpu,
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,
        **watched.arguments(),
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=on_gpu,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs are for `device_map`, not for copies
    allocates = isinstance(start, Fresh) and start.kind == "adalora"
    answers_alone = not _adds_to_its_loss(model)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows.rows,
        data_collator=_Collator(model, tokenizer, answers_alone),
        compute_loss_func=_loss if answers_alone else None,
        callbacks=[_Watch(model, allocates)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _adds_to_its_loss(model: PeftModel) -> bool:
    """Whether a model's own loss has other parts than its answers: AdaLoRA's, or of its routers."""
    kinds = {config.peft_type for config in model.peft_config.values()}
    routed = getattr(model.get_base_model().config, "output_router_logits", False)
    return PeftType.ADALORA in kinds or bool(routed)


class _Collator(DataCollatorForSeq2Seq):
    """Pads rows; asks for the logits of what is learned alone, where that is all of the loss."""

    def __init__(self, model: PeftModel, tokenizer: Any, answers_alone: bool):
        super().__init__(tokenizer)
        self._learns, self._answers_alone = model, answers_alone

    def __call__(self, features: Any, return_tensors: Any = None) -> Any:
        batch = super().__call__(features, return_tensors)
        if self._answers_alone:
            batch |= needed_logits(self._learns, batch["labels"])
        return batch


def _loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Mean nats of a learned token, over all that an optimiser step learns."""
    losses = token_losses(outputs.logits, labels)
    count = (labels[:, 1:] != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
    return losses.sum() / count


def _key(
    chosen: Sequence[Example],
    start: Fresh | str | Path,
    settings: Settings,
    inputs: Mapping[str, str] | None,
) -> str:
    """What a checkpoint must have been made from to be of use."""
    if isinstance(start, Fresh):
        begun: Any = asdict(start)
    else:
        begun = sha256(Path(start) / ADAPTER_WEIGHTS)
    parts = [asdict(settings), begun, fingerprint(chosen), dict(inputs or {}), versions()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _checkpoint_folder(root: str | Path | None, key: str, out: str | Path) -> Path:
    """The folder for checkpoints of this very run."""
    out = Path(out)
    beside = out.with_name(f".{out.name}.{os.getpid()}.checkpoints")
    folder = Path(root) / key[:24] if root else beside
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint; the Trainer writes trainer_state.json last."""
    for path in sorted(
        folder.glob(f"{CHECKPOINT}*"), key=lambda p: int(p.name[len(CHECKPOINT) :]), reverse=True
    ):
        try:
            json.loads((path / "trainer_state.json").read_text())
        except (OSError, ValueError):
            shutil.rmtree(path)
            continue
        return str(path)
    return None


def _write_losses(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, LOSS_COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
