"""SimpleCopy, a trivial baseline: the adapter as it is, `ΔW_n = ΔW_o`; equal shapes only."""

from collections.abc import Iterator
from typing import Any

from ..mapping.pair import Pair
from ..models.families import Dimensions
from ..transfer.maps import ModuleMap, Term
from ._weights import require_equal, weights

NEEDS = ("models",)
SETTINGS = ()


def check(old: Dimensions, new: Dimensions, settings: dict[str, Any]) -> None:
    """Equal depth and shapes."""
    require_equal("simplecopy", old, new, settings)


def maps(pair: Pair) -> Iterator[ModuleMap]:
    """Yield the identity for each role of each layer; weights are read for their norms alone."""
    for each in weights(pair):
        yield each.module_map(Term())
