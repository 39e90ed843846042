"""Models in memory, for the rules that run one: a base with its tokenizer, adapters on it.

A missing or an extra tensor of an adapter is an error here: PEFT itself only warns of the one and
drops the other, and the adapter then does less than it says, or nothing.
"""

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from ..adapters.files import read_config
from ..adapters.patterns import refuse_unsafe
from ..artifacts import check_weights
from ..errors import LoraportError
from ..runtime.device import pick_device
from .weights import TensorFile

if TYPE_CHECKING:
    from peft import PeftModel

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


def attach(model: Any, directory: str | Path, *, trainable: bool = False) -> "PeftModel":
    """The model with an adapter on it; every tensor of the adapter has found its place.

    Raises
    ------
    LoraportError
        If tensors are missing, or stand in the file and nowhere in the model.
    """
    from peft import PeftModel  # a second or more, which rules that only read a base need not pay
    from peft.utils import get_peft_model_state_dict

    directory = Path(directory)
    file = directory / "adapter_model.safetensors"
    if not file.is_file():
        raise LoraportError(
            f"{directory} holds no adapter",
            got=f"no {file.name}",
            expected="a PEFT directory with safetensors",
            todo="check the adapter's `source` in adapters.tsv",
        )
    names = TensorFile(file).tensors
    check_weights(directory)
    refuse_unsafe(read_config(directory))
    try:
        adapted = PeftModel.from_pretrained(model, str(directory), is_trainable=trainable)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise LoraportError(
            f"adapter {directory} does not fit the model",
            got=" ".join(str(error).split())[:300],
            expected=f"an adapter for {getattr(model, 'name_or_path', 'this model')}",
            todo="transfer it first, or check that it was trained on this model",
        ) from error
    # peft adds the base's own weight to an adapted embedding
    stored = {name for name in names if ".base_layer." not in name}
    wanted = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if stored != wanted:
        raise LoraportError(
            f"adapter {directory} does not fit the model",
            got=f"missing {sorted(wanted - stored)[:3]}, left over {sorted(stored - wanted)[:3]}",
            expected="a tensor for each place, and a place for each tensor",
            todo="transfer it first, or check that it was trained on this model",
        )
    return adapted


def save_adapter(model: "PeftModel", directory: Path, base_name: str | None = None) -> None:
    """Write an adapter so that the same weights give the same bytes: safetensors and its config.

    `target_modules` are sorted (PEFT's set has another order in every process) and the model card,
    which holds nothing but the base's path, is left out.
    """
    model.save_pretrained(
        str(directory),
        safe_serialization=True,
        save_embedding_layers=False,  # "auto" would ask the hub for the base by its recorded name
    )
    (directory / "README.md").unlink(missing_ok=True)
    path = directory / "adapter_config.json"
    config = json.loads(path.read_text())
    for key in ("target_modules", "modules_to_save", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    if base_name is not None:
        config["base_model_name_or_path"] = base_name
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
