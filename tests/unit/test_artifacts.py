"""Artifacts: whole or absent, and refused when damaged or mixed up."""

import json

import numpy as np
import pytest

from loraport.artifacts import (
    atomic,
    identities,
    identity,
    read_h5,
    read_json,
    write_h5,
    write_json,
)
from loraport.errors import LoraportError


def make(path, value=1.0, inputs=None):
    with write_h5(path, "test", inputs or {}) as file:
        file.dataset("x", np.full((40, 30), value))
        file.attributes(note="n")


def test_interrupted_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.h5"
    make(path)
    before = path.read_bytes()
    with pytest.raises(RuntimeError), write_h5(path, "test", {}) as file:
        file.dataset("x", np.zeros(3))
        raise RuntimeError
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["a.h5"]


def test_interrupted_folder_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), atomic(tmp_path / "d") as out:
        out.mkdir()
        (out / "f").write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_same_content_gives_the_same_bytes_and_identity(tmp_path):
    for name in ("a", "b"):
        make(tmp_path / f"{name}.h5")
    make(tmp_path / "c.h5", value=2.0)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert identity(tmp_path / "a.h5") == identity(tmp_path / "b.h5")
    assert identity(tmp_path / "a.h5") != identity(tmp_path / "c.h5")


def test_flipped_bit_is_refused_by_name(tmp_path):
    path = tmp_path / "a.h5"
    make(path, value=3.0)
    content = bytearray(path.read_bytes())
    place = content.find(np.full(3, 3.0).tobytes())
    assert place > 0
    content[place + 4] ^= 1
    path.write_bytes(content)
    with pytest.raises(LoraportError, match=r"a\.h5 cannot be read"), read_h5(path, "test") as file:
        file["x"][...]


@pytest.mark.parametrize("kept", [0, 100, -50])
def test_truncated_file_is_refused(tmp_path, kept):
    path = tmp_path / "a.h5"
    make(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(LoraportError, match="cannot be read"), read_h5(path, "test") as file:
        file["x"][...]


def test_other_kind_and_other_format_are_refused(tmp_path):
    write_json(tmp_path / "a.json", "layers", {}, {})
    with pytest.raises(LoraportError, match="not an artifact of this kind"):
        read_json(tmp_path / "a.json", "spec")
    content = json.loads((tmp_path / "a.json").read_text()) | {"format": 99}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(LoraportError, match="another format version"):
        read_json(tmp_path / "a.json", "layers")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_never_leaves(tmp_path, value):
    with pytest.raises(LoraportError, match="NaN or Inf"):
        make(tmp_path / "a.h5", value=value)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", "x", {}, {"value": value})
    assert not list(tmp_path.iterdir())


def test_inputs_that_do_not_belong_together_are_refused(tmp_path):
    make(tmp_path / "layers.h5")
    made_from = identities({"layers": tmp_path / "layers.h5"})
    make(tmp_path / "heads.h5", inputs=made_from)
    both = {name: tmp_path / f"{name}.h5" for name in ("layers", "heads")}
    assert set(identities(both)) == {"layers", "heads"}
    make(tmp_path / "layers.h5", value=2.0)
    with pytest.raises(LoraportError, match=r"heads\.h5 was made from another .*layers\.h5"):
        identities(both)


def test_per_model_inputs_are_compared_by_their_side(tmp_path):
    make(tmp_path / "spec.h5")
    make(tmp_path / "activations.h5", inputs=identities({"spec": tmp_path / "spec.h5"}))
    inputs = {"old_spec": tmp_path / "spec.h5", "old_activations": tmp_path / "activations.h5"}
    identities(inputs)
    make(tmp_path / "spec.h5", value=2.0)
    with pytest.raises(LoraportError, match="was made from another"):
        identities(inputs)
