"""SimpleLinear, a trivial baseline: a linear map P between the two base weights.

`side: input`, as published (W_n ≈ W_o P): `B_n = B_o`, `A_n = A_o pinv(W_o) W_n`, for equal output
sizes. `side: output` (W_n ≈ P W_o): `B_n = W_n pinv(W_o) B_o`, `A_n = A_o`, for equal input sizes.
O(d³) a module.
"""

from collections.abc import Iterator
from typing import Any

from ..mapping.pair import Pair
from ..models.families import Dimensions
from ..numerics.linalg import pinv
from ..transfer.maps import Dense, ModuleMap, Term
from ._weights import require_equal, weights

NEEDS = ("models",)
SETTINGS = ("side",)


def check(old: Dimensions, new: Dimensions, settings: dict[str, Any]) -> None:
    """Equal depth, and equal sizes on the side that is not mapped."""
    fixed = {"input": "output", "output": "input"}[settings["side"]]
    require_equal(f"simplelinear on the {settings['side']} side", old, new, settings, fixed)


def maps(pair: Pair) -> Iterator[ModuleMap]:
    """Yield the factors of pinv(W_o) W_n, or of W_n pinv(W_o), for each role of each layer."""
    for each in weights(pair):
        inverse, new = Dense(pinv(each.old)), Dense(each.new)
        term = (
            Term(right=(inverse, new))
            if pair.settings["side"] == "input"
            else Term(left=(new, inverse))
        )
        yield each.module_map(term)
