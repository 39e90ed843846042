"""Models in memory, for the rules that run one: a base with its tokenizer."""

import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from ..errors import LoraportError
from ..runtime.device import pick_device

# peft asks transformers by an old name: nothing that a user could mend
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
transformers_logging.disable_progress_bar()  # of loading weights; the rules' own bars say more
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_dtype(name: str, device: str) -> torch.dtype:
    """A torch dtype by name; `auto` is bfloat16 on a GPU and float32 on a CPU."""
    if name == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    if name not in DTYPES:
        raise LoraportError(f"unknown dtype {name!r}", expected=f"auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def load_base(
    directory: str | Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str = "",
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """A causal language model and its tokenizer, with a pad token.

    Parameters
    ----------
    dtype : `auto` (bfloat16 on a GPU, float32 on a CPU), or a name in `DTYPES`
    device : `auto` (the GPU where there is one), `cpu`, `cuda`, `cuda:1`, …
    device_map : ("auto", "balanced", …) spreads a base over several GPUs, as accelerate does
    """
    device = pick_device(device)
    where: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, **where)
        model: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=choose_dtype(dtype, device),
            use_safetensors=True,
            **({"device_map": device_map} if device_map else {}),
            **where,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise LoraportError(
            f"model {directory} cannot be loaded",
            got=str(error).splitlines()[0] if str(error) else type(error).__name__,
            expected="a causal language model in transformers' format, with its tokenizer",
            todo="check `source` in config.yaml",
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not device_map:
        model.to(device)
    return model.eval(), tokenizer
