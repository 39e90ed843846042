"""Matrices of maps: multiplied where they lie, checked once, narrow where nothing is lost."""

import threading
import time
import zlib
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest

from loraport.artifacts import H5Writer
from loraport.errors import LoraportError
from loraport.runtime import checked
from loraport.transfer import maps, stored
from loraport.transfer.maps import Dense, ModuleMap, Term, open_maps, write_maps

RNG = np.random.default_rng(1)
WIDE = RNG.standard_normal((37, 23)).astype(np.float32)
TYPES = {
    "matrix": WIDE,
    "bfloat16": WIDE.astype(ml_dtypes.bfloat16).astype(np.float32),
    "float16": WIDE.astype(np.float16).astype(np.float32),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(stored, "BLOCK_BYTES", 800)
    monkeypatch.setattr(stored, "LEAST_ROWS", 5)
    monkeypatch.setattr(checked, "_known", set())


def write(path: Path, *factors: Dense) -> Path:
    entries = [ModuleMap(0, "q", 0, (Term((factor,)),), 1.0, 1.0) for factor in factors[:1]]
    entries += [ModuleMap(0, "k", 0, (Term((), (factor,)),), 1.0, 1.0) for factor in factors[1:]]
    write_maps(path, "lorasuite", {}, entries)
    return path


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("name", ["", "shared"])
def test_products_are_those_of_the_matrix(tmp_path, kind, transposed, name):
    matrix = TYPES[kind]
    factor = Dense(matrix, name, transposed)
    with open_maps(write(tmp_path / "maps.h5", factor, factor)) as file:
        left, right = file.module(0, "q").terms[0], file.module(0, "k").terms[0]
        whole = (matrix.T if transposed else matrix).astype(np.float64)
        b, a = RNG.standard_normal((whole.shape[1], 3)), RNG.standard_normal((3, whole.shape[0]))
        assert np.allclose(left.carry_left(b), whole @ b, rtol=1e-13, atol=1e-13)
        assert np.allclose(right.carry_right(a), a @ whole, rtol=1e-13, atol=1e-13)
    assert stored.narrowed(matrix)[0] == kind
    with h5py.File(tmp_path / "maps.h5") as file:
        bytes_each = file[f"layer_0/q/term_0/L/0/{kind}"].dtype.itemsize
    assert bytes_each == (4 if kind == "matrix" else 2)


@pytest.mark.parametrize("ahead", [1, 2, 7])
def test_modules_are_written_in_order_while_the_next_ones_are_made(tmp_path, ahead):
    written, made = [], []
    write = maps._write_module

    def told(writer, entry, shared):
        written.append(entry.layer)
        write(writer, entry, shared)

    def entries():
        for layer in range(9):
            made.append(len(written))
            matrix = np.full((3, 3), layer, np.float32)
            yield ModuleMap(layer, "q", 0, (Term((Dense(matrix, "one"),)),), 1.0, 1.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maps, "_write_module", told)
        write_maps(tmp_path / "ahead.h5", "lorasuite", {}, entries(), ahead)
    assert written == list(range(9))
    assert all(layer - done <= ahead for layer, done in enumerate(made))
    write_maps(tmp_path / "one.h5", "lorasuite", {}, entries())
    assert (tmp_path / "ahead.h5").read_bytes() == (tmp_path / "one.h5").read_bytes()


def test_what_cannot_be_written_ends_the_making(tmp_path):
    made = []

    def entries():
        for layer in range(9):
            made.append(layer)
            matrix = np.full((3, 3), np.nan if layer == 1 else 1.0, np.float32)
            yield ModuleMap(layer, "q", 0, (Term((Dense(matrix),)),), 1.0, 1.0)

    with pytest.raises(LoraportError, match="NaN"):
        write_maps(tmp_path / "maps.h5", "lorasuite", {}, entries())
    assert len(made) <= 4 and not list(tmp_path.iterdir())


def test_an_error_of_the_writer_is_told_before_the_maps_that_could_wait_are_made(tmp_path):
    made, told = [], threading.Event()

    def broken(writer, entry, shared):
        told.set()
        raise OSError(28, "No space left on device")

    def entries():
        for layer in range(9):
            made.append(layer)
            if layer == 1:
                assert told.wait(30)
                time.sleep(0.2)  # until the error stands in what waits
            yield ModuleMap(layer, "q", 0, (), 1.0, 1.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maps, "_write_module", broken)
        with pytest.raises(OSError, match="No space left"):
            write_maps(tmp_path / "maps.h5", "lorasuite", {}, entries(), ahead=7)
    assert made == [0, 1] and not list(tmp_path.iterdir())


def test_numbers_that_no_narrow_type_holds_stay_wide():
    for value in (np.nan, np.inf, 1e-8, 70_000.5):
        kind, values = stored.narrowed(np.array([[value, 1.0]], np.float32))
        assert kind == "matrix" and values.dtype == np.float32


@pytest.mark.parametrize("numbers", [0, 1, 4096, 4097, 4096 + 256, 4096 + 250])
def test_the_last_number_of_a_matrix_tells_as_the_first_does(monkeypatch, numbers):
    monkeypatch.setattr(stored, "NARROWED_AT_ONCE", 64)
    whole = RNG.standard_normal((1, numbers)).astype(np.float16).astype(np.float32)
    kind, values = stored.narrowed(whole)
    assert kind == ("float16" if numbers else "bfloat16")
    assert values.shape == whole.shape and np.array_equal(values, whole)
    for last in (1 + 1e-6, np.inf, np.nan):
        wide = whole.copy()
        wide[:, -1:] = last
        assert stored.narrowed(wide)[0] == ("matrix" if numbers else "bfloat16")


def place_of(path: Path) -> int:
    with h5py.File(path) as file:
        return file["layer_0/q/term_0/L/0/matrix"].id.get_offset()


@pytest.mark.parametrize("how", ["one bit", "cut short"])
def test_a_damaged_matrix_is_refused_by_the_name_of_its_file(tmp_path, how):
    path = write(tmp_path / "maps.h5", Dense(WIDE))
    content, place = bytearray(path.read_bytes()), place_of(path) + 99
    content[place] ^= 1
    b = np.eye(WIDE.shape[1])
    with open_maps(path) as file:
        term = file.module(0, "q").terms[0]
        path.write_bytes(content if how == "one bit" else content[:place])
        with pytest.raises(LoraportError, match=r"maps\.h5.*L/0/matrix"):
            term.carry_left(b)


def test_a_checksum_is_compared_once_while_the_file_stays_as_it_is(tmp_path, monkeypatch):
    path = write(tmp_path / "maps.h5", Dense(WIDE))
    counted, crc32 = [], zlib.crc32

    def count(*values):
        counted.append(1)
        return crc32(*values)

    def carry() -> int:
        counted.clear()
        with open_maps(path) as file:
            file.module(0, "q").terms[0].carry_left(np.eye(WIDE.shape[1]))
        return len(counted)

    monkeypatch.setattr(stored.zlib, "crc32", count)
    assert carry() > 1  # a block at a time
    assert carry() == 0
    path.write_bytes(path.read_bytes())  # made anew
    assert carry() > 1


def test_maps_of_earlier_versions_are_still_read(tmp_path, monkeypatch):
    with monkeypatch.context() as earlier:
        earlier.setattr(H5Writer, "plain", H5Writer.dataset)
        earlier.setattr(maps, "narrowed", lambda values: ("matrix", values))
        path = write(tmp_path / "old.h5", Dense(TYPES["bfloat16"], "shared", transposed=True))
    b = RNG.standard_normal((WIDE.shape[0], 3))
    with open_maps(path) as file:
        carried = file.module(0, "q").terms[0].carry_left(b)
    assert np.allclose(carried, TYPES["bfloat16"].T.astype(np.float64) @ b, rtol=1e-13, atol=1e-13)
