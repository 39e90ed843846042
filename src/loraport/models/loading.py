"""Models in memory, for the rules that run one: a base with its tokenizer."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
)
from transformers.utils import logging as transformers_logging
from transformers.utils.quantization_config import Mxfp4Config

from ..errors import LoraportError, words
from ..runtime.device import pick_device

# peft asks transformers by an old name: nothing that a user could mend
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
transformers_logging.disable_progress_bar()  # of loading weights; the rules' own bars say more
# A folder without an adapter's config: transformers looks for one in the model's own and would put
# the adapter that it names onto the model again.
NO_ADAPTER = {"subfolder": ".no_adapter"}
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

    def filled(kind: Any, config: Any) -> Any:
        """A model of class `kind` with the weights of `directory`."""
        return kind.from_pretrained(
            directory,
            dtype=choose_dtype(dtype, device),
            use_safetensors=True,
            adapter_kwargs=dict(NO_ADAPTER),
            trust_remote_code=trust_remote_code,
            **({"device_map": device_map} if device_map else {}),
            **_unpacked(config),
        )

    model, tokenizer = _loaded(directory, filled, trust_remote_code)
    if not device_map:
        model.to(device)
    return model, tokenizer


def load_empty(
    directory: str | Path, dtype: torch.dtype, *, trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """The same without weights: parameters have shapes alone (device `meta`), and buffers are as
    the model's code computes them, on the CPU.
    """

    def empty(kind: Any, config: Any) -> Any:
        with init_empty_weights():
            return kind.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)

    return _loaded(directory, empty, trust_remote_code)


def _loaded(
    directory: str | Path, make: Callable[[Any, Any], Any], trust_remote_code: bool
) -> tuple[Any, Any]:
    """What `make` makes of the model's class and config, and the tokenizer."""
    tokenizer = load_tokenizer(directory, trust_remote_code=trust_remote_code)
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code)
        model: Any = make(_auto_class(config), config)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _unloadable(directory, error) from error
    rows = model.get_input_embeddings().weight.shape[0]
    _choose_pad(tokenizer, rows)
    if len(tokenizer) > rows:
        model.get_input_embeddings().register_forward_pre_hook(_rows_checked(directory, rows))
    return model.eval(), tokenizer


def load_tokenizer(directory: str | Path, *, trust_remote_code: bool = False) -> Any:
    """A model's tokenizer alone.

    Raises
    ------
    LoraportError
        If there is none that transformers can load.
    """
    try:
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _unloadable(directory, error) from error


def _unloadable(directory: str | Path, error: Exception) -> LoraportError:
    return LoraportError(
        f"model {directory} cannot be loaded",
        got=words(error),
        expected="a causal language model in transformers' format, with its tokenizer",
        todo="check `source` in config.yaml",
    )


def _unpacked(config: Any) -> dict[str, Any]:
    """That experts in MXFP4 are unpacked on every machine, not where some kernel is missing."""
    quantised = getattr(config, "quantization_config", None) or {}
    if not isinstance(quantised, dict) or quantised.get("quant_method") != "mxfp4":
        return {}
    return {"quantization_config": Mxfp4Config(dequantize=True)}


def _auto_class(config: Any) -> Any:
    """The class that loads a model: of those that also see, some are no causal language models to
    transformers, and of some it would load the language model alone, by other names.
    """
    kinds: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    if type(config) not in kinds:
        return AutoModelForCausalLM
    named = kinds[type(config)].__name__ in (config.architectures or [])
    whole = named or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING
    return AutoModelForImageTextToText if whole else AutoModelForCausalLM


def _choose_pad(tokenizer: Any, rows: int) -> None:
    """A pad token that the embedding has a row for; padding is masked, so any token will do.

    Of a tokenizer that was given a pad token, while its model was never resized, that token lies
    behind the last row.
    """
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= rows:
        names = (tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token)
        ids = [tokenizer.convert_tokens_to_ids(name) for name in names if name is not None]
        inside = [number for number in ids if number is not None and number < rows]
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(inside[0] if inside else 0)


def _rows_checked(directory: str | Path, rows: int) -> Callable[[Any, tuple[Any, ...]], None]:
    """A hook in front of an embedding that refuses tokens without a row in it."""

    def check(module: Any, inputs: tuple[Any, ...]) -> None:
        if inputs and (largest := int(inputs[0].max())) >= rows:
            raise LoraportError(
                f"the tokenizer of {directory} has a token that its model has no vector for",
                got=f"token {largest} in a text, {rows} rows in the embedding",
                expected="texts without tokens that were added and never trained",
                todo="take them out of the texts, or resize the model's embedding and save it",
            )

    return check
