"""Independent pieces of numerical work side by side, with the same bytes however many run at once.

torch.linalg lets go of Python's lock, so that threads do. Every piece has one thread of the linear
algebra's: what LAPACK returns depends on how many it has, and threads that wait for each other cost
most where cores are shared.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

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
    try:
        yield from _pooled(function, items, workers) if workers > 1 else map(function, items)
    finally:
        torch.set_num_threads(before)


def _pooled(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    left = iter(items)
    # a thread that was never told has as many as there are cores, until its first parallel loop
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        waiting = deque(pool.submit(function, item) for item in islice(left, workers))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(left, 1))
            yield result
            del result  # the next one may take long
    finally:
        pool.shutdown(cancel_futures=True)
