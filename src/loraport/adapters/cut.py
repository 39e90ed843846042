"""An adapter with less in it: of a lower rank, or on fewer modules."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..artifacts import write_json
from ..errors import LoraportError
from ..models.families import Architecture
from ..models.spec import Model
from ..numerics.lowrank import balance
from .audit import audit
from .files import read_adapter, write_adapter
from .lora_weights import LoraWeights


def cut_adapter(
    source: str | Path,
    model: Model,
    out: Path,
    known_as: Sequence[str],
    cut: Mapping[str, Any],
    base: str,
    inputs: Mapping[str, str],
) -> dict[str, Any]:
    """Write an adapter with a lower rank, or with fewer modules, into the folder `out`.

    Parameters
    ----------
    cut : {"rank": r} or {"modules": roles}
    inputs : identities of the rule's inputs, recorded in cut.json

    Returns
    -------
    content of cut.json: the cut, and the share of ‖ΔW‖² that is kept, summed over the modules
    """
    adapter = read_adapter(source)
    located = audit(adapter, model.architecture, model.dims, known_as)
    if "rank" in cut:
        made = {place: truncate(weights, cut["rank"]) for place, weights in located.items()}
    else:
        wanted = _modules(model.architecture, cut["modules"])
        made = {place: weights for place, weights in located.items() if place[1] in wanted}
    if not made:
        raise LoraportError(
            f"adapter {source} has none of the modules that the sweep asks for",
            got=", ".join(sorted({module for _, module in located})),
            expected=", ".join(cut["modules"]),
            todo="sweep an app whose adapter adapts them",
        )
    write_adapter(
        out,
        adapter.config,
        base,
        "",
        model.architecture,
        model.dims.layers,
        made,
        "float32",
        adapter.saved,
        tokens=adapter.tokens,
    )
    whole = math.fsum(weights.norm() ** 2 for weights in located.values())
    kept = math.fsum(weights.norm() ** 2 for weights in made.values()) / whole
    content = {"cut": dict(cut), "energy_kept": kept, "adapter": adapter.hashes()}
    write_json(out / "cut.json", "cut", inputs, content)
    return content


def _modules(family: Architecture, roles: Sequence[str]) -> set[str]:
    return {family.module_of(role) for role in roles if role in family.roles}


def truncate(weights: LoraWeights, rank: int) -> LoraWeights:
    """The best approximation of an update of at most `rank`, with the same scale s."""
    if rank >= weights.rank:
        return weights
    b, a, _ = balance(weights.b.astype(np.float64), weights.a.astype(np.float64), rank)
    return replace(weights.replaced(b, a), magnitude=weights.magnitude, bias=weights.bias)
