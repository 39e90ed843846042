"""TIES merging against the paper's steps, and against peft's own ties_svd."""

from pathlib import Path

import numpy as np
import pico
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from loraport.adapters.files import read_adapter
from loraport.adapters.lora_weights import LoraWeights
from loraport.adapters.ties import merge, merge_files
from loraport.errors import LoraportError
from loraport.models.spec import open_model
from loraport.planning import checks, rows, stages

SCHEMAS = Path(__file__).parents[3] / "workflow" / "schemas"
SIZES = {"hidden": 32, "intermediate": 56, "layers": 2, "heads": 4, "kv_heads": 2}


def dense(weights: LoraWeights) -> np.ndarray:
    return weights.scale * (weights.b.astype(np.float64) @ weights.a.astype(np.float64))


def whole(matrix: np.ndarray, rslora: bool = False) -> LoraWeights:
    """A matrix as an adapter of full rank."""
    return LoraWeights(matrix, np.eye(matrix.shape[1]), float(matrix.shape[1]), rslora)


def test_steps_are_those_of_the_paper():
    """Trim the smaller half, elect each entry's sign by total magnitude, average those that agree.

    Weights 0.5 as peft takes them: a weighted sum over the entries that agree, divided by how many
    do.
    """
    first = np.array([[4.0, -3.0], [2.0, 0.1]])
    second = np.array([[1.0, 5.0], [-6.0, 0.2]])
    # density 0.5 keeps two entries of each: 4, -3 and 5, -6; signs +, +, -, none
    expected = np.array([[0.5 * 4, 0.5 * 5], [0.5 * -6, 0.0]])
    got = merge([{"m": whole(first)}, {"m": whole(second)}], [0.5, 0.5], 0.5, rank=2)["m"]
    assert np.allclose(dense(got), expected, atol=1e-6)
    assert np.allclose(got.b.T @ got.b, got.a @ got.a.T, atol=1e-5) and got.scale == 1


@pytest.mark.parametrize("density", [0.3, 1.0])
def test_equals_pefts_ties_svd(tmp_path, density):
    base = pico.make_model(tmp_path / "base", seed=1, **SIZES)
    kinds = {"a": {"alpha": 9}, "b": {"use_rslora": True}}
    folders = [pico.make_adapter(tmp_path / n, base, seed=ord(n), **kinds[n]) for n in kinds]
    adapters = [read_adapter(folder).modules for folder in folders]
    got = merge(adapters, [0.5, 0.5], density)
    model = AutoModelForCausalLM.from_pretrained(base)
    adapted = PeftModel.from_pretrained(model, folders[0], adapter_name="a")
    adapted.load_adapter(folders[1], adapter_name="b")
    adapted.add_weighted_adapter(
        ["a", "b"], [0.5, 0.5], "merged", "ties_svd", svd_rank=4, density=density
    )
    for name, module in adapted.named_modules():
        if "merged" in getattr(module, "lora_A", {}):
            expected = module.get_delta_weight("merged").detach().double().numpy()
            found = dense(got[name.removeprefix("base_model.model.")])
            assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)


def test_the_balance_of_the_factors_does_not_matter():
    rng = np.random.default_rng(0)
    b, a = rng.normal(size=(8, 3)), rng.normal(size=(3, 6))
    other = {"m": LoraWeights(rng.normal(size=(8, 3)), rng.normal(size=(3, 6)), 3.0)}
    plain, tilted = LoraWeights(b, a, 6.0), LoraWeights(b * 100, a / 100, 6.0)
    x, y = (merge([{"m": each}, other], [0.5, 0.5])["m"] for each in (plain, tilted))
    assert np.allclose(dense(x), dense(y), atol=1e-5)


def test_a_module_of_one_adapter_alone_and_wrong_input():
    one, two = ({"m": whole(torch.randn(4, 3).double().numpy()), "own": whole(np.eye(3))}, {})
    two = {"m": whole(np.ones((4, 3)))}
    assert np.allclose(dense(merge([one, two], [0.5, 0.5], 1.0)["own"]), 0.5 * np.eye(3))
    with pytest.raises(LoraportError, match="one weight an adapter"):
        merge([one, two], [1.0])
    with pytest.raises(LoraportError, match="not of one base model"):
        merge([one, {"m": whole(np.ones((5, 3)))}], [0.5, 0.5])


def merged_files(tmp_path, base, folders, **settings):
    out = tmp_path / "merged"
    out.mkdir()
    settings = {"weights": [], "density": 0.5, **settings}
    about = {"known_as": {str(base), base.name}, "base": str(base), "revision": ""}
    return out, merge_files(folders, open_model(base), out, settings=settings, inputs={}, **about)


def test_adapters_that_were_carried_with_a_gain_of_zero_are_merged_as_zero(tmp_path):
    base = pico.make_model(tmp_path / "base", seed=1, **SIZES)
    folders = [pico.make_adapter(tmp_path / n, base, seed=ord(n)) for n in ("a", "b")]
    for folder in folders:
        pico.silence(folder)
    out, done = merged_files(tmp_path, base, folders)
    assert all(each["norm_after"] == 0 for each in done["modules"].values())
    assert all(weights.norm() == 0 for weights in read_adapter(out, zero=True).modules.values())


def test_a_merge_is_written_as_an_adapter_of_the_same_base(tmp_path):
    base = pico.make_model(tmp_path / "base", seed=1, **SIZES)
    kinds = {"a": {"rank_pattern": {"q_proj": 3}}, "b": {"use_rslora": True}}
    folders = [pico.make_adapter(tmp_path / n, base, seed=ord(n), **kinds[n]) for n in kinds]
    out, done = merged_files(tmp_path, base, folders, density=0.4)
    expected = merge([read_adapter(folder).modules for folder in folders], [0.5, 0.5], 0.4)
    found = read_adapter(out).modules
    assert found.keys() == expected.keys()
    for path, weights in found.items():
        assert np.allclose(dense(weights), dense(expected[path]), atol=1e-5)
        assert np.isclose(done["modules"][path]["norm_after"], weights.norm(), rtol=1e-5)
    assert done["weights"] == [0.5, 0.5] and len(done["adapters"]) == 2
    model = AutoModelForCausalLM.from_pretrained(base)
    loaded = PeftModel.from_pretrained(model, out)
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    update = dict(loaded.named_modules())[name].get_delta_weight("default").detach().numpy()
    path = name.removeprefix("base_model.model.")
    assert np.allclose(update, dense(expected[path]), atol=1e-5)


def test_kinds_whose_update_is_not_b_a_alone_are_not_merged(tmp_path):
    base = pico.make_model(tmp_path / "base", seed=1, **SIZES)
    plain = pico.make_adapter(tmp_path / "plain", base, seed=1)
    dora = pico.make_adapter(tmp_path / "dora", base, seed=2, use_dora=True)
    with pytest.raises(LoraportError, match="can't be merged"):
        merged_files(tmp_path, base, [plain, dora])


@pytest.fixture
def load(tmp_path, monkeypatch):
    """A configuration with two apps and what is said of their merge."""
    monkeypatch.chdir(tmp_path)
    lines = ["app\tmodel\tsource\ttask", "a\told\tA\tt", "b\told\tB\tu"]
    Path("adapters.tsv").write_text("\n".join(lines) + "\n")

    def made(templates=("plain", "plain"), **merge):
        tasks = {n: {"template": t, "eval": [n]} for n, t in zip("tu", templates, strict=True)}
        content = {
            "models": {"old": {"source": "old"}, "new": {"source": "new"}},
            "pairs": {"p": {"old": "old", "new": "new"}},
            "adapters": "adapters.tsv",
            "calibration": {"texts": "texts.txt"},
            "tasks": tasks,
            "merges": {"both": {"apps": ["a", "b"], **merge}},
        }
        return checks.load(content, SCHEMAS)

    return made


def test_a_merge_is_used_like_an_app(load):
    made = load()
    assert made.merge("both")["density"] == 0.5
    assert stages.adapter_of(made, "both", "old") == "artifacts/models/old/both/lora_merged"
    assert made.adapter("both", "old") == {"app": "both", "model": "old", "source": "", "task": ""}
    assert stages.task_of(made, "both", "new", "old")["eval"] == ["t", "u"]
    assert "both" not in made.apps("old")
    folders = {row["stage"]: row["adapter"] for row in rows.merge_rows(made, "p", "both")}
    assert folders["before"] == "artifacts/p/both/lora_transferred"
    assert folders["after"] == "artifacts/p/both/after/lora_transferred"


def test_a_merge_that_makes_no_sense_is_told(load):
    for wrong, message in (
        ({"weights": [1.0]}, "1 weights for 2 apps"),
        ({"density": 0}, "density"),
        ({"apps": ["a"]}, "apps"),
    ):
        with pytest.raises(LoraportError, match=message):
            load(**wrong)
    with pytest.raises(LoraportError, match="no adapter 'c' of model 'old'"):
        load(apps=["a", "c"]).adapter("both", "old")
    with pytest.raises(LoraportError, match="put their questions in different ways"):
        stages.task_of(load(templates=("plain", "question")), "both", "new", "old")
