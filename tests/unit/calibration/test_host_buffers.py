"""Memory that sums come to from a GPU: kept for the next layer pair, and locked."""

from types import SimpleNamespace

import pico
import pytest
import torch
from pretended import GPU, NAME, OnGPU
from torch.utils._python_dispatch import TorchDispatchMode

from loraport.calibration import host_buffers, sums
from loraport.calibration.host_buffers import HostBuffers
from loraport.calibration.moments import SUMS, Moments
from loraport.calibration.sums import layer_moments
from loraport.calibration.walk import open_walks
from loraport.models.spec import open_model

pytestmark = pytest.mark.usefixtures("one_thread")
PATH = [(0, 0), (1, 1), (2, 2)]


def numbers(*shape):
    return torch.arange(float(torch.Size(shape).numel()), dtype=torch.float64).view(shape)


def test_a_copy_takes_the_place_of_the_one_before_by_its_name():
    buffers = HostBuffers("cpu")
    first, other = buffers.copied("a", numbers(3, 4)), buffers.copied("b", numbers(5))
    second = buffers.copied("a", 2 * numbers(2, 5))
    assert torch.equal(second, 2 * numbers(2, 5)) and torch.equal(other, numbers(5))
    assert second.data_ptr() == first.data_ptr() and torch.equal(
        first.flatten()[:10], 2 * numbers(10)
    )
    larger = buffers.copied("a", numbers(4, 4))
    assert torch.equal(larger, numbers(4, 4)) and torch.equal(second, 2 * numbers(2, 5))
    assert buffers.copied("a", numbers(2)).data_ptr() == larger.data_ptr()


class Driver:
    """Locks pages, or refuses to; what it locked and unlocked, in order."""

    def __init__(self, refuses=False):
        self.refuses, self.told = refuses, []

    def locked(self, values, device):
        self.told.append(("lock", values.data_ptr()))
        return None if self.refuses else lambda: self.told.append(("unlock", values.data_ptr()))


def test_large_buffers_are_locked_and_unlocked_before_they_are_let_go(monkeypatch):
    driver = Driver()
    monkeypatch.setattr(host_buffers, "locked", driver.locked)
    monkeypatch.setattr(host_buffers, "LOCKED_FROM_BYTES", 64)
    buffers = HostBuffers("cuda:1")
    small, first = buffers.copied("small", numbers(7)), buffers.copied("a", numbers(8))
    second = buffers.copied("a", numbers(9))
    one, two = first.data_ptr(), second.data_ptr()
    assert driver.told == [("lock", one), ("unlock", one), ("lock", two)]
    buffers.close()
    assert driver.told[3:] == [("unlock", two)]
    assert torch.equal(second, numbers(9)) and torch.equal(small, numbers(7))


def test_a_driver_that_refuses_is_asked_once_and_buffers_are_plain(monkeypatch):
    driver = Driver(refuses=True)
    monkeypatch.setattr(host_buffers, "locked", driver.locked)
    monkeypatch.setattr(host_buffers, "LOCKED_FROM_BYTES", 0)
    buffers = HostBuffers("cuda")
    assert torch.equal(buffers.copied("a", numbers(8)), numbers(8))
    assert torch.equal(buffers.copied("b", numbers(9)), numbers(9))
    buffers.close()
    assert [what for what, _ in driver.told] == ["lock"]


@pytest.mark.parametrize("refused", [0, 1])
def test_the_driver_is_asked_for_all_bytes_of_a_tensor(monkeypatch, refused):
    told = []

    def register(*given):
        told.append(given)
        return 2 * refused

    def clear(*_, **__):
        told.append("cleared")
        raise RuntimeError("CUDA error: out of memory")

    runtime = SimpleNamespace(
        cudaHostRegister=register, cudaHostUnregister=lambda place: told.append(place)
    )
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())
    monkeypatch.setattr(host_buffers.torch, "ones", clear)
    values = torch.zeros(6, dtype=torch.float64)
    unlock = host_buffers.locked(values, torch.device("cuda:0"))
    place = values.data_ptr()
    if refused:
        assert unlock is None and told == [(place, 48, 0), "cleared"]
    else:
        unlock()
        assert told == [(place, 48, 0), place]


def opened(pair):
    models = open_model(pair.old), open_model(pair.new)
    settings = {"stream": "auto", "device": "cpu", "max_tokens": 64, "batch_size": 4}
    return models, *open_walks(models, pico.texts(20), settings, [False, False])


def flat(layer):
    """Copies of a layer pair's numbers, and where they lie."""
    each = [m for parts in layer.values() for m in parts]
    there = [x for m in each for name in SUMS if (x := getattr(m, name)) is not None]
    assert all(type(x) is torch.Tensor for x in there)
    return [x.clone() for x in (*there, *(m.sizes for m in each))], [x.data_ptr() for x in there]


def test_sums_of_a_gpu_are_the_same_in_memory_that_is_used_again(pico_pair):
    found = {}
    for reuse in (False, True):
        with GPU():
            layers = layer_moments(*opened(pico_pair), PATH, NAME, reuse=reuse)
            found[reuse] = [flat(each) for each in layers]
    for (once, _), (again, _) in zip(*found.values(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    places = [tuple(there) for _, there in found[True]]
    assert len(set(places)) == 1 and len(set(places[0])) == len(places[0])


def test_sums_that_may_not_be_overwritten_stay_as_they_were(pico_pair):
    with GPU():
        layers = list(layer_moments(*opened(pico_pair), PATH, NAME))
    places = [place for each in layers for place in flat(each)[1]]
    assert len(set(places)) == len(places)


class Waits(TorchDispatchMode):
    """Counts how often the host asks a GPU for a number, which it has to wait for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("rms", [False, True])
def test_the_host_waits_for_no_number_while_it_sums(rms):
    x, y, size = numbers(4, 3), numbers(4, 2) / 3, numbers(4, 1) / 7
    expected = [0.0, 0.0, 0.0]
    with GPU():
        moments = Moments.empty("inner", 3, 2, NAME)
        waits = Waits()
        for number in range(3):
            add = [(each + number).to(NAME) for each in (x, y, size)]
            with waits:
                moments.add(*add[:2], add[2] if rms else None)
            expected[0] += float((x + number).square().sum())
            expected[1] += float((y + number).square().sum())
            expected[2] += float((size + number).sum()) if rms else 0.0
        assert isinstance(moments.sizes, OnGPU) and waits.count == 0
        with waits:
            told = [moments.square_old, moments.square_new, moments.rms_old, moments.rms_new]
    assert told == [*expected, 0.0] and waits.count == 4


def test_memory_that_nothing_uses_is_let_go_where_sums_leave_the_gpu(pico_pair, monkeypatch):
    told = []
    monkeypatch.setattr(sums, "let_go", lambda: told.append("let go"))
    with GPU():
        for _ in layer_moments(*opened(pico_pair), PATH, NAME):
            told.append("given")
        assert told == ["let go", "given"] * len(PATH)
        told.clear()
        list(layer_moments(*opened(pico_pair), PATH, NAME, room=1 << 30))
        assert not told
