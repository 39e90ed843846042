"""Maps are held from when they are made until they are written, and no longer."""

import threading
import time
import weakref
from dataclasses import replace

import methodcase
import pico
import pytest
import torch

from loraport.methods import aligned, make_maps, maps_ahead, names
from loraport.runtime.job import counted
from loraport.transfer import maps
from loraport.transfer.maps import write_maps

pytestmark = pytest.mark.usefixtures("one_thread")
PATH = [(0, 0), (1, 1), (1, 2), (2, 3)]
ROLES = 7
WAIT_SECONDS = 30


@pytest.fixture(scope="module")
def pair(pico_pair):
    moments = methodcase.collect_moments(pico_pair.old, pico_pair.new, PATH, pico.texts(20))
    return methodcase.make_method_pair(pico_pair.old, pico_pair.new, PATH, moments)


class Watched:
    """Matrices of `aligned` that are alive, as they are made and let go."""

    def __init__(self, monkeypatch):
        self.alive: list[weakref.ref[torch.Tensor]] = []
        made = aligned.as_stored

        def told(matrix: torch.Tensor, error: float) -> torch.Tensor:
            matrix = made(matrix, error)
            self.alive.append(weakref.ref(matrix))
            self.most = max(self.most, self.bytes())
            return matrix

        self.most = 0
        monkeypatch.setattr(aligned, "as_stored", told)

    def bytes(self) -> int:
        return sum(each.nbytes for ref in self.alive if (each := ref()) is not None)


def until(done) -> bool:
    """Whether it comes true: a thread lets go of what it wrote a moment after it has."""
    end = time.monotonic() + WAIT_SECONDS
    while not done() and time.monotonic() < end:
        time.sleep(0.001)
    return done()


def asked(pair, before):
    """The pair, which tells of each layer whose moments are asked for."""

    def moments(layer):
        before(layer)
        return pair.moments(layer)

    return replace(pair, moments=moments)


def test_written_maps_are_gone_when_the_next_layer_is_fitted(pair, tmp_path, monkeypatch):
    watched, written, left = Watched(monkeypatch), [], []
    write = maps._write_module

    def told(writer, entry, shared):
        write(writer, entry, shared)
        written.append(entry.role)

    def before(layer):
        assert until(lambda: len(written) == layer * ROLES)
        left.append(until(lambda: watched.bytes() == 0))

    monkeypatch.setattr(maps, "_write_module", told)
    made = counted(make_maps("aligned", asked(pair, before)), len(PATH) * ROLES, "maps")
    write_maps(tmp_path / "maps.h5", "aligned", {}, made, ROLES)
    assert left == [True] * len(PATH)


def test_a_layer_is_fitted_while_all_maps_of_the_one_before_wait(pair, tmp_path, monkeypatch):
    """The writer begins with a layer's maps when the next one's moments have been asked for."""
    watched, begun = Watched(monkeypatch), [threading.Event() for _ in range(len(PATH) + 1)]
    begun[-1].set()
    whole, alone, write, waited = [], [], maps._write_module, []

    def told(writer, entry, shared):
        waited.append(begun[entry.layer + 1].wait(WAIT_SECONDS))
        time.sleep(0.01)
        write(writer, entry, shared)

    def before(layer):
        if layer == 1:
            whole.append(watched.bytes())
        if layer:
            alone.append(until(lambda: watched.bytes() == whole[0]))
        begun[layer].set()

    monkeypatch.setattr(maps, "_write_module", told)
    made = counted(make_maps("aligned", asked(pair, before)), len(PATH) * ROLES, "maps")
    write_maps(tmp_path / "waited.h5", "aligned", {}, made, ROLES)
    assert all(waited) and alone == [True] * (len(PATH) - 1)
    assert 0 < whole[0] < watched.most <= 2 * whole[0]
    monkeypatch.undo()
    write_maps(tmp_path / "one.h5", "aligned", {}, make_maps("aligned", pair))
    assert (tmp_path / "waited.h5").read_bytes() == (tmp_path / "one.h5").read_bytes()


def test_a_layers_maps_wait_where_they_are_finished_together_beside_a_gpu(pair):
    on_gpu = replace(pair, device="cuda")
    assert maps_ahead("aligned", on_gpu) == ROLES and maps_ahead("aligned", pair) == 1
    few = replace(on_gpu, settings={**pair.settings, "modules": ["q", "down", "linear_q"]})
    assert maps_ahead("aligned", few) == 2
    assert maps_ahead("aligned", replace(few, path=[])) == 2
    others = set(names()) - {"aligned"}
    assert {maps_ahead(name, on_gpu) for name in others} == {1}
