"""Independent calls side by side, their results in order; no torch, as the transfer is."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    begin: Callable[[], object] | None = None,
) -> Iterator[Result]:
    """Yield `function(item)` of each item, in their order, while up to `workers` threads run.

    No more than `workers` results are being made or waited for, beside the one that the caller
    holds. The first error ends it: what has not begun never does. One worker is the caller's own
    thread.

    Parameters
    ----------
    begin : what each thread calls first
    """
    if workers <= 1:
        yield from map(function, items)
        return
    left = iter(items)
    pool = ThreadPoolExecutor(workers, initializer=begin)
    try:
        waiting = deque(pool.submit(function, item) for item in islice(left, workers))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(left, 1))
            yield result
            del result  # the next one may take long
    finally:
        pool.shutdown(cancel_futures=True)
