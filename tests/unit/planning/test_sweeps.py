"""Sweeps: what a point changes, what is cut from a source adapter, what cannot be run."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from loraport.adapters.audit import audit
from loraport.adapters.cut import cut_adapter
from loraport.adapters.files import read_adapter
from loraport.errors import LoraportError
from loraport.models.spec import open_model
from loraport.planning import sweeps
from loraport.planning.checks import load

SCHEMAS = Path(__file__).parents[3] / "workflow" / "schemas"
RULES = Path(__file__).parents[3] / "rules"


def rank_of(folder):
    return json.loads((folder / "adapter_config.json").read_text())["r"]


@pytest.fixture
def config(pico_pair, tmp_path, monkeypatch):
    """A configuration with one app, whose adapter is the pico one."""
    monkeypatch.chdir(tmp_path)
    Path("adapters.tsv").write_text(f"app\tmodel\tsource\ttask\na\told\t{pico_pair.adapter}\tt\n")
    Path("data.jsonl").write_text('{"prompt": "a", "completion": " b"}\n' * 60)
    content = {
        "models": {"old": {"source": str(pico_pair.old)}, "new": {"source": str(pico_pair.new)}},
        "pairs": {"p": {"old": "old", "new": "new"}},
        "adapters": "adapters.tsv",
        "calibration": {"texts": "texts.txt"},
        "tasks": {"t": {"train": "data.jsonl", "template": "plain", "eval": ["t"]}},
        "sweeps": {"rank": [2, 512]},
    }
    return load(content, SCHEMAS)


def cut(pico_pair, out, **what):
    out.mkdir()
    model = open_model(pico_pair.old)
    known = [pico_pair.old.name, str(pico_pair.old)]
    return cut_adapter(pico_pair.adapter, model, out, known, what, str(pico_pair.old), {})


def updates(folder, model):
    held = audit(read_adapter(folder), model.architecture, model.dims, [str(model.directory)])
    return {place: each.scale * each.b @ each.a for place, each in held.items()}


def test_values_stand_in_paths(config):
    assert sweeps.values(config, "learning_rate") == ["0.0001", "0.0003", "0.001", "0.003"]
    assert sweeps.overrides(config, "learning_rate", "0.003") == {"learning_rate": 0.003}
    assert sweeps.overrides(config, "rank", "2") == {}
    assert sweeps.value_of(config, "modules", "qkvo") == ["q", "k", "v", "o"]
    with pytest.raises(LoraportError, match="has no value '3'"):
        sweeps.value_of(config, "rank", "3")


def test_epochs_are_swept_where_no_number_of_steps_takes_their_place(config):
    assert sweeps.values(config, "epochs") == ["3", "10", "30"]
    assert sweeps.overrides(config, "epochs", "10") == {"epochs": 10}
    assert sweeps.skipped(config, "p", "a", "epochs") == {}
    config.content["finetune"]["max_steps"] = 50
    with pytest.raises(LoraportError, match=r"finetune\.max_steps: 50, which takes the place"):
        sweeps.overrides(config, "epochs", "10")
    assert sweeps.overrides(config, "examples", "50") == {"examples": 50}


def test_what_the_app_cannot_serve_is_skipped_with_its_reason(config, pico_pair):
    rank = rank_of(pico_pair.adapter)
    assert sweeps.skipped(config, "p", "a", "rank") == {
        "512": f"the source adapter has rank {rank}"
    }
    reason = "the task has 60 training examples"
    assert sweeps.skipped(config, "p", "a", "examples") == dict.fromkeys(
        ["100", "200", "400", "1000"], reason
    )
    assert sweeps.skipped(config, "p", "a", "learning_rate") == {}
    assert sweeps.skipped(config, "p", "a", "modules") == {}


def test_modules_that_the_adapter_lacks_are_skipped(config, pico_pair, tmp_path):
    cut(pico_pair, tmp_path / "qkvo", modules=["q", "k", "v", "o"])
    config.adapters["a", "old"]["source"] = str(tmp_path / "qkvo")
    assert sweeps.skipped(config, "p", "a", "modules") == {
        "qkvo_up_down": "the source adapter does not adapt up, down",
        "all": "the source adapter does not adapt gate, up, down",
    }


def test_modules_are_cut_from_the_adapter_that_has_them_all(config, pico_pair, tmp_path):
    cut(pico_pair, tmp_path / "qkvo", modules=["q", "k", "v", "o"])
    config.adapters["whole", "old"] = dict(config.adapters["a", "old"])
    config.adapters["a", "old"]["source"] = str(tmp_path / "qkvo")
    config.content["sweeps"]["modules_from"] = {"a": "whole"}
    assert sweeps.skipped(config, "p", "a", "modules") == {}
    assert sweeps.source_app(config, "a", "rank", "old") == "a"
    del config.adapters["whole", "old"]
    assert sweeps.source_app(config, "a", "modules", "old") == "a"


def test_truncation_is_the_best_of_its_rank(pico_pair, tmp_path):
    done = cut(pico_pair, tmp_path / "low", rank=2)
    assert rank_of(tmp_path / "low") == 2
    model = open_model(pico_pair.old)
    whole, low = updates(pico_pair.adapter, model), updates(tmp_path / "low", model)
    assert set(whole) == set(low)
    kept = total = 0.0
    for place, update in whole.items():
        u, s, vh = np.linalg.svd(update.astype(np.float64), full_matrices=False)
        np.testing.assert_allclose(low[place], (u[:, :2] * s[:2]) @ vh[:2], atol=1e-5)
        kept, total = kept + float(np.sum(s[:2] ** 2)), total + float(np.sum(s**2))
    assert done["energy_kept"] == pytest.approx(kept / total, rel=1e-4)


def test_fewer_modules_are_left_as_they_are(pico_pair, tmp_path):
    done = cut(pico_pair, tmp_path / "qv", modules=["q", "v"])
    model = open_model(pico_pair.old)
    whole, left = updates(pico_pair.adapter, model), updates(tmp_path / "qv", model)
    assert {place[1].rpartition(".")[2] for place in left} == {"q_proj", "v_proj"}
    assert 0 < done["energy_kept"] < 1
    for place, update in left.items():
        np.testing.assert_array_equal(update, whole[place])


def test_each_light_training_is_given_a_start_or_what_to_be_like():
    text = "".join(path.read_text() for path in sorted(RULES.glob("*.smk")))
    name = r"(?:lora_finetuned|lora_small\w*)"
    given = re.findall(
        rf"^use rule {name} as (\w+) with:\n    input:\n(.*?)\n    output:", text, re.M | re.S
    )
    assert len(given) > 3
    for rule, inputs in given:
        assert re.search(r"^ +(start|like)=", inputs, re.M), rule
