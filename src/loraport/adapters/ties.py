"""TIES merging of adapters (arXiv 2306.01708), on their dense updates as PEFT's `ties_svd` does.

Merging A and B apart, PEFT's plain `ties`, depends on how the two factors share their product's
scale, which a transfer changes; the updates themselves do not.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ..artifacts import write_json
from ..errors import LoraportError
from ..models.spec import Model
from ..numerics.lowrank import balance
from .audit import audit
from .files import Adapter, read_adapter, write_adapter
from .kinds import lora
from .lora_weights import LoraWeights

Key = TypeVar("Key", bound=Hashable)


def merge(
    adapters: Sequence[Mapping[Key, LoraWeights]],
    weights: Sequence[float],
    density: float = 0.5,
    rank: int | None = None,
) -> dict[Key, LoraWeights]:
    """The TIES merge of adapters of one base model, cut to low rank by a truncated SVD.

    Parameters
    ----------
    adapters : module -> factors; a module that only some adapt is merged from those
    weights : of each adapter
    density : share of each update's entries, the largest ones, that is kept before signs are
        elected by total magnitude
    rank : of the result; the first adapter's rank in that module where None

    Returns
    -------
    module -> factors of scale 1, balanced (PEFT lets a merge whose first adapter is an rsLoRA grow
    by √r, since it scales the result once more)

    Notes
    -----
    O(d_out d_in min(d_out, d_in)) a module: the merged update is not of low rank.
    """
    if len(adapters) != len(weights) or not adapters:
        raise LoraportError(
            "a merge needs one weight an adapter",
            got=f"{len(weights)} weights for {len(adapters)} adapters",
            expected="as many weights as adapters, at least one",
        )
    from peft.utils.merge_utils import ties

    merged = {}
    for key in dict.fromkeys(key for adapter in adapters for key in adapter):
        held = [(a[key], w) for a, w in zip(adapters, weights, strict=True) if key in a]
        dense = [torch.from_numpy(each.scale * _product(each)) for each, _ in held]
        if len({update.shape for update in dense}) != 1:
            raise LoraportError(
                f"the adapters to merge are not of one base model, at {key}",
                got=" and ".join(str(tuple(update.shape)) for update in dense),
                expected="updates of one shape",
            )
        shares = torch.tensor([weight for _, weight in held], dtype=torch.float64)
        first = held[0][0]
        size = rank or first.rank
        u, s, vh = np.linalg.svd(ties(dense, shares, density).numpy(), full_matrices=False)
        b, a, _ = balance(u[:, :size] * s[:size], vh[:size], size)
        alpha = size**0.5 if first.rslora else float(size)
        merged[key] = first.replaced(b, a, alpha)
    return merged


def _product(weights: LoraWeights) -> np.ndarray:
    return weights.b.astype(np.float64) @ weights.a.astype(np.float64)


def merge_files(
    sources: Sequence[str | Path],
    model: Model,
    out: Path,
    known_as: Collection[str],
    settings: Mapping[str, Any],
    base: str,
    revision: str,
    inputs: Mapping[str, str],
) -> dict[str, Any]:
    """Write the merge of adapter directories of one base model into the folder `out`.

    Parameters
    ----------
    model : their base; its spec is enough
    settings : `weights` (empty: equal shares) and `density`
    base, revision : of the base model, as the merged adapter records them
    inputs : identities of the rule's inputs, recorded in merge.json

    Returns
    -------
    content of merge.json: the settings, the adapters' hashes, and the norm of each module's update
    before, adapter by adapter, and after

    Raises
    ------
    LoraportError
        For adapters other than LoRA and rsLoRA, and for those with biases or whole tensors.
    """
    adapters = [read_adapter(source, zero=True) for source in sources]
    for adapter in adapters:
        _refuse_other_kinds(adapter)
    located = [audit(each, model.architecture, model.dims, known_as) for each in adapters]
    shares = list(settings["weights"]) or [1 / len(adapters)] * len(adapters)
    merged = merge(located, shares, settings["density"])
    family = model.architecture
    config = {**adapters[0].config, "use_rslora": any(w.rslora for w in merged.values())}
    write_adapter(out, config, base, revision, family, model.dims.layers, merged, "float32")
    content = {
        "weights": shares,
        "density": settings["density"],
        "adapters": [adapter.hashes() for adapter in adapters],
        "modules": {
            family.path(*place): {
                "norms_before": [each[place].norm() for each in located if place in each],
                "norm_after": weights.norm(),
            }
            for place, weights in sorted(merged.items())
        },
    }
    write_json(out / "merge.json", "merge", inputs, content)
    return content


def _refuse_other_kinds(adapter: Adapter) -> None:
    odd = [
        *(["modules_to_save"] if adapter.saved else []),
        *(["lora_bias"] if any(w.bias is not None for w in adapter.modules.values()) else []),
        *([] if lora.serves(adapter.config) else ["an adapter that is not plain LoRA or rsLoRA"]),
    ]
    if odd:
        raise LoraportError(
            f"adapter {adapter.directory} can't be merged",
            got=", ".join(odd),
            expected="a LoRA or rsLoRA adapter whose update is all that it changes",
            todo="leave it out of the merge, or convert it to plain LoRA",
        )
