"""Two systems on the same items: the difference of their scores, its interval, and the items that
would settle a question about it.

Right-or-wrong items: Tango's score interval of a paired difference of proportions (T. Tango,
Statistics in Medicine 17, 891-908, 1998). It does not shrink to nothing where no item changed.
Graded items: a percentile bootstrap over items.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import LoraportError
from .statistics import bootstrap

# of the two-sided interval: each of its bounds is beyond the truth in 5 % of all cases
LEVEL = 0.9
MOST_ITEMS = 10**7  # beyond which a question counts as one that more items don't settle


@dataclass(frozen=True)
class Paired:
    """Scores of two systems on the same items, in the unit of the items.

    Attributes
    ----------
    first, second : mean scores
    difference, low, high : of `second − first`, with its interval
    gained, lost : items on which the second scores higher, and lower
    items : how many there are
    level, method : of the interval
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    gained: int
    lost: int
    items: int
    level: float
    method: str


def compare(first: ArrayLike, second: ArrayLike, *, level: float = LEVEL, seed: int = 0) -> Paired:
    """Compare two systems by their scores `(n,)` and `(n,)` of the same items, in one order.

    Raises
    ------
    LoraportError
        If there is no item, the two have not the same number, or a score is not finite.
    """
    a, b = (np.asarray(each, dtype=np.float64) for each in (first, second))
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise LoraportError(
            "two systems that are compared need scores of the same items",
            got=f"{a.shape} and {b.shape} scores",
            expected="one score an item of both, and at least one item",
        )
    gained, lost = int((b > a).sum()), int((b < a).sum())
    if np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all():
        method = "Tango's score interval of a paired difference of proportions"
        low, high = score_interval(gained, lost, len(a), level)
    else:
        method = "percentile bootstrap over items"
        spread = bootstrap(b - a, level=level, seed=seed)
        low, high = spread.low, spread.high
    mean_a, mean_b = float(a.mean()), float(b.mean())
    difference = float((b - a).mean())
    return Paired(mean_a, mean_b, difference, low, high, gained, lost, len(a), level, method)


def score_interval(gained: float, lost: float, items: float, level: float) -> tuple[float, float]:
    """Tango's interval of (gained − lost) / items, for the true difference of two proportions.

    Parameters
    ----------
    gained, lost : items that only the second, and only the first system got right

    Notes
    -----
    The bounds are those δ at which the score statistic is ±z. With no item changed they are
    ±z² / (n + z²).
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    at = (gained - lost) / items

    def statistic(delta: float) -> float:
        return _score_statistic(gained, lost, items, delta)

    low = _root(lambda delta: statistic(delta) - z, -1.0, at)
    high = _root(lambda delta: statistic(delta) + z, at, 1.0)
    return low, high


def _score_statistic(gained: float, lost: float, items: float, delta: float) -> float:
    """Tango's T(δ), standard normal where δ is the true difference; it falls with δ."""
    b = -gained - lost + (2 * items - gained + lost) * delta
    c = -lost * delta * (1 - delta)
    likeliest = (math.sqrt(max(b * b - 8 * items * c, 0.0)) - b) / (4 * items)  # P(lost), given δ
    variance = items * (2 * likeliest + delta * (1 - delta))
    above = gained - lost - items * delta
    if variance <= 0:
        return math.copysign(math.inf, above) if above else 0.0
    return above / math.sqrt(variance)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function passes zero; the end that it does not reach, if it does not."""
    if function(low) <= 0:
        return low
    if function(high) >= 0:
        return high
    for _ in range(80):
        middle = (low + high) / 2
        if function(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def items_to_settle(paired: Paired, bound: float) -> int | None:
    """How many more items put the interval on one side of `bound`, if they turn out as these did.

    None where no number of them would: the difference is the bound itself.
    """

    def settled(items: float) -> bool:
        low, high = _interval_of(paired, items)
        return low > bound or high < bound

    if settled(paired.items):
        return 0
    below, above = paired.items, paired.items
    while not settled(above):
        below, above = above, 2 * above
        if above > MOST_ITEMS:
            return None
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if settled(middle) else (middle, above)
    return above - paired.items


def _interval_of(paired: Paired, items: float) -> tuple[float, float]:
    """The interval that `items` items would give, with the same shares."""
    share = items / paired.items
    if paired.method.startswith("Tango"):
        counts = paired.gained * share, paired.lost * share
        return score_interval(*counts, items, paired.level)
    narrower = math.sqrt(1 / share)
    return (
        paired.difference - (paired.difference - paired.low) * narrower,
        paired.difference + (paired.high - paired.difference) * narrower,
    )


def told(paired: Paired, scale: float = 1.0) -> dict[str, Any]:
    """A comparison in points (100 of a whole), as verdicts record it.

    Parameters
    ----------
    scale : the best score that an item can have
    """
    points = 100 / scale
    return {
        "first": points * paired.first,
        "second": points * paired.second,
        "difference": points * paired.difference,
        "low": points * paired.low,
        "high": points * paired.high,
        "gained": paired.gained,
        "lost": paired.lost,
        "items": paired.items,
        "level": paired.level,
        "method": paired.method,
    }
