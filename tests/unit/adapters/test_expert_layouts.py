"""LoRA of experts in both forms that files have it in: read as one, written as peft reads it."""

import json

import families
import methodcase
import numpy as np
import pico
import pytest
import torch
from safetensors.numpy import load_file, save_file

from loraport.adapters.attach import attach, detach
from loraport.adapters.audit import audit
from loraport.adapters.experts import gathered
from loraport.adapters.files import read_adapter, write_adapter
from loraport.errors import LoraportError
from loraport.models.spec import open_model

pytestmark = pytest.mark.usefixtures("one_thread")

BOTH = ["experts.gate_up_proj", "experts.down_proj"]
ROUTER = {"gpt_oss": "mlp.router.weight", "granitemoe": "block_sparse_moe.router.weight"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    names = ("qwen3_moe", "mixtral", "gpt_oss", "granitemoe", "llama4", "qwen3_5_moe_text")
    return {name: families.make_model(root / name, name, seed=1) for name in names}


def held(base, adapter):
    model, read = open_model(base), read_adapter(adapter)
    located = audit(read, model.architecture, model.dims, {str(base)}, experts=True)
    return model, read, located, gathered(read.modules, model.architecture, model.dims)


def dense(factors):
    """(E, …, d_in) of (E, …, r) and (E, r, d_in), float64."""
    b, a = (each.astype(np.float64) for each in factors)
    return np.einsum("e...r,eri->e...i", b, a)


def as_parameter(name, values):
    """An update (E, 2, f, d) of gate and up as the parameter's own layout has it."""
    if name == "gpt_oss":  # in turn, and transposed
        return values.transpose(0, 2, 1, 3).reshape(len(values), -1, values.shape[3]).swapaxes(1, 2)
    return values.reshape(len(values), -1, values.shape[3])


def assert_written_alike(folder, base, adapter):
    """Written again, an adapter does the same to its model."""
    model, read, located, experts = held(base, adapter)
    (out := folder / "out").mkdir()
    family, layers = model.architecture, model.dims.layers
    write_adapter(
        out, read.config, str(base), "", family, layers, located, "float32", experts=experts
    )
    bare, before, after = (methodcase.logits(base, each) for each in (None, adapter, out))
    assert (after - before).norm() < 1e-5 * (before - bare).norm()


@pytest.mark.parametrize(
    "targets",
    [BOTH, BOTH[:1], BOTH[1:], [*BOTH, "router"], ["router"]],
    ids=["both", "gate_up", "down", "all", "router"],
)
@pytest.mark.parametrize(
    "name", ["qwen3_moe", "mixtral", "gpt_oss", "granitemoe", "qwen3_5_moe_text"]
)
def test_parameters_of_experts_are_what_peft_adds_and_are_written_again(
    bases, tmp_path, name, targets
):
    base = bases[name]
    targets = [each if each in BOTH else ROUTER.get(name, "mlp.gate.weight") for each in targets]
    adapter = pico.make_adapter(
        tmp_path / "a", base, seed=3, targets=["q_proj"], target_parameters=targets
    )
    model, *_, experts = held(base, adapter)
    module = model.architecture.routed["experts"]
    adapted = attach(pico.load(base), adapter).base_model.model
    for layer, each in experts.items():
        wrapper = adapted.get_submodule(model.architecture.path(layer, module))
        while hasattr(wrapper, "parameter_name"):
            mine = dense(each.down if "down" in wrapper.parameter_name else each.gate_up)
            if "gate" in wrapper.parameter_name:
                mine = as_parameter(name, mine)
            elif name == "gpt_oss":
                mine = mine.swapaxes(1, 2)
            theirs = wrapper.get_delta_weight("default").detach().double().numpy()
            assert np.allclose(mine, theirs, atol=1e-6)
            wrapper = wrapper.base_layer
    assert_written_alike(tmp_path, base, adapter)


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("qwen3_moe", pico.ALL_LINEAR),
        ("mixtral", [*pico.ATTENTION, "w1", "w2", "w3"]),
        ("mixtral", "all-linear"),
    ],
    ids=str,
)
def test_names_of_older_models_mean_experts_to_peft(bases, tmp_path, name, targets):
    """gate_proj and its kin name no module there: peft takes them for experts' parameters."""
    base = bases[name]
    adapter = pico.make_adapter(tmp_path / "a", base, seed=3, targets=targets)
    *_, located, experts = held(base, adapter)
    assert {module.rpartition(".")[2] for _, module in located} == set(pico.ATTENTION)
    first = experts[0]
    assert first.gate_up[1].shape == (4, 8, 32) and first.down[1].shape == (4, 4, 56)  # ranks
    assert (first.router is not None) == (targets == "all-linear")
    assert_written_alike(tmp_path, base, adapter)


def per_expert(folder, base, names, modules, rank):
    """An adapter as older peft wrote it, with a module for each expert; layers without are out."""
    adapter = pico.make_adapter(folder, base, seed=3, targets=pico.ATTENTION)
    rng, file = np.random.default_rng(0), adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    for layer, expert in modules:
        for name, (out, into) in names.items():
            path = f"base_model.model.model.layers.{layer}.{name.format(expert)}"
            tensors[f"{path}.lora_A.weight"] = rng.normal(size=(rank, into)).astype(np.float32)
            tensors[f"{path}.lora_B.weight"] = rng.normal(size=(out, rank)).astype(np.float32)
    save_file(tensors, file, {"format": "pt"})
    return adapter, tensors


@pytest.mark.parametrize(
    ("name", "where", "ends"),
    [
        ("qwen3_moe", "mlp.experts.{}.", ("gate_proj", "up_proj", "down_proj")),
        ("mixtral", "block_sparse_moe.experts.{}.", ("w1", "w3", "w2")),
    ],
)
def test_a_module_for_each_expert_is_read_as_the_same(bases, tmp_path, name, where, ends):
    """Of some experts alone; gate and up have factors of their own."""
    base = bases[name]
    shapes = ((56, 32), (56, 32), (32, 56))
    names = {where + end: shape for end, shape in zip(ends, shapes, strict=True)}
    adapter, tensors = per_expert(tmp_path / "a", base, names, [(0, 1), (0, 3)], 4)
    *_, experts = held(base, adapter)
    assert list(experts) == [0]

    def update(expert, end):
        path = f"base_model.model.model.layers.0.{where.format(expert)}{end}"
        a, b = (tensors[f"{path}.lora_{part}.weight"].astype(float) for part in "AB")
        return 1.5 * b @ a  # alpha 6 at rank 4

    gate_up, down = dense(experts[0].gate_up), dense(experts[0].down)
    for expert in (1, 3):
        assert np.allclose(gate_up[expert, 0], update(expert, ends[0]), atol=1e-5)
        assert np.allclose(gate_up[expert, 1], update(expert, ends[1]), atol=1e-5)
        assert np.allclose(down[expert], update(expert, ends[2]), atol=1e-5)
    assert not gate_up[[0, 2]].any() and not down[[0, 2]].any()
    assert np.isclose(experts[0].norm(), np.hypot(np.linalg.norm(gate_up), np.linalg.norm(down)))


def test_experts_that_do_not_fit_are_refused(bases, tmp_path):
    base = bases["qwen3_moe"]
    wrong = {"mlp.experts.{}.gate_proj": (40, 32)}
    adapter, _ = per_expert(tmp_path / "narrow", base, wrong, [(0, 1)], 4)
    with pytest.raises(LoraportError, match=r"another base model.*experts.1.gate_proj: \(40, 32\)"):
        held(base, adapter)
    names = {"mlp.experts.{}.gate_proj": (56, 32)}
    adapter, _ = per_expert(tmp_path / "many", base, names, [(0, 4)], 4)
    with pytest.raises(LoraportError, match=r"experts.4.gate_proj.*of 4 experts"):
        held(base, adapter)
    adapter = pico.make_adapter(
        tmp_path / "torn", base, seed=3, targets=["q_proj"], target_parameters=BOTH
    )
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps({**config, "rank_pattern": {"experts.gate_up_proj": 3}})
    )
    with pytest.raises(LoraportError, match=r"experts contradict its config.*r = 3"):
        read_adapter(adapter)


def test_experts_whose_router_scales_their_input_are_refused(bases, tmp_path):
    """Llama 4's."""
    adapter = pico.make_adapter(
        tmp_path / "a", bases["llama4"], seed=3, targets=["q_proj"], target_parameters=BOTH
    )
    with pytest.raises(LoraportError, match="experts or router where they are not carried"):
        held(bases["llama4"], adapter)


def test_a_base_is_bare_again_when_experts_are_taken_off(bases, tmp_path):
    base = bases["qwen3_moe"]
    adapter = pico.make_adapter(
        tmp_path / "a", base, seed=3, targets=["q_proj"], target_parameters=BOTH
    )
    model = pico.load(base)
    names = [name for name, _ in model.named_modules()]
    bare = detach(attach(model, adapter))
    assert [name for name, _ in bare.named_modules()] == names
    ids = torch.arange(5, 20)[None]
    assert torch.equal(bare(ids).logits, pico.load(base)(ids).logits)
