"""transformers' Trainer for an adapter: its arguments, its loss, and what it does at each step."""

import math
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, PeftType
from transformers import (
    DataCollatorForSeq2Seq,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from ..errors import LoraportError
from ..runtime.job import progress
from .data import IGNORED, Encoded
from .losses import needed_logits, token_losses
from .settings import Settings
from .watched import Watched


class Diverged(LoraportError):
    """A training whose loss is not finite."""


def make_trainer(
    model: PeftModel,
    tokenizer: Any,
    rows: Encoded,
    settings: Settings,
    folder: Path,
    allocates: bool,
    watched: Watched,
) -> Trainer:
    """A Trainer of an adapter on encoded rows.

    Parameters
    ----------
    folder : for checkpoints
    allocates : whether the adapter is a fresh AdaLoRA, which prunes its ranks
    watched : where the training is logged besides
    """
    answers_alone = not _adds_to_its_loss(model)
    trainer = Trainer(
        model=model,
        args=_arguments(model, settings, folder, watched),
        train_dataset=rows.rows,
        data_collator=_Collator(model, tokenizer, answers_alone),
        compute_loss_func=_loss if answers_alone else None,
        callbacks=[_Watch(model, allocates)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(
    model: PeftModel, settings: Settings, folder: Path, watched: Watched
) -> TrainingArguments:
    """The same settings in transformers' words."""
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
    return arguments


class _Watch(TrainerCallback):
    """Shows progress, stops at a loss that is not finite, lets a fresh AdaLoRA prune its ranks."""

    def __init__(self, model: PeftModel, allocates: bool):
        self.model, self.allocates = model, allocates

    def on_train_begin(self, args, state, control, **kwargs):
        """Begin the progress bar, at the step of the checkpoint if there was one."""
        self.bar = progress(state.max_steps, "steps")
        self.bar.update(state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        """One step further on the bar."""
        self.bar.update()

    def on_train_end(self, args, state, control, **kwargs):
        """Close the bar."""
        self.bar.close()

    def on_optimizer_step(self, args, state, control, **kwargs):
        """After each step: AdaLoRA prunes its ranks."""
        if self.allocates:
            allocator: Any = self.model.base_model
            allocator.update_and_allocate(state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Raise `Diverged` where the loss of a logged step (nats a token) is NaN or infinite."""
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            raise Diverged(
                f"the training loss is {loss} at step {state.global_step}",
                got=f"learning rate {logs.get('learning_rate')}",
                expected="a finite loss",
                todo="lower `learning_rate` under `finetune`, and check the adapter it starts from",
            )


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
