"""What of an adapter has no place in a new model, because its family has no such module."""

import math
from collections.abc import Mapping

from ..adapters.lora_weights import LoraWeights
from ..models.side import Side


def no_place(adapter: Mapping[tuple[int, str], LoraWeights], old: Side, new: Side) -> list[str]:
    """A line for each of the adapter's modules none of whose roles the new family has.

    Says what share of the update it is: of the sum of ‖ΔW‖² over all modules.
    """
    squares: dict[str, list[float]] = {}
    for (_, module), weights in adapter.items():
        squares.setdefault(module, []).append(weights.norm() ** 2)
    whole = math.fsum(square for each in squares.values() for square in each)
    why = "has a mixture of experts there" if new.family.experts else "has no such role"
    return [
        f"{module} is left behind, {math.fsum(held) / whole if whole else 0:.0%} of the update's "
        f"squared norm: {new.family.name} {why}"
        for module, held in sorted(squares.items())
        if not set(old.family.modules[module]) & set(new.family.roles)
    ]
