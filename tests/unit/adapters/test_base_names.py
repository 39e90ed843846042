"""One base model under the names that people's tools record."""

import json
import shutil

import pico
import pytest

from loraport.adapters.audit import audit
from loraport.adapters.base_names import how_known, recorded_commit
from loraport.adapters.files import read_adapter
from loraport.errors import LoraportError
from loraport.models.identity import folder_at_hand, why_same
from loraport.models.spec import open_model
from loraport.planning import preflight

COMMIT = "0" * 39 + "1"
CACHE = f"/home/someone/.cache/huggingface/hub/models--Tiny--Base-1B/snapshots/{COMMIT}"
SIZES = {"hidden": 16, "intermediate": 24, "layers": 2, "heads": 2, "kv_heads": 2}
SAME = [
    ("Tiny/Base-1B", "Tiny/Base-1B", ""),
    ("Tiny/Base-1B/", "Tiny/Base-1B", ""),
    ("tiny/base-1b", "Tiny/Base-1B", ""),
    (CACHE, "Tiny/Base-1B", ""),
    (f"{CACHE}/", "Tiny/Base-1B", ""),
    ("Tiny/Base-1B", CACHE, ""),
    (CACHE.rpartition("/snapshots")[0], "Tiny/Base-1B", ""),
    ("./models/Base-1B//", "Tiny/Base-1B", ""),
    (r"C:\models\Base-1B", "Tiny/Base-1B", ""),
    ("models--gpt2", "gpt2", ""),
    ("unsloth/Base-1B", "Tiny/Base-1B", ""),
    ("unsloth/base-1b-bnb-4bit", "Tiny/Base-1B", "quantised"),
    ("unsloth/base-1b-unsloth-bnb-4bit", "Tiny/Base-1B", "quantised"),
    ("someone/Base-1B-GPTQ-Int4", "Tiny/Base-1B", "quantised"),
    ("someone/Base-1B-AWQ", "Tiny/Base-1B", "quantised"),
    ("unsloth/llama-3-8b-bnb-4bit", "meta-llama/Meta-Llama-3-8B", "quantised"),
    ("unsloth/Meta-Llama-3.1-8B", "meta-llama/Llama-3.1-8B", "another release"),
    ("NousResearch/Llama-2-7b", "meta-llama/Llama-2-7b-hf", "another release"),
]
OTHERS = [
    ("Tiny/Base-7B", "Tiny/Base-1B"),
    ("Tiny/Base-1B-Instruct", "Tiny/Base-1B"),
    ("unsloth/base-1b-instruct-bnb-4bit", "Tiny/Base-1B"),
    ("Tiny/Base-1B-v0.2", "Tiny/Base-1B"),
]


@pytest.mark.parametrize(("recorded", "known", "note"), SAME)
def test_names_of_one_model(recorded, known, note):
    told = how_known(recorded, [known])
    assert told is not None and note in told and bool(told) == bool(note)


@pytest.mark.parametrize(("recorded", "known"), OTHERS)
def test_names_of_other_models(recorded, known):
    assert how_known(recorded, [known, "old"]) is None


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("base")
    model = pico.make_model(root / "model", seed=1, vocab_words=200, **SIZES)
    return model, pico.make_adapter(root / "adapter", model, seed=3)


def record(adapter, folder, name):
    copy = shutil.copytree(adapter, folder)
    path = copy / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": name}))
    return copy


def test_another_name_is_said_among_the_warnings_and_a_cache_names_a_commit(base, tmp_path):
    model = open_model(base[0])
    quantised = read_adapter(record(base[1], tmp_path / "q", "unsloth/model-bnb-4bit"))
    audit(quantised, model.architecture, model.dims, ["model"])
    assert any("unsloth/model-bnb-4bit: a quantised form" in told for told in quantised.warnings)
    cached = read_adapter(record(base[1], tmp_path / "c", CACHE))
    audit(cached, model.architecture, model.dims, ["Tiny/Base-1B"], "f" * 40)
    assert any(f"trained on revision {COMMIT}" in told for told in cached.warnings)
    assert recorded_commit("Tiny/Base-1B") == ""
    with pytest.raises(LoraportError, match="records another base model"):
        audit(read_adapter(base[1]), model.architecture, model.dims, ["other"])


def test_a_folder_that_holds_the_same_model_is_the_same_base(base, tmp_path):
    model, adapter = base
    copy = shutil.copytree(model, tmp_path / "a copy")
    assert "the same weights" in why_same(copy, model)
    assert preflight.recorded_names(
        str(record(adapter, tmp_path / "a", str(copy))), str(model)
    ) == (str(copy),)
    (copy / "model.safetensors").unlink()
    assert "could not be compared" in why_same(copy, model)
    other = pico.make_model(tmp_path / "other", seed=2, vocab_words=200, **SIZES)
    shutil.copy(model / "tokenizer.json", other)
    assert why_same(other, model) == ""
    gone = record(adapter, tmp_path / "b", str(tmp_path / "gone"))
    assert preflight.recorded_names(str(gone), str(model)) == ()


def test_a_hub_id_whose_snapshot_lies_here_is_compared_too(base, tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    snapshot = tmp_path / "hub/models--Tiny--Base-1B/snapshots" / COMMIT
    shutil.copytree(base[0], snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert folder_at_hand("Tiny/Base-1B") == snapshot
    assert folder_at_hand("Tiny/Other") is None and folder_at_hand("no/such/folder") is None
    assert "the same weights" in why_same(folder_at_hand("Tiny/Base-1B"), base[0])
