"""Adapters on a model in memory, and how trained ones are written.

A missing or an extra tensor of an adapter is an error here: PEFT itself only warns of the one and
drops the other, and the adapter then does less than it says, or nothing.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..artifacts import ADAPTER_CONFIG, ADAPTER_WEIGHTS, check_weights
from ..errors import LoraportError
from ..models.weights import TensorFile
from .files import COPIES
from .written_out import written_out

if TYPE_CHECKING:
    from peft import PeftModel


def attach(model: Any, directory: str | Path, *, trainable: bool = False) -> "PeftModel":
    """The model with an adapter on it; every tensor of the adapter has found its place.

    Raises
    ------
    LoraportError
        If tensors are missing, or stand in the file and nowhere in the model. The model is then as
        it was before.
    """
    from peft import PeftModel  # a second or more, which rules that only read a base need not pay
    from peft.utils import get_peft_model_state_dict

    directory = Path(directory)
    file = directory / ADAPTER_WEIGHTS
    if not file.is_file():
        raise LoraportError(
            f"{directory} holds no adapter",
            got=f"no {file.name}",
            expected="a PEFT directory with safetensors",
            todo="check the adapter's `source` in adapters.tsv",
        )
    TensorFile(file)  # whole, before its sum is taken
    check_weights(directory)
    try:
        with written_out(directory, model.config.to_dict()) as plain:
            names = TensorFile(plain / ADAPTER_WEIGHTS).tensors
            adapted = PeftModel.from_pretrained(model, str(plain), is_trainable=trainable)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        _strip(model)
        raise LoraportError(
            f"adapter {directory} does not fit the model",
            got=" ".join(str(error).split())[:300],
            expected=f"an adapter for {getattr(model, 'name_or_path', 'this model')}",
            todo="transfer it first, or check that it was trained on this model",
        ) from error
    # peft adds the base's own weight to an adapted embedding
    stored = {name for name in names if not name.endswith(COPIES)}
    wanted = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if stored != wanted:
        _strip(model)
        raise LoraportError(
            f"adapter {directory} does not fit the model",
            got=f"missing {sorted(wanted - stored)[:3]}, left over {sorted(stored - wanted)[:3]}",
            expected="a tensor for each place, and a place for each tensor",
            todo="transfer it first, or check that it was trained on this model",
        )
    return adapted


def _strip(model: Any) -> None:
    """Take what PEFT put into a model out again, in its place."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    for name, module in list(model.named_modules()):
        parent, _, own = name.rpartition(".")
        if own == "base_layer":  # a wrapper inside another one, which has gone with that
            continue
        if isinstance(module, BaseTunerLayer):
            setattr(model.get_submodule(parent), own, module.get_base_layer())
        elif isinstance(module, AuxiliaryTrainingWrapper):
            setattr(model.get_submodule(parent), own, module.original_module)
    if hasattr(model, "peft_config"):
        del model.peft_config


def detach(model: Any) -> Any:
    """The bare base of a model with an adapter, as it was before.

    PEFT's own `unload` leaves the trained copies of `modules_to_save` in the base.
    """
    base = model.get_base_model()
    _strip(base)
    return base


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
    path = directory / ADAPTER_CONFIG
    config = json.loads(path.read_text())
    for key in ("target_modules", "target_parameters", "modules_to_save", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    if base_name is not None:
        config["base_model_name_or_path"] = base_name
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
