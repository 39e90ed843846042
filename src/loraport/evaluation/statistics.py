"""Statistics over per-item scores: intervals, retention, flips, paired tests.

Pure functions over arrays; nothing here reads a file or a model. Items of two score vectors are
paired by position: callers check that both come from the same items.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its parts load when they are used: planning a run imports this and uses none
from numpy.typing import ArrayLike

from ..errors import LoraportError

LEVEL = 0.95  # confidence level of an interval
RESAMPLES = 2000  # bootstrap draws an interval
RESAMPLES_AT_ONCE = 64  # that are held in memory: 64 × 10,000 items are 5 MB
CORPUS_METRICS = ("bleu", "chrf")  # of a whole set, 0 to 100, and not the mean of its items


@dataclass(frozen=True)
class Interval:
    """A mean with its percentile-bootstrap interval; all three in the unit of the items."""

    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of high − low, in the unit of the items."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Retention:
    """Share of LoRA(full)'s gain over the bare model that a method keeps.

    `value`, `low` and `high` are None where the gain is too small to divide by; `reason` says so.
    """

    value: float | None
    low: float | None
    high: float | None
    reason: str = ""


@dataclass(frozen=True)
class Flips:
    """Items that changed between two systems; counts, of `items`."""

    negative: int
    positive: int
    items: int


@dataclass(frozen=True)
class McNemar:
    """Exact McNemar test: items that only the first, or only the second, got right; two-sided p."""

    only_first: int
    only_second: int
    p_value: float


def tails(level: float) -> tuple[float, float]:
    """Percentiles between which a share `level` of the draws lies, in the middle."""
    tail = 100 * (1 - level) / 2
    return tail, 100 - tail


def bootstrap(
    items: ArrayLike, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean of `items (n,)` and its percentile-bootstrap interval over items.

    Raises
    ------
    LoraportError
        Where there is no item, or one that is not finite.
    """
    values = _items(items)
    if len(values) == 1:
        return Interval(float(values[0]), float(values[0]), float(values[0]))
    interval = scipy.stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        batch=RESAMPLES_AT_ONCE,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(values.mean()), float(interval.low), float(interval.high))


def difference(
    first: ArrayLike,
    second: ArrayLike,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean of `first − second`, both `(n,)` over the same items, with its paired interval."""
    a, b = _paired(first, second)
    return bootstrap(a - b, level=level, resamples=resamples, seed=seed)


def retention(
    method: ArrayLike,
    bare: ArrayLike,
    full: ArrayLike,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Retention:
    """(method − bare) / (full − bare) over the same items, `(n,)` each, with a paired interval.

    Undefined where full − bare is under twice its interval's half-width (its "±"): a ratio over a
    gain that small says nothing. Items are resampled jointly, and resamples without a gain are left
    out of the interval (at two half-widths they are rare).
    """
    m, b = _paired(method, bare)
    f, _ = _paired(full, bare)
    gain = difference(f, b, level=level, resamples=resamples, seed=seed)
    if gain.mean <= 0 or gain.mean < 2 * gain.half_width:
        return Retention(
            None,
            None,
            None,
            f"new LoRA on all data − new model is {gain.mean:.3f} ± {gain.half_width:.3f}, "
            "under twice its interval",
        )
    rng = np.random.default_rng(seed)
    ratios: list[float] = []
    for _ in range(resamples):
        drawn = rng.integers(len(m), size=len(m))
        whole = float((f[drawn] - b[drawn]).mean())
        if whole > 0:
            ratios.append(float((m[drawn] - b[drawn]).mean()) / whole)
    low, high = np.percentile(ratios, tails(level))
    return Retention(float((m - b).mean() / gain.mean), float(low), float(high))


def flips(old: ArrayLike, new: ArrayLike) -> Flips:
    """Negative (`old` right, `new` wrong) and positive flips, over right/wrong items `(n,)`."""
    a, b = _correct(old, new)
    return Flips(int((a & ~b).sum()), int((~a & b).sum()), len(a))


def mcnemar(first: ArrayLike, second: ArrayLike) -> McNemar:
    """Exact two-sided McNemar test of two systems on the same right/wrong items `(n,)`.

    Under the null hypothesis the discordant items are fair coin flips (binomial test).
    """
    a, b = _correct(first, second)
    only_first, only_second = int((a & ~b).sum()), int((~a & b).sum())
    discordant = only_first + only_second
    p = 1.0 if discordant == 0 else float(scipy.stats.binomtest(only_first, discordant, 0.5).pvalue)
    return McNemar(only_first, only_second, p)


def average(tasks: Mapping[str, float]) -> float:
    """Unweighted mean over tasks, as the published tables take it."""
    if not tasks:
        raise LoraportError("an average over no task", got=0, expected="at least one task")
    return math.fsum(tasks.values()) / len(tasks)


def average_interval(
    tasks: Mapping[str, ArrayLike],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Unweighted mean over tasks of their item means; items are resampled within each task."""
    values = [_items(tasks[name]) for name in sorted(tasks)]
    rng = np.random.default_rng(seed)
    drawn = np.zeros(resamples)
    for items in values:
        for start in range(0, resamples, RESAMPLES_AT_ONCE):
            size = (min(RESAMPLES_AT_ONCE, resamples - start), len(items))
            drawn[start : start + RESAMPLES_AT_ONCE] += items[
                rng.integers(len(items), size=size)
            ].mean(axis=1)
    drawn /= len(values)
    low, high = np.percentile(drawn, tails(level))
    return Interval(average({n: float(_items(v).mean()) for n, v in tasks.items()}), low, high)


def _items(items: ArrayLike) -> np.ndarray:
    values = np.asarray(items, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise LoraportError(
            "a score over no item",
            got=f"shape {values.shape}",
            expected="one number an item",
            todo="check `limit` and the task's data",
        )
    if not np.isfinite(values).all():
        raise LoraportError("an item's score is NaN or Inf", got=values[~np.isfinite(values)][:3])
    return values


def _paired(first: ArrayLike, second: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = _items(first), _items(second)
    if a.shape != b.shape:
        raise LoraportError(
            "two scores over different items cannot be compared",
            got=f"{len(a)} and {len(b)} items",
            expected="the same items in the same order",
            todo="score both with the same tasks and the same `limit`",
        )
    return a, b


def _correct(first: Sequence | ArrayLike, second: Sequence | ArrayLike) -> tuple:
    a, b = _paired(first, second)
    for values in (a, b):
        if not np.isin(values, (0.0, 1.0)).all():
            raise LoraportError(
                "flips and McNemar's test need items that are right or wrong",
                got=float(values[~np.isin(values, (0.0, 1.0))][0]),
                expected="0 or 1",
                todo="use them for tasks that are scored by accuracy",
            )
    return a.astype(bool), b.astype(bool)
