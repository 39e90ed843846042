"""What of an adapter has no place in a new model, because its family has no such module."""

import math
from collections.abc import Mapping

from ..adapters.lora_weights import LoraWeights
from ..models.side import Side


def no_place(adapter: Mapping[tuple[int, str], LoraWeights], old: Side, new: Side) -> list[str]:
    """A line, or none, on the adapter's modules none of whose roles the new family has.

    Says what share of the update they are: of the sum of ‖ΔW‖² over all modules.
    """
    left = sorted(
        module
        for module in {module for _, module in adapter}
        if not set(old.family.modules[module]) & set(new.family.roles)
    )
    if not left:
        return []
    squares = {place: weights.norm() ** 2 for place, weights in adapter.items()}
    whole = math.fsum(squares.values())
    gone = math.fsum(square for (_, module), square in squares.items() if module in left)
    why = "has a mixture of experts there" if new.family.experts else "has no such role"
    return [
        f"{', '.join(left)} will be left behind, {gone / whole if whole else 0:.0%} of the "
        f"update's squared norm: {new.family.name} {why}"
    ]
