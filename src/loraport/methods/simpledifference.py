"""SimpleDifference, a trivial baseline: `ΔW_n = (W_n − W_o) + s B_o A_o`; equal shapes only.

The sum is not of low rank: the maps hold the difference of the weights, and each adapter is cut to
its rank by a randomised SVD. How much of the sum's energy that keeps stands in transfer.json.
"""

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
    require_equal("simpledifference", old, new, settings)


def maps(pair: Pair) -> Iterator[ModuleMap]:
    """Yield the identity and the constant `W_n − W_o` for each role of each layer."""
    for each in weights(pair):
        yield each.module_map(Term(), constant=each.new - each.old)
