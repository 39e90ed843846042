"""The safetensors reader against the library's own writer, and against broken files."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from loraport.errors import LoraportError
from loraport.models import weights
from loraport.models.weights import Checkpoint, TensorFile, is_finite, save_tensors


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16, np.int64]
)
def test_reads_what_the_library_wrote(tmp_path, dtype):
    values = np.arange(12).reshape(4, 3).astype(dtype)
    save_file({"x": values, "empty": np.zeros((0, 3), dtype)}, tmp_path / "a.safetensors")
    file = TensorFile(tmp_path / "a.safetensors")
    assert np.array_equal(file.read("x"), values)
    assert np.array_equal(file.read("x", slice(1, 3)), values[1:3])
    assert file.read("empty").shape == (0, 3)


def test_written_files_are_the_same_each_time_and_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {"b": rng.normal(size=(3, 2)).astype(ml_dtypes.bfloat16), "a": np.ones(2, np.float32)}
    save_tensors(tmp_path / "1.safetensors", tensors)
    save_tensors(tmp_path / "2.safetensors", dict(reversed(tensors.items())))
    content = (tmp_path / "1.safetensors").read_bytes()
    assert content == (tmp_path / "2.safetensors").read_bytes()
    assert np.array_equal(TensorFile(tmp_path / "1.safetensors").read("b"), tensors["b"])


def header(**entries) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
BROKEN = {
    "empty": b"",
    "a pickle": b"\x80\x04\x95" + bytes(50),
    "an absurd header length": (1 << 62).to_bytes(8, "little") + b"{}",
    "not JSON": (4).to_bytes(8, "little") + b"abcd",
    "too little data": header(x=ENTRY) + bytes(4),
    "too much data": header(x=ENTRY) + bytes(12),
    "overlapping tensors": header(x=ENTRY, y=ENTRY) + bytes(8),
    "a shape that does not fit": header(x={**ENTRY, "shape": [3]}) + bytes(8),
    "a negative shape": header(x={**ENTRY, "shape": [-2]}) + bytes(8),
    "an unknown dtype": header(x={**ENTRY, "dtype": "F4"}) + bytes(8),
    "an entry that is none": header(x=[1, 2]) + bytes(8),
    "a list for a header": (2).to_bytes(8, "little") + b"[]",
    "duplicate names": (
        (text := b'{"x":%s,"x":%s}' % ((json.dumps(ENTRY).encode(),) * 2)) and
        len(text).to_bytes(8, "little") + text + bytes(8)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_is_refused_by_name(tmp_path, name):
    path = tmp_path / "a.safetensors"
    path.write_bytes(BROKEN[name])
    with pytest.raises(LoraportError, match=r"a\.safetensors is not a whole safetensors file"):
        TensorFile(path)


def test_shards_are_one_checkpoint_and_a_missing_one_is_named(tmp_path):
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "m-1.safetensors")
    save_file({"b": np.zeros(3, np.float32)}, tmp_path / "m-2.safetensors")
    index = {"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    checkpoint = Checkpoint(tmp_path)
    assert sorted(checkpoint.names()) == ["a", "b"]
    assert checkpoint.shape("b") == (3,)
    with pytest.raises(LoraportError, match="holds no tensor 'c'"):
        checkpoint.read("c")
    (tmp_path / "m-2.safetensors").unlink()
    with pytest.raises(LoraportError, match=r"lacks weight shards.*m-2\.safetensors"):
        Checkpoint(tmp_path)


def test_index_cannot_point_outside_its_folder(tmp_path):
    (tmp_path / "m").mkdir()
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "secret.safetensors")
    index = {"weight_map": {"a": "../secret.safetensors"}}
    (tmp_path / "m/model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LoraportError, match="lacks weight shards"):
        Checkpoint(tmp_path / "m")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_are_seen_in_every_dtype(dtype, bad):
    values = np.array([1.0, -2.0, 3e38 if dtype != np.float16 else 6e4]).astype(dtype)
    assert is_finite(values)
    values[1] = bad
    assert not is_finite(values)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("place", [0, 9, 10, 24])
def test_nan_is_seen_wherever_it_stands(monkeypatch, dtype, place):
    monkeypatch.setattr(weights, "BLOCK_NUMBERS", 10)
    values = np.ones((5, 5)).astype(dtype)
    assert is_finite(values) and is_finite(values[:0])
    values[place // 5, place % 5] = np.nan
    assert not is_finite(values) and not is_finite(values.T)
