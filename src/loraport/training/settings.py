"""How an adapter is trained, and how many steps that takes."""

import math
from dataclasses import dataclass

from ..errors import LoraportError


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
