"""Files that were damaged or changed between two rules are refused where they are read."""

import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from bad_inputs import edit_json
from faults.damage import flip, flip_tensor, told
from inprocess import CALIBRATION, PairRun
from workdir import PROJECT

from loraport.adapters.attach import attach
from loraport.adapters.files import read_adapter
from loraport.artifacts import sha256
from loraport.errors import LoraportError
from loraport.models.loading import load_base

NANO = PROJECT / "resources/nano/adapters"


def again(run: PairRun, step: str, *arguments):
    """A step whose output is gone."""
    path = getattr(run, step)(*arguments)
    path.unlink()
    return lambda: getattr(run, step)(*arguments)


FLIPS = {
    "embedding": ("embedding", "model.embed_tokens.weight"),
    "heads": ("heads", "model.layers.0.self_attn.q_proj.weight"),
}


@pytest.mark.parametrize("name", ["embedding", "heads"])
def test_a_flipped_bit_of_a_weight_is_refused_where_it_is_read(run, capsys, name):
    step, tensor = FLIPS[name]
    flip_tensor(run.models["old"] / "model.safetensors", tensor)
    said = told(capsys, again(run, step))
    assert f"tensor '{tensor}'" in said and "is not the one that spec.json describes" in said


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        ("auto", "tensor 'model.layers.2.mlp.down_proj.weight' of"),
        ("never", "model.safetensors is not the file that"),
    ],
)
def test_a_flipped_bit_of_any_weight_is_refused_where_the_model_is_loaded(
    run, capsys, monkeypatch, stream, expected
):
    monkeypatch.setitem(CALIBRATION, "stream", stream)
    flip_tensor(run.models["old"] / "model.safetensors", "model.layers.2.mlp.down_proj.weight")
    again(run, "embedding")()  # which does not read it
    said = told(capsys, again(run, "activations", "old"))
    assert expected in said and "spec.json" in said


@pytest.mark.parametrize("what", ["weights of other size", "tokenizer", "config", "gone"])
def test_a_model_that_changes_between_two_rules_is_noticed(run, capsys, what):
    folder = run.models["old"]
    if what == "weights of other size":
        shutil.copy(run.models["new"] / "model.safetensors", folder / "model.safetensors")
    elif what == "gone":
        (folder / "model.safetensors").unlink()
    else:
        edit_json(folder / f"{what}.json", extra=1)
    assert "is not the file that" in told(capsys, again(run, "embedding"))


DAMAGED = {  # what is damaged, where -> who reads it
    ("old_spec.json", '"hidden": '): "embedding",
    ("old_activations.h5", "layer_1"): "cka",
    ("cka.h5", "similarity"): "layers",
    ("embedding.h5", "W_h"): "heads",
    ("layers.json", '"total": '): "heads",
    ("heads.h5", "assignment"): "maps",
}


@pytest.mark.parametrize(("name", "part"), DAMAGED)
@pytest.mark.parametrize("how", ["cut short", "one bit"])
def test_a_damaged_artifact_is_refused_by_name_where_it_is_read(run, capsys, name, part, how):
    path = run.folder / name
    content = path.read_bytes()
    if how == "cut short":
        path.write_bytes(content[: len(content) // 2])
    elif name.endswith(".json"):
        flip(path, content.index(part.encode()) + len(part))
    else:
        flip(path, place_of(path, part))
    assert name in told(capsys, again(run, DAMAGED[name, part]))


def place_of(path: Path, part: str) -> int:
    """A place in the middle of the data of an HDF5 file's dataset."""
    found = []

    def note(name, each):
        if isinstance(each, h5py.Dataset) and name.rpartition("/")[2] == part:
            found.append(each.id.get_chunk_info(0))

    with h5py.File(path) as file:
        file.visititems(note)
    return found[0].byte_offset + found[0].size // 2


def test_a_damaged_adapter_of_ours_is_refused(run, template):
    carried = run.transferred(template.root / "adapter")
    path = carried / "adapter_model.safetensors"
    flip(path, path.stat().st_size - 5)
    message = "adapter_model.safetensors is not the file that transfer.json beside it describes"
    with pytest.raises(LoraportError, match=message):
        read_adapter(carried)
    model, _ = load_base(run.models["new"], device="cpu")
    with pytest.raises(LoraportError, match=message):
        attach(model, carried)


GIVEN = {"weights": "adapter_model.safetensors", "config": "adapter_config.json"}


def flip_unseen(path: Path) -> None:
    """Change a bit of a given adapter's file so that nothing but a checksum can show it."""
    content = path.read_bytes()
    alpha = content.find(b'"lora_alpha": ') + 14
    flip(path, alpha if path.suffix == ".json" else len(content) - 5)


@pytest.mark.parametrize("what", GIVEN)
def test_a_flipped_bit_of_a_given_adapter_is_refused_by_the_next_rule(
    run, template, tmp_path, capsys, monkeypatch, what
):
    adapter = run.models["old"].parent / "adapter"
    edit_json(adapter / "adapter_config.json", base_model_name_or_path=str(run.models["old"]))
    path = adapter / GIVEN[what]
    sound = read_adapter(adapter)
    run.transferred(adapter, scale="paper")
    flip_unseen(path)
    with monkeypatch.context() as elsewhere:  # where no rule has read it, it is an adapter like any
        elsewhere.chdir(template.root)
        other = read_adapter(adapter)
        path_of = next(reversed(sound.modules))
        assert np.isfinite(other.modules[path_of].norm())
    message = f"{path} has changed since a rule first read it, though its date has not"
    assert message in told(capsys, lambda: run.transferred(adapter, scale="norm"))
    monkeypatch.chdir(tmp_path)  # while the next run is planned
    with pytest.raises(LoraportError, match=re.escape(message)):
        read_adapter(adapter)
    path.touch()  # as it is said: it was meant
    assert (run.transferred(adapter, scale="norm") / "transfer.json").exists()


def test_an_adapter_is_what_the_checksums_beside_it_say(template, tmp_path):
    adapter = shutil.copytree(template.root / "adapter", tmp_path / "adapter")
    sums = "".join(f"{sha256(adapter / name)}  {name}\n" for name in GIVEN.values())
    (adapter / "SHA256SUMS").write_text(sums)
    read_adapter(adapter)
    for name in GIVEN.values():
        flip_unseen(adapter / name)
        with pytest.raises(LoraportError, match=f"{name} is not the file that SHA256SUMS beside"):
            read_adapter(adapter)
        flip_unseen(adapter / name)
    read_adapter(adapter)
    # made from the folder above, and of other files alone
    (adapter / "SHA256SUMS").write_text(f"{'0' * 64} *math/{GIVEN['weights']}\n")
    with pytest.raises(LoraportError, match="is not the file that SHA256SUMS beside"):
        read_adapter(adapter)
    (adapter / "SHA256SUMS").write_text(f"{'0' * 64}  README.md\n")
    with pytest.raises(LoraportError, match="says nothing of the adapter beside it"):
        read_adapter(adapter)


def test_the_adapters_that_come_along_have_checksums():
    folders = sorted(path.parent for path in NANO.glob("*/*/adapter_model.safetensors"))
    assert len(folders) >= 9
    for folder in folders:
        named = dict(
            reversed(line.split()) for line in (folder / "SHA256SUMS").read_text().splitlines()
        )
        assert named == {name: sha256(folder / name) for name in GIVEN.values()}
