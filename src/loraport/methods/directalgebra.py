"""DirectAlgebra (LoRASuite's ablation): `ΔW_n = (W_o − W_n) + s B_o A_o`; equal shapes only.

So that `W_n + ΔW_n = W_o + ΔW_o`: the old adapted model again, as far as the adapter's rank can say
it. The sign is as printed, the opposite of SimpleDifference's. Each adapter is cut to its rank by
a randomised SVD; the share of energy that it keeps stands in transfer.json.
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
    require_equal("directalgebra", old, new, settings)


def maps(pair: Pair) -> Iterator[ModuleMap]:
    """Yield the identity and the constant `W_o − W_n` for each role of each layer."""
    for each in weights(pair):
        yield each.module_map(Term(), constant=each.old - each.new)
