"""Experts are matched by their routers' choices and neuron by neuron, or refused."""

import expert_twins
import families
import methodcase
import numpy as np
import pico
import pytest
from safetensors.torch import load_file, save_file

from loraport.adapters.audit import audit
from loraport.adapters.files import read_adapter, write_adapter
from loraport.artifacts import write_h5
from loraport.calibration.walk import open_walks
from loraport.errors import LoraportError
from loraport.mapping.experts import assign_experts, match_layers
from loraport.models.side import Side
from loraport.models.spec import open_model
from loraport.transfer.experts import carry_experts, left_experts
from loraport.transfer.experts_file import open_experts, write_experts

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = {"stream": "auto", "device": "cpu", "max_tokens": 64, "batch_size": 16}
BOTH = ["experts.gate_up_proj", "experts.down_proj"]
ROUTER = {"gpt_oss": "router.weight"}
PATH = [(0, 0), (1, 1)]


def match(path, old, new):
    """The artifact of two models whose layers are matched in order."""
    models = open_model(old), open_model(new)
    walks, batches = open_walks(models, pico.texts(60), SETTINGS, (False, False))
    with write_h5(path, "experts", {}) as file:
        for layer, found in match_layers(models, walks, batches, PATH, "cpu"):
            write_experts(file, layer, found)
    return path


def of_experts_alone(folder, base, targets=BOTH):
    """An adapter whose attention does nothing."""
    adapter = pico.make_adapter(
        folder, base, seed=3, targets=pico.ATTENTION, target_parameters=targets
    )
    file = adapter / "adapter_model.safetensors"
    silent = {
        name: values * ("self_attn" not in name or "lora_A" in name)
        for name, values in load_file(file).items()
    }
    save_file(silent, file, {"format": "pt"})
    return adapter


def carried(folder, adapter, artifact, old, new, gain=1.0):
    read, models = read_adapter(adapter), (open_model(old), open_model(new))
    sides = [Side(model.architecture, model.dims) for model in models]
    audit(read, sides[0].family, sides[0].dims, {str(old)}, experts=True)
    experts, report = carry_experts(read, str(artifact), *sides, gain)
    folder.mkdir()
    family, layers = sides[1].family, sides[1].dims.layers
    write_adapter(folder, read.config, str(new), "", family, layers, {}, "float32", experts=experts)
    return report


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral", "gpt_oss", "qwen3_5_moe_text"])
def test_a_model_shuffled_and_rotated_gets_the_whole_adapter(tmp_path, name):
    old, new = expert_twins.make_pair(tmp_path, name)
    before, after = methodcase.logits(old), methodcase.logits(new)
    assert (after - before).norm() < 1e-4 * before.norm()
    artifact = match(tmp_path / "experts.h5", old, new)
    with open_experts(artifact) as file:
        assert file.layers() == ([0] if name == "qwen3_moe" else [0, 1])  # the other one has none
        for layer in file.layers():
            found = file.read(layer)
            assert found.experts.tolist() == expert_twins.order(layer)
            for number, neurons in enumerate(found.neurons):
                assert np.array_equal(neurons, expert_twins.neurons(layer, number))
    adapter = of_experts_alone(tmp_path / "lora", old, [*BOTH, ROUTER.get(name, "gate.weight")])
    report = carried(tmp_path / "new", adapter, artifact, old, new)
    assert methodcase.lost(old, new, adapter, tmp_path / "new") < 1e-4
    assert report["left_behind"] == left_experts(report) == []
    assert all(each["correlation"] > 0.99 for each in report["layers"].values())


def test_a_gain_multiplies_the_update(tmp_path):
    old = families.make_model(tmp_path / "old", "mixtral", seed=1)
    artifact = match(tmp_path / "experts.h5", old, old)
    adapter = of_experts_alone(tmp_path / "lora", old, BOTH[:1])
    reports = [
        carried(tmp_path / f"{gain}", adapter, artifact, old, old, gain) for gain in (1.0, 0.5)
    ]
    for layer in ("0", "1"):
        norms = [report["layers"][layer]["norm_after"] for report in reports]
        assert norms[1] == pytest.approx(norms[0] / 2)


def test_models_that_have_nothing_in_common_are_refused(tmp_path):
    old, new = (families.make_model(tmp_path / str(s), "mixtral", seed=s) for s in (1, 2))
    with pytest.raises(LoraportError, match=r"layer 0 can't be matched.*one to one"):
        match(tmp_path / "experts.h5", old, new)


def test_routers_alike_in_front_of_other_experts_are_refused(tmp_path):
    old = families.make_model(tmp_path / "old", "mixtral", seed=1)
    other = load_file(
        families.make_model(tmp_path / "any", "mixtral", seed=2) / "model.safetensors"
    )

    def exchanged(tensors):
        return {n: other[n].double() if ".experts." in n and "layers.0" in n else v
                for n, v in tensors.items()}  # fmt: skip

    new = pico.edit_model(tmp_path / "new", old, exchanged)
    with pytest.raises(LoraportError, match="layer 0 are chosen alike, and their neurons do not"):
        match(tmp_path / "experts.h5", old, new)


def test_experts_are_assigned_by_the_greatest_sum_and_only_where_it_is_clear():
    correlation = np.array([[0.1, 0.9, 0.2], [0.8, 0.3, 0.1], [0.0, 0.1, 0.7]])
    experts, about = assign_experts(correlation, (4, 5))
    assert experts.tolist() == [1, 0, 2]  # the old one of each new one
    assert about == {"correlation": 0.7, "margin": pytest.approx(0.5)}
    with pytest.raises(LoraportError, match=r"layer 5.*old layer 4.*1 of 3.*0\.40"):
        assign_experts(np.where(correlation == 0.7, 0.4, correlation), (4, 5))
    close = np.where(correlation == 0.3, 0.85, correlation)  # two old ones for one new one
    with pytest.raises(LoraportError, match=r"2 of 3 without a clear match"):
        assign_experts(close, (4, 5))


def test_models_without_experts_are_refused_by_name(pico_pair):
    models = open_model(pico_pair.old), open_model(pico_pair.new)
    with pytest.raises(LoraportError, match="family llama without any"):
        next(match_layers(models, (None, None), [], PATH, "cpu"))
