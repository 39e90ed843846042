"""Moments as an artifact of the pair: stored, read again, and made by the rule's script."""

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import h5py
import methodcase
import numpy as np
import pico
import pytest
import torch
from inprocess import CALIBRATION, PairRun
from pretended import GPU, NAME, OnGPU

from loraport.artifacts import identity, sha256, write_h5
from loraport.calibration import moments, moments_file, resume
from loraport.calibration.batches import PARTS, Batch
from loraport.calibration.moments import Moments, site_bytes
from loraport.calibration.moments_file import pack, read_moments, unpack, write_layer
from loraport.calibration.resume import KeptMoments, digest
from loraport.calibration.sites import READS, SITES, STREAM, WRITES, needed
from loraport.calibration.sums import layer_moments
from loraport.calibration.walk import Walk, open_walks
from loraport.errors import LoraportError
from loraport.methods import make_maps
from loraport.models.families import ROLES
from loraport.models.spec import open_model

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ("cross", "gram_old", "gram_new", "sum_old", "sum_new")


def same(first: dict, second: dict, **tolerance) -> bool:
    """Whether two layers' moments agree, and hold the same sites and sums."""
    for site in first.keys() | second.keys():
        for a, b in zip(first[site], second[site], strict=True):
            numbers = (a.count, a.square_old, a.square_new), (b.count, b.square_old, b.square_new)
            if numbers[0] != pytest.approx(numbers[1]):
                return False
            for name in NAMES:
                x, y = getattr(a, name), getattr(b, name)
                if name in moments_file.GRAMS and x is not None and y is not None:
                    x, y = x.tril(), y.tril()  # what is stored
                if (x is None) != (y is None) or not (
                    x is None or torch.allclose(x, y, **tolerance)
                ):
                    return False
    return True


def test_what_is_stored_is_what_is_read(pico_pair, tmp_path):
    found = methodcase.collect_moments(pico_pair.old, pico_pair.new, [(0, 2)], pico.texts(8))[0]
    with write_h5(tmp_path / "moments.h5", "moments", {}) as writer:
        write_layer(writer, 2, 0, found)
    assert same(read_moments(tmp_path / "moments.h5", 2), found, rtol=0, atol=0)


def test_only_the_sums_that_a_map_needs_are_held(pico_pair):
    found = methodcase.collect_moments(pico_pair.old, pico_pair.new, [(0, 0)], pico.texts(8))[0]
    for site, parts in found.items():
        assert len(parts) == len(PARTS)
        streams = set(STREAM.values())
        read, written = {*READS.values(), *streams}, {*WRITES.values(), *streams}
        assert (parts[0].gram_new is not None) == (site in read), site
        assert (parts[0].gram_old is not None) == (site in written), site


def test_a_symmetric_matrix_is_stored_as_its_lower_triangle():
    matrix = np.array([[1.0, 2.0, 4.0], [2.0, 3.0, 5.0], [4.0, 5.0, 6.0]])
    assert pack(matrix).tolist() == [1, 2, 3, 4, 5, 6]
    for size in (1, 2, 3, 64):
        square = np.arange(size * size, dtype=float).reshape(size, size)
        assert np.array_equal(unpack(pack(square + square.T)), square + square.T)


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        (["q"], {"q": (True, False), "attention": (False, True)}),
        (["up"], {"inner": (True, False), "mlp": (False, True)}),
        (
            ["down"],
            {"inner": (False, True), "down": (True, False), "stream": (True, True)},
        ),
    ],
)
def test_only_the_sites_that_the_modules_maps_are_fitted_at_are_summed(roles, expected):
    assert needed(roles) == expected
    assert needed(ROLES).keys() == SITES.keys()


def test_fewer_modules_have_the_same_maps_of_smaller_sums(pico_pair):
    old, new = pico_pair.old, pico_pair.new
    models = open_model(old), open_model(new)
    assert site_bytes(*models, ["q", "k", "v", "o"]) < 0.5 * site_bytes(*models)
    path, texts, made = [(0, 0)], pico.texts(20), {}
    for roles in (["q", "o", "down"], ROLES):
        sums = methodcase.collect_moments(old, new, path, texts, roles)
        pair = methodcase.make_method_pair(old, new, path, sums, modules=["q", "o", "down"])
        made[roles == ROLES] = list(make_maps("aligned", pair))
    for few, all_ in zip(made[False], made[True], strict=True):
        for side in ("left", "right"):
            (a,), (b,) = (getattr(entry.terms[0], side) for entry in (few, all_))
            assert a.name == b.name and torch.equal(a.matrix, b.matrix)


def test_sums_that_are_not_there_are_told(pico_pair, tmp_path):
    found = methodcase.collect_moments(
        pico_pair.old, pico_pair.new, [(0, 0)], pico.texts(8), ["q"]
    )[0]
    with write_h5(tmp_path / "moments.h5", "moments", {}) as writer:
        write_layer(writer, 0, 0, found)
    stored = read_moments(tmp_path / "moments.h5", 0)
    assert "inner" not in stored and set(stored) == {"q", "attention"}
    with pytest.raises(LoraportError, match=r"no sums at inner of layer 0.*"):
        stored["inner"]


@pytest.mark.parametrize("room", [0, 1 << 30])
def test_sums_are_on_the_device_part_by_part_or_stay_where_there_is_room(
    pico_pair, monkeypatch, room
):
    monkeypatch.setattr(moments, "ADDED_AT_ONCE", 20)  # triangles, as on a GPU
    there, most = set(), []
    leave, empty = Moments.leave, Moments.empty

    def begun(*args):
        made = empty(*args)
        there.add(id(made))
        most.append(len(there))
        return made

    def left(self, copied):
        there.discard(id(self))
        leave(self, copied)

    monkeypatch.setattr(Moments, "empty", begun)
    monkeypatch.setattr(Moments, "leave", left)
    models = open_model(pico_pair.old), open_model(pico_pair.new)
    settings = {"stream": "auto", "device": "cpu", "max_tokens": 64, "batch_size": 4}
    walks, batches = open_walks(models, pico.texts(20), settings, [False, False])
    assert [batch.part for batch in batches] == ["fit"] * 4 + ["held"]
    with GPU():
        (sums,) = layer_moments(models, walks, batches, [(0, 0)], NAME, room=room)
    count = len(needed(pico.PATHS))
    assert max(most) == (2 if room else 1) * len(sums) and len(sums) == count
    each = [m for parts in sums.values() for m in parts]
    assert {isinstance(m.cross, OnGPU) for m in each} == {bool(room)}
    for m in each if room else ():
        m.leave(lambda name, values: values.cpu())
    walks, batches = open_walks(models, pico.texts(20), settings, [False, False])
    (whole,) = layer_moments(models, walks, batches, [(0, 0)], "cpu")
    for site, parts in sums.items():
        for part, other in zip(parts, whole[site], strict=True):
            for a, b in ((part.gram_old, other.gram_old), (part.gram_new, other.gram_new)):
                if a is not None:
                    assert torch.equal(a, a.T) and torch.allclose(a, b, rtol=1e-9)


@pytest.mark.parametrize(
    ("texts", "told"),
    [(pico.texts(4), "4 texts, .* held out"), (["", "", "", "", "a b c"], "5 texts, .* to fit on")],
)
def test_texts_that_leave_a_part_empty_are_refused(pico_pair, texts, told):
    with pytest.raises(LoraportError, match=f"too few texts .*{told}.*at least 5"):
        methodcase.collect_moments(pico_pair.old, pico_pair.new, [(0, 0)], texts)
    assert methodcase.collect_moments(pico_pair.old, pico_pair.new, [(0, 0)], pico.texts(5))


class Rule:
    """The rule's script on a pico pair, in a folder of its own."""

    def __init__(self, folder: Path, pair):
        self.run, self.pair = PairRun(folder, pair.old, pair.new, pair.texts), pair
        keys = ("examples", "max_tokens", "batch_size", "device", "stream")
        self.reading = {
            "texts_version": "1",
            "remote_code": [False, False],
            "calibration": {key: CALIBRATION[key] for key in keys},
        }

    def __call__(self, name: str) -> Path:
        specs = {f"{side}_spec": self.run.spec(side) for side in ("old", "new")}
        sources = {"texts": str(self.pair.texts), **self.run._sources()}
        return self.run._script(
            "moments", name, {**specs, "layers": self.run.layers()}, sources=sources,
            reading=self.reading, settings={"modules": list(ROLES)},
        )  # fmt: skip


def test_the_rule_stores_what_the_models_do(pico_pair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rule = Rule(tmp_path, pico_pair)
    file = rule("moments.h5")
    texts = Path(pico_pair.texts).read_text().splitlines()
    expected = methodcase.collect_moments(pico_pair.old, pico_pair.new, rule.run.path(), texts)
    for (_, layer), found in zip(rule.run.path(), expected, strict=True):
        assert same(read_moments(file, layer), found, rtol=1e-4, atol=1e-2)
    assert not list(Path("artifacts/.resume/moments").glob("*"))


# ---- a run that is cut off

KILLED = """
import json, os, signal, sys
from types import SimpleNamespace
folder, tests, pair, name, times = json.loads(sys.argv[1])
sys.path[:0] = [tests, tests + "/unit/calibration"]
import test_moments as here
from loraport.calibration import resume as kept
kept.SAVE_EVERY_S = 0.0
written = getattr(kept, name)
def write(*arguments):
    global times
    times -= 1
    if times < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return written(*arguments)
setattr(kept, name, write)
here.Rule(folder, SimpleNamespace(**pair))("killed.h5")
"""


def run_and_kill(folder: Path, pair, name: str, times: int) -> None:
    """Run the rule, keeping sums after each layer; killed in the call of `name` after `times`."""
    paths = {name: str(getattr(pair, name)) for name in ("old", "new", "texts")}
    call = json.dumps([str(folder), str(Path(__file__).parents[2]), paths, name, times])
    killed = subprocess.run([sys.executable, "-c", KILLED, call], cwd=folder, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]


@pytest.mark.parametrize(
    ("name", "times", "left"),  # of three layers; streams are kept of both walks
    [
        pytest.param("write_layer", 0, 3, id="with_nothing_kept", marks=pytest.mark.slow),
        pytest.param("_write_reached", 1, 3, id="before_its_streams", marks=pytest.mark.slow),
        pytest.param("write_layer", 1, 2, id="after_a_layer", marks=pytest.mark.slow),
        pytest.param("_write_reached", 3, 2, id="before_the_next_streams"),
    ],
)
def test_a_killed_run_goes_on_at_its_block_and_ends_with_the_same_bytes(
    pico_pair, tmp_path, monkeypatch, name, times, left
):
    monkeypatch.chdir(tmp_path)
    rule = Rule(tmp_path, pico_pair)
    whole = rule("whole.h5")
    run_and_kill(tmp_path, pico_pair, name, times)
    assert not (tmp_path / "killed.h5").exists()
    assert list(tmp_path.glob("artifacts/.resume/moments/*/.*.tmp"))  # half-written
    run = Counter()
    run_block = Walk._run
    monkeypatch.setattr(
        Walk, "_run", lambda self, n: run.update([self.layer]) or run_block(self, n)
    )
    assert sha256(rule("killed.h5")) == sha256(whole)
    old, new, batches = range(3 - left, 3), range(3 - left, 4), 5
    assert run == {layer: batches * ((layer in old) + 1) for layer in new}
    assert not list(Path("artifacts/.resume/moments").glob("*"))


class Cut:
    """Walks of a pico pair whose moments are kept after each of two layer pairs."""

    PAIRS = ((0, 0), (1, 2))

    def __init__(self, folder: Path, pair):
        self.models, self.folder = (open_model(pair.old), open_model(pair.new)), folder

    def walks(self):
        settings = {"stream": "auto", "device": "cpu", "max_tokens": 64, "batch_size": 4}
        return open_walks(self.models, pico.texts(8), settings, [False, False])

    def run(self, kept_at: str, made_from: dict, pairs=PAIRS, until: int = 2) -> tuple:
        """Sums of the first layer pairs, and how many were already there."""
        walks, batches = self.walks()
        with write_h5(self.folder / "moments.h5", "moments", {}) as file:
            kept = KeptMoments(self.folder / "kept", kept_at, made_from, pairs, file)
            there = []
            load = kept.load
            kept.load = lambda walks: there.extend(load(walks)) or there
            found = layer_moments(self.models, walks, batches, pairs, "cpu", kept=kept)
            sums = []
            for (old_layer, layer), each in zip(pairs[:until], found, strict=False):
                write_layer(file, layer, old_layer, each)
                sums.append(dict(each))
        return sums, len(there)


def test_what_is_kept_is_used_for_what_it_was_made_from_alone(pico_pair, tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "SAVE_EVERY_S", 0.0)
    made_from = {"old_spec": "1", "layers": "2", "how": "3"}
    cut = Cut(tmp_path, pico_pair)
    whole, there = cut.run("p/moments.h5", made_from)
    assert there == 0
    (streams,) = tmp_path.glob("kept/*/streams.h5")
    file = streams.with_name("layer_0.h5")
    assert {path.name for path in streams.parent.iterdir()} == {"streams.h5", "layer_0.h5"}
    assert identity(file)[1]["how"] == identity(streams)[1]["how"] == "3"
    again, there = cut.run("p/moments.h5", made_from)
    assert there == 1
    for one, other in zip(again, whole, strict=True):
        assert same(one, other, rtol=0, atol=0)
    monkeypatch.setattr(resume, "SAVE_EVERY_S", 1e9)
    for change in made_from:
        assert cut.run("p/moments.h5", {**made_from, change: "another"})[1] == 0, change
    assert cut.run("p/moments.h5", made_from, ((0, 0), (1, 1)))[1] == 0
    assert cut.run("q/moments.h5", made_from)[1] == 0
    for path in (file, streams):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])  # cut short
        assert cut.run("p/moments.h5", made_from)[1] == 0, path
        path.write_bytes(content)
    content = bytearray(file.read_bytes())
    with h5py.File(file) as opened:
        place = opened["layer_0/inner/fit/cross"].id.get_chunk_info(0).byte_offset
    content[place + 3] ^= 0xFF
    file.write_bytes(content)
    assert cut.run("p/moments.h5", made_from)[1] == 0  # damaged


def test_streams_are_kept_once_the_time_has_passed_and_no_more_often(
    pico_pair, tmp_path, monkeypatch
):
    now, written = [100.0], []
    monkeypatch.setattr(resume.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(resume, "write_layer", lambda file, *what: written.append(what[0]))
    walks, _ = Cut(tmp_path, pico_pair).walks()
    with write_h5(tmp_path / "moments.h5", "moments", {}) as file:
        for layer in range(3):
            file.attributes(f"layer_{layer}", old_layer=layer)
        kept = KeptMoments(tmp_path, "moments.h5", {}, [(0, 0), (1, 1), (2, 2)], file)
        for seconds, done, expected in (
            (resume.SAVE_EVERY_S - 1, 1, []),
            (1, 2, [0, 1]),
            (0, 3, [0, 1]),
            (resume.SAVE_EVERY_S, 3, [0, 1, 2]),
        ):
            now[0] += seconds
            kept.save_if_due(walks, done)
            assert written == expected


def test_other_texts_or_settings_are_another_digest():
    def batch(part="fit", token=5):
        return Batch(
            part, [{"input_ids": torch.tensor([[1, token]])}] * 2, [torch.tensor([[0], [1]])] * 2
        )

    names = {
        digest([batch()], {"modules": ["q"]}, "cpu"),
        digest([batch(token=6)], {"modules": ["q"]}, "cpu"),
        digest([batch(part="held")], {"modules": ["q"]}, "cpu"),
        digest([batch(), batch()], {"modules": ["q"]}, "cpu"),
        digest([batch()], {"modules": ["k"]}, "cpu"),
        digest([batch()], {"modules": ["q"]}, "cuda"),
    }
    assert len(names) == 6
    assert digest([batch()], {"modules": ["q"]}, "cpu") in names
