"""An adapter for vLLM: what its loader refuses or reads wrongly, and the command that serves it.

vLLM reads `r`, `lora_alpha` and `use_rslora` of adapter_config.json and applies that one scale to
every module; ranks and alphas by pattern it does not read. It refuses whole modules, DoRA, biases
and ranks above --max-lora-rank (vllm/lora/peft_helper.py and lora_model.py of the project).
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..adapters.audit import audit
from ..adapters.experts import FIELD as PARAMETERS
from ..adapters.files import Adapter, read_adapter, write_adapter
from ..adapters.lora_weights import LoraWeights
from ..errors import LoraportError
from ..models.spec import Model

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank may be
DEFAULT_RANK = 16  # of --max-lora-rank
MENDED = ("targets", "patterns", "kind")  # what a copy in plain LoRA mends


@dataclass(frozen=True)
class Problem:
    """Something about an adapter that vLLM refuses, or would read wrongly without saying so.

    kind : `rank`, `whole`, `dora`, `bias`, `experts`, or one of `MENDED`
    """

    kind: str
    told: str


@dataclass(frozen=True)
class Served:
    """An adapter that vLLM takes: what it is called, where it lies, its base and its rank."""

    name: str
    folder: Path
    base: str
    rank: int


def problems(adapter: Adapter, most: int = 0) -> list[Problem]:
    """Everything that stands between an adapter and vLLM.

    Parameters
    ----------
    most : --max-lora-rank; 0: any that vLLM knows
    """
    config, found = adapter.config, []
    rank = greatest_rank(adapter)
    if rank > (most or RANKS[-1]):
        found.append(Problem("rank", f"rank {rank} is above --max-lora-rank {most or RANKS[-1]}"))
    if adapter.saved:
        told = f"whole modules (modules_to_save): {', '.join(sorted(adapter.saved))}"
        found.append(Problem("whole", told))
    if any(each.magnitude is not None for each in adapter.modules.values()):
        found.append(Problem("dora", "DoRA, whose magnitudes it does not load"))
    experts = [path for path in adapter.modules if ".experts." in path]
    if experts or config.get(PARAMETERS):
        named = config.get(PARAMETERS) or experts
        told = f"experts of a mixture, or their router ({PARAMETERS}), such as {named[0]}"
        found.append(Problem("experts", told))
    if any(each.bias is not None for each in adapter.modules.values()):
        found.append(Problem("bias", "biases of the adapter's own (lora_bias)"))
    if config.get("peft_type") != "LORA":
        told = f"peft_type {config.get('peft_type')}, whose scales it would read as LoRA's"
        found.append(Problem("kind", told))
    elif len({scale_of(each) for each in adapter.modules.values()}) > 1:
        told = "ranks or alphas by pattern: it applies one scale, lora_alpha / r, to all modules"
        found.append(Problem("patterns", told))
    if not isinstance(config.get("target_modules"), list):
        told = f"target_modules is an expression: {config.get('target_modules')!r}"
        found.append(Problem("targets", told if len(told) <= 100 else f"{told[:99]}…"))
    return found


def scale_of(weights: LoraWeights) -> float:
    """A module's scale to seven digits, by which scales are told apart."""
    return float(f"{weights.scale:.7g}")


def greatest_rank(adapter: Adapter) -> int:
    """The greatest rank of an adapter's modules."""
    return max(each.rank for each in adapter.modules.values())


def notes(folders: Sequence[Path]) -> list[str]:
    """What a server may still refuse: adapted embeddings and heads, which not all models take."""
    adapted = {
        path.rpartition(".")[2]
        for folder in folders
        for path in read_adapter(folder).modules
        if not any(part.isdigit() for part in path.split("."))
    }
    if not adapted:
        return []
    return [
        f"{', '.join(sorted(adapted))}: vLLM takes LoRA on an embedding or a head only for models "
        "whose class lists them as `embedding_modules`"
    ]


def check_served(folder: Path, name: str, most: int = 0) -> Served:
    """An adapter that vLLM takes as it is.

    Raises
    ------
    LoraportError
        With everything that it does not take.
    """
    adapter = read_adapter(folder)
    found = problems(adapter, most)
    if found:
        raise refused(folder, found, most)
    base = str(adapter.config.get("base_model_name_or_path") or "BASE")
    return Served(name, folder, base, greatest_rank(adapter))


def refused(folder: Path, found: Sequence[Problem], most: int) -> LoraportError:
    """The error that names all problems of an adapter, and what mends those that can be."""
    kinds = {each.kind for each in found}
    ways = []
    if kinds & {*MENDED}:
        ways.append("--out FOLDER writes it as plain LoRA of one rank and scale")
    if "whole" in kinds:
        ways.append("--stand-in RANK, with --out FOLDER, writes whole modules as LoRA of that rank")
    if "rank" in kinds:
        ways.append(f"raise --max-lora-rank (vLLM knows {', '.join(map(str, RANKS))})")
    if kinds & {"dora", "bias", "experts"}:
        ways.append("merge it into the model (loraport transfer --merged), and serve that")
    return LoraportError(
        f"vLLM does not serve adapter {folder}",
        got="; ".join(each.told for each in found),
        expected="LoRA on modules that are listed, of one scale"
        + (f" and a rank of at most {most}" if most else ""),
        todo="; ".join(ways),
    )


def serve_line(served: Sequence[Served], most: int = 0) -> str:
    """The command that serves adapters of one base.

    Examples
    --------
    >>> print(serve_line([Served("a", Path("/x/a"), "own/er", 12)]))
    vllm serve own/er --enable-lora --max-lora-rank 16 --lora-modules a=/x/a
    """
    bases = sorted({each.base for each in served})
    if len(bases) > 1:
        raise LoraportError(
            "one server has one base model, and these adapters have several",
            got=", ".join(bases),
            expected="adapters of one base",
            todo="export those of each base by themselves",
        )
    rank = most or next(each for each in RANKS if each >= max(one.rank for one in served))
    words = ["vllm", "serve", bases[0], "--enable-lora", "--max-lora-rank", str(rank)]
    if len(served) > 1:
        words += ["--max-loras", str(len(served))]
    return shlex.join([*words, "--lora-modules", *(f"{one.name}={one.folder}" for one in served)])


def plain(modules: Mapping[str, LoraWeights]) -> dict[str, LoraWeights]:
    """The same updates as LoRA of one rank and one scale: smaller ones are filled up with zeros.

    The scale is that of the module with the greatest norm, so that its factors stay as they are;
    the ratio of another module's scale goes into its B.
    """
    rank = max(each.rank for each in modules.values())
    first = max(modules, key=lambda path: (modules[path].norm(), path))
    scale = modules[first].scale
    return {path: _filled(each, rank, scale) for path, each in modules.items()}


def both(one: LoraWeights, other: LoraWeights) -> LoraWeights:
    """The sum of two updates of a module: factors side by side, at the scale of the first."""
    ratio = other.scale / one.scale
    b = np.hstack([one.b, other.b * np.float32(ratio)])
    a = np.vstack([one.a, other.a])
    return replace(one, b=b, a=a, alpha=one.scale * len(a), rslora=False, init_rank=0)


def _filled(weights: LoraWeights, rank: int, scale: float) -> LoraWeights:
    b = np.zeros((weights.b.shape[0], rank), np.float32)
    a = np.zeros((rank, weights.a.shape[1]), np.float32)
    ratio = weights.scale / scale
    b[:, : weights.rank] = weights.b.astype(np.float64) * ratio
    a[: weights.rank] = weights.a
    return replace(weights, b=b, a=a, alpha=scale * rank, rslora=False, init_rank=0)


def write_plain(
    folder: Path, model: Model, out: Path, extra: Mapping[str, LoraWeights] | None = None
) -> None:
    """Write an adapter as plain LoRA that vLLM reads: one rank, one scale, targets that are listed.

    Parameters
    ----------
    extra : further modules of the vocabulary, in the place of whole ones, or added to what the
        adapter has there
    """
    adapter = read_adapter(folder)
    bad = [each for each in problems(adapter) if each.kind in ("dora", "bias", "experts")]
    whole = [each for each in problems(adapter) if each.kind == "whole"]
    if bad or (whole and not extra):
        raise refused(folder, [*bad, *whole], 0)
    family = model.architecture
    recorded = str(adapter.config.get("base_model_name_or_path"))
    places = audit(adapter, family, model.dims, {recorded}, vocabulary=True)
    held = dict(adapter.modules)
    for path, each in (extra or {}).items():
        held[path] = both(held[path], each) if path in held else each
    made = plain({path: each for path, each in held.items() if each.rank})
    weights = {place: made[family.path(*place)] for place in places if family.path(*place) in made}
    words = {path: each for path, each in made.items() if path in (family.embedding, family.head)}
    source: dict[str, Any] = {**adapter.config, "peft_type": "LORA", "use_rslora": False}
    write_adapter(
        out, source, recorded, str(adapter.config.get("revision") or ""), family,
        model.dims.layers, weights, "float32", None, words,
    )  # fmt: skip
