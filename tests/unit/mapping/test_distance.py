"""Model distance and the quality of a mapping, against the weights and matrices themselves."""

import families
import numpy as np
import pico
import torch
from inprocess import PairRun
from safetensors.torch import load_file, save_file

from loraport.adapters.audit import audit
from loraport.adapters.files import read_adapter
from loraport.mapping.distance import mapping_quality, model_distance, update_magnitudes
from loraport.models.spec import open_model

SIZES = {"hidden": 32, "intermediate": 56, "heads": 4, "kv_heads": 2}


def test_distance_is_the_printed_mean_over_tensors_of_equal_shape(tmp_path):
    old = pico.make_model(tmp_path / "old", seed=1, layers=2, **SIZES)
    new = pico.make_model(tmp_path / "new", seed=2, layers=3, **{**SIZES, "intermediate": 64})
    a, b = pico.read_tensors(old), pico.read_tensors(new)
    twins = [name for name in b if name in a and a[name].shape == b[name].shape]
    each = {name: np.linalg.norm(a[name] - b[name]) / b[name].size for name in twins}
    found = model_distance(open_model(old), open_model(new))
    assert found["tensors"].keys() == each.keys()
    assert all(np.isclose(found["tensors"][name], each[name]) for name in twins)
    assert np.isclose(found["mean"], np.mean(list(each.values())))
    first = [value for name, value in each.items() if ".layers.0." in name]
    assert np.isclose(found["layers"]["0"], np.mean(first)) and "2" not in found["layers"]
    assert set(found["left_out"]) == set(b) - set(twins)
    assert any(".layers.2." in name for name in found["left_out"])


def test_packed_weights_have_no_distance(tmp_path):
    """Bytes that stand for several numbers each, as experts in MXFP4 are stored."""
    model = families.make_model(tmp_path / "model", "mixtral", seed=1)
    file = model / "model.safetensors"
    packed = "model.layers.0.block_sparse_moe.packed_blocks"
    blocks = torch.arange(8, dtype=torch.uint8)
    save_file({**load_file(file), packed: blocks}, file, {"format": "pt"})
    found = model_distance(open_model(model), open_model(model))
    assert found["left_out"] == [packed]
    assert set(found["tensors"].values()) == {0}


def test_distance_of_a_model_to_itself_is_zero(tmp_path):
    old = open_model(pico.make_model(tmp_path / "old", seed=1, layers=2, **SIZES))
    found = model_distance(old, old)
    assert found["mean"] == 0 and not found["left_out"]


def test_mapping_quality_reads_the_artifacts(pico_pair, tmp_path):
    run = PairRun(tmp_path, pico_pair.old, pico_pair.new, pico_pair.texts)
    found = mapping_quality(run.layers(), run.embedding(), run.heads())
    _, last = run.path()[-1]
    S, matched = run.read(run.heads(), f"layer_{last}/similarity"), run.assignment(last)
    layer = found["heads"]["layers"][str(last)]
    assert np.isclose(layer["assigned"], np.mean([S[pair] for pair in matched]))
    assert np.isclose(layer["random"], S.mean())
    assert layer["assigned"] > layer["random"]
    cka = run.read(run.cka(), "similarity")
    assert np.isclose(found["path"]["mean"], np.mean([cka[pair] for pair in run.path()]))
    assert 0 < found["embedding"]["residual"] < 1 and found["embedding"]["rule"] == "embedding"


def test_update_magnitude_is_the_squared_norm_of_the_dense_update(pico_pair):
    model = open_model(pico_pair.old)
    adapter = read_adapter(pico_pair.adapter)
    located = audit(adapter, model.architecture, model.dims, {str(pico_pair.old)})
    found = update_magnitudes(located)
    dense = {
        place: np.linalg.norm(s * B @ A) ** 2
        for place, (B, A, s) in pico.load_adapter(pico_pair.old, pico_pair.adapter).items()
    }
    assert np.isclose(found["total"], sum(dense.values()), rtol=1e-5)
    queries = sum(value for (_, role), value in dense.items() if role == "q")
    assert np.isclose(found["kinds"]["q_proj"], queries, rtol=1e-5)
    second = sum(value for (layer, _), value in dense.items() if layer == 1)
    assert np.isclose(found["layers"]["1"], second, rtol=1e-5)


def test_no_assigned_head_is_no_number(pico_pair, tmp_path):
    run = PairRun(tmp_path, pico_pair.old, pico_pair.old, pico_pair.texts, heads="none")
    found = mapping_quality(run.layers(), run.embedding(), run.heads())["heads"]
    assert found["assigned"] is None and np.isclose(found["default_order"], 1)
