"""Work side by side: in order, bounded, one thread of the linear algebra each, the first error."""

import threading
import time

import pytest
import torch

from loraport.numerics.parallel import in_order


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_order_whichever_is_ready_first(workers):
    def slow(number: int) -> int:
        time.sleep(0.02 * (3 - number % 4))
        return number * number

    assert list(in_order(slow, range(7), workers)) == [n * n for n in range(7)]
    assert list(in_order(slow, [], workers)) == []


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_no_more_are_begun_than_workers_beside_what_the_caller_holds(workers):
    begun = []
    for given, number in enumerate(in_order(lambda n: begun.append(n) or n, range(9), workers), 1):
        assert number == given - 1
        time.sleep(0.01)  # time to run ahead
        assert len(begun) - given <= (workers if workers > 1 else 0)
    assert sorted(begun) == list(range(9))


def test_two_workers_are_at_work_at_the_same_time():
    meeting = threading.Barrier(2)
    assert [each >= 0 for each in in_order(lambda _: meeting.wait(30), range(4), 2)] == [True] * 4


def test_items_are_taken_as_they_are_needed():
    taken = []
    items = (taken.append(n) or n for n in range(9))
    results = in_order(lambda n: n, items, 2)
    assert next(results) == 0
    assert len(taken) == 3
    results.close()
    assert len(taken) == 3


@pytest.mark.parametrize("workers", [1, 3])
def test_each_has_one_thread_and_the_caller_has_its_own_again(workers):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert set(in_order(lambda _: torch.get_num_threads(), range(5), workers)) == {1}
        assert torch.get_num_threads() == 2
        results = in_order(lambda n: 1 / n, [1, 0, 2], workers)
        with pytest.raises(ZeroDivisionError):
            list(results)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_after_an_error_nothing_more_begins():
    begun = []

    def fail(number: int) -> int:
        begun.append(number)
        time.sleep(0.01)
        if number == 1:
            raise ValueError("of the second")
        return number

    with pytest.raises(ValueError, match="of the second"):
        list(in_order(fail, range(50), 2))
    assert len(begun) < 6


def test_bytes_do_not_depend_on_the_number_of_workers():
    noise = torch.randn(3, 200, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def decomposed(x: torch.Tensor) -> bytes:
        values, vectors = torch.linalg.eigh(x.T @ x)
        return b"".join(each.numpy().tobytes() for each in (values, vectors))

    found = [list(in_order(decomposed, noise, workers)) for workers in (1, 2, 3)]
    assert found[0] == found[1] == found[2]
