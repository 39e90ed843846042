"""Maps that are made on a GPU: on no operation do tensors of two devices meet, and all is equal."""

import numpy as np
import pico
import pytest
import torch
from inprocess import READING, PairRun, numbers
from pretended import GPU, NAME, OnGPU

from loraport.mapping import in_turn
from loraport.methods import names as methods
from loraport.methods import needs, settings
from loraport.models.families import ROLES

pytestmark = pytest.mark.usefixtures("one_thread")
ASKED = {
    "modules": list(ROLES),
    "ridge": "auto",
    "prior": "procrustes",
    "writes": "stream",
    "singular": 320,
    "side": "input",
    "cross_terms": "drop",
}
SUMMED = {"reading": READING, "modules": list(ROLES)}
BY_WEIGHTS = {"models", "layers"}  # what methods need that read no text
EQUAL = 1e-5  # of a dataset's largest number, which is stored in float32


@pytest.fixture(scope="module")
def here(pico_pair, tmp_path_factory):
    """Artifacts of the pair, made on the CPU."""
    return PairRun(tmp_path_factory.mktemp("here"), pico_pair.old, pico_pair.new, pico_pair.texts)


@pytest.fixture(scope="module")
def alike(pico_pair, tmp_path_factory):
    """A pair of equal shapes."""
    root = tmp_path_factory.mktemp("alike")
    sizes = {"hidden": 32, "intermediate": 56, "layers": 3, "heads": 4, "kv_heads": 2}
    new = pico.make_model(root / "new", seed=5, vocab_words=220, **sizes)
    return PairRun(root, pico_pair.old, new, pico_pair.texts)


def assert_equal(one, other):
    first, second = numbers(one), numbers(other)
    assert first.keys() == second.keys() and first
    for name in (each for each in first if " @" not in each):
        values = first[name].astype(np.float64)
        assert np.abs(values - second[name]).max() <= EQUAL * np.abs(values).max(), name


def test_lorasuite_on_a_gpu_makes_the_same_artifacts(pico_pair, here, tmp_path):
    paths = {name: getattr(here, name)() for name in ("embedding", "heads", "maps")}
    with GPU():
        there = PairRun(tmp_path, pico_pair.old, pico_pair.new, pico_pair.texts, device=NAME)
        for name, path in paths.items():
            assert_equal(path, getattr(there, name)())


def maps(run, method, device, inputs, word=""):
    """A method's maps, as its rule makes them on a device."""
    asked = {**ASKED, "device": device}
    params = {"summed": SUMMED} if "moments" in needs(method) else {}
    return run._script(
        "maps",
        f"{method}_{device}{word}.h5",
        inputs,
        method=method,
        settings={key: asked[key] for key in settings(method) if key in asked},
        sources={"texts": str(run.texts), **run._sources()},
        **params,
    )


@pytest.mark.parametrize("room", [0, in_turn.SUMS_ROOM_BYTES])
@pytest.mark.parametrize("method", ["aligned", "theseus"])
def test_sums_and_fits_on_a_gpu_make_the_same_maps(here, monkeypatch, method, room):
    monkeypatch.setattr(in_turn, "SUMS_ROOM_BYTES", room)
    inputs = {**here._specs(), "layers": here.layers()}
    one = maps(here, method, "cpu", inputs)
    with GPU():
        assert_equal(one, maps(here, method, NAME, inputs, str(room)))


@pytest.mark.parametrize("method", [each for each in methods() if set(needs(each)) <= BY_WEIGHTS])
def test_methods_by_weights_on_a_gpu_make_the_same_maps(alike, method):
    inputs = {**alike._specs(), "layers": alike.layers()}
    one = maps(alike, method, "cpu", inputs)
    with GPU():
        assert_equal(one, maps(alike, method, NAME, inputs))


def test_tensors_of_two_devices_are_refused():
    with GPU():
        there = torch.ones(2, 2, device=NAME)
        assert isinstance(there, OnGPU)
        assert torch.equal((there @ there).cpu(), torch.full((2, 2), 2.0))
        with pytest.raises(RuntimeError, match="on the CPU and on the GPU"):
            there @ torch.ones(2, 2)
