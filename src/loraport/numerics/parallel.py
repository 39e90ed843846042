"""Independent pieces of numerical work side by side, with the same bytes however many run at once.

torch.linalg lets go of Python's lock, so that threads do. Every piece has one thread of the linear
algebra's: what LAPACK returns depends on how many it has, and threads that wait for each other cost
most where cores are shared.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

import torch

from .pool import side_by_side

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """Yield `function(item)` of each item, in their order, while up to `workers` calls run.

    No more than `workers` results are being made or waited for, beside the one that the caller
    holds. The first error ends it: what has not begun never does.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    # a thread that was never told has as many as there are cores, until its first parallel loop
    try:
        yield from side_by_side(function, items, workers, partial(torch.set_num_threads, 1))
    finally:
        torch.set_num_threads(before)
