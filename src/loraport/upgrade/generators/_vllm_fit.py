"""What vLLM can serve of a base model and its adapters, and with how much of a GPU's memory."""

from pathlib import Path
from typing import Any

from ...adapters.files import Adapter, read_adapter
from ...adapters.names import PREFIX
from ...artifacts import ADAPTER_WEIGHTS
from ...errors import LoraportError
from ...export.vllm import DEFAULT_RANK, RANKS, greatest_rank, problems
from ...models.weights import TensorFile
from . import Wanted

CACHE_GIB = 12  # of keys and values: 256 sequences of 700 tokens of a 7B model; more helps little
BESIDE_GIB = 3  # activations of its batch, its CUDA context and its kernels
# of what is free on the GPU at its start: both models of an upgrade may have an engine, and the
# teaching, whose batch is halved where memory runs out, has the greater part of what is left
SHARE = 0.4
GIB = 1 << 30


def is_served(folder: Path, most: int) -> bool:
    """Whether vLLM serves an adapter as it is: plain LoRA of layers' modules, of one scale, by the
    names that the model has for them.
    """
    adapter = _read(folder)
    if adapter is None:
        return False
    beside = [path for path in adapter.modules if not any(p.isdigit() for p in path.split("."))]
    plain = {f"{PREFIX}{path}.lora_{part}.weight" for path in adapter.modules for part in "AB"}
    named = set(TensorFile(folder / ADAPTER_WEIGHTS).tensors) == plain
    return named and not (problems(adapter, most) or beside)


def rank_for(wanted: Wanted) -> int:
    """The least rank that vLLM may be given which all wanted adapters have room in."""
    read = filter(None, map(_read, wanted.adapters))
    rank = max([DEFAULT_RANK, *map(greatest_rank, read)])
    return next((each for each in RANKS if each >= rank), RANKS[-1])


def _read(folder: Path) -> Adapter | None:
    """An adapter; None for one without LoRA, or that can't be read, as is told where it is worn."""
    try:
        adapter = read_adapter(folder, zero=True)
    except (LoraportError, OSError, ValueError):
        return None
    return adapter if adapter.modules else None


def unfit(model: Any) -> str:
    """Why vLLM's copy would not be the model in memory; empty where it would."""
    kind = type(model).__name__
    if kind not in (getattr(model.config, "architectures", None) or ()):
        return f"the model in memory is a {kind}, and its folder holds another class"
    if not kind.endswith(("ForCausalLM", "LMHeadModel")):
        return f"of a {kind}, adapters' names are not those of its language model alone"
    if getattr(model.config, "quantization_config", None):
        return "its weights are quantised in its folder, and unpacked in memory"
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
        return "it lies on several devices"
    return ""


def utilisation(model: Any) -> float:
    """Share of the GPU's whole memory that vLLM may take, as it wants it.

    Raises
    ------
    LoraportError
        If what it may take of the free memory does not hold the weights and a cache.
    """
    import torch

    free, total = torch.cuda.mem_get_info(model.device)
    weights = sum(each.numel() * each.element_size() for each in model.parameters())
    least = weights + (BESIDE_GIB + 1) * GIB
    most = min(SHARE * free, weights + (BESIDE_GIB + CACHE_GIB) * GIB)
    if most < least:
        raise LoraportError(
            "too little of the GPU's memory is free",
            got=f"{free / GIB:.1f} GiB free, of which {SHARE:.0%} may be taken",
            expected=f"{least / SHARE / GIB:.1f} GiB for a second copy of the model",
        )
    return round(most / total, 4)
