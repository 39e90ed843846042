"""Adapters of mixtures of experts: what is carried, and what is refused before any work."""

import json

import families
import numpy as np
import pico
import pytest
from safetensors.numpy import load_file, save_file

from loraport.cli import main
from loraport.models.spec import open_model
from loraport.planning.prospect import NOT, UNCLEAR, prospect


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    names = ("llama", "qwen3_moe", "mixtral", "llama4", "qwen2_moe", "glm4_moe", "ernie4_5_moe",
             "qwen3_5_moe_text")  # fmt: skip
    return {name: families.make_model(root / name, name, seed=1) for name in names}


def with_module(folder, base, name, shape):
    """An adapter of attention, with one more module in its file."""
    adapter = pico.make_adapter(folder, base, seed=3, targets=pico.ATTENTION)
    file = adapter / "adapter_model.safetensors"
    out, into = shape
    rng = np.random.default_rng(0)
    more = {
        f"base_model.model.{name}.lora_A.weight": rng.normal(size=(4, into)).astype(np.float32),
        f"base_model.model.{name}.lora_B.weight": rng.normal(size=(out, 4)).astype(np.float32),
    }
    save_file({**load_file(file), **more}, file, {"format": "pt"})
    return adapter


def told(adapter, old, new=None):
    return prospect(adapter, open_model(old), new and open_model(new), {str(old)})


@pytest.mark.parametrize(
    ("family", "name", "shape"),
    [
        ("qwen3_moe", "model.layers.1.mlp.down_proj", (32, 56)),  # of a layer without experts
        ("llama4", "model.layers.1.feed_forward.shared_expert.up_proj", (56, 32)),
        ("llama4", "model.layers.1.feed_forward.experts.2.up_proj", (56, 32)),
        ("llama4", "model.layers.1.feed_forward.router", (4, 32)),
        ("llama4", "model.layers.0.feed_forward.down_proj", (32, 56)),  # without experts
        ("qwen2_moe", "model.layers.1.mlp.shared_expert.gate_proj", (56, 32)),
        ("qwen2_moe", "model.layers.1.mlp.shared_expert_gate", (1, 32)),
        ("qwen3_5_moe_text", "model.layers.1.mlp.shared_expert.down_proj", (32, 56)),
        ("glm4_moe", "model.layers.0.mlp.gate_proj", (56, 32)),  # without experts
        ("glm4_moe", "model.layers.1.mlp.shared_experts.up_proj", (56, 32)),
        ("ernie4_5_moe", "model.layers.0.mlp.up_proj", (56, 32)),  # without experts
        ("ernie4_5_moe", "model.layers.1.mlp.shared_experts.down_proj", (32, 56)),
    ],
)
def test_networks_beside_experts_are_refused_by_name(bases, tmp_path, family, name, shape):
    base = bases[family]
    found = told(with_module(tmp_path / "a", base, name, shape), base, base)
    assert found.how == NOT
    assert "adapts a feed-forward network of a mixture" in found.refused[0]
    assert name in found.refused[0]


@pytest.mark.parametrize(
    ("new", "what"),
    [
        ("llama", "llama has none"),
        ("mixtral", "mixtral has 2 of 56"),
        ("qwen3_moe", "qwen3_moe has 4 of 40"),
        ("llama4", "llama4 has 4 of 56"),
    ],
)
@pytest.mark.parametrize("form", ["parameter", "modules", "router"])
def test_experts_without_counterparts_are_refused_while_planning(tmp_path, bases, new, what, form):
    sizes = {"mixtral": {"num_local_experts": 2}, "qwen3_moe": {"intermediate": 40}}
    model = families.make_model(tmp_path / "new", new, seed=1, **sizes.get(new, {}))
    base = bases["qwen3_moe"]
    if form == "modules":
        name = "layers.0.mlp.experts.3.gate_proj"  # as AutoModel has it
        adapter = with_module(tmp_path / "a", base, name, (56, 32))
    elif form == "router":
        adapter = with_module(tmp_path / "a", base, "model.layers.0.mlp.gate", (4, 32))
    else:
        adapter = pico.make_adapter(
            tmp_path / "a",
            base,
            seed=3,
            targets=pico.ATTENTION,
            target_parameters=["mlp.experts.down_proj"],
        )
    same = told(adapter, base, base)
    assert same.refused == []
    assert UNCLEAR in same.notes
    found = told(adapter, base, model)
    assert found.how == NOT
    assert (
        f"no counterparts in the new model. Got: 4 experts of 56 neurons; {what}"
        in (found.refused[0])
    )


def test_experts_of_another_base_are_refused_as_such(bases, tmp_path):
    name = "model.layers.0.mlp.experts.3.gate_proj"
    adapter = with_module(tmp_path / "a", bases["qwen3_moe"], name, (40, 32))
    found = told(adapter, bases["qwen3_moe"], bases["qwen3_moe"])
    assert found.how == NOT and len(found.refused) == 1
    assert "is for another base model" in found.refused[0]


def test_inspect_counts_experts(bases, tmp_path, capsys):
    adapter = pico.make_adapter(
        tmp_path / "a",
        bases["mixtral"],
        seed=3,
        targets=["q_proj"],
        target_parameters=["experts.down_proj"],
    )
    assert main(["inspect", str(adapter)]) == 0
    told_lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:3] == ["down_proj", "8", "experts"] for line in told_lines)
    assert any(line.split()[:3] == ["q_proj", "2", "layers"] for line in told_lines)


def test_other_parameters_are_refused_by_name(bases, tmp_path):
    adapter = pico.make_adapter(tmp_path / "a", bases["qwen3_moe"], seed=3, targets=["q_proj"])
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["target_parameters"] = ["self_attn.sinks"]
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    found = told(adapter, bases["qwen3_moe"], bases["llama"])
    assert found.how == NOT
    assert "target_parameters = ['self_attn.sinks']" in found.refused[0]
    assert "those of experts and routers alone" in found.refused[0]


def test_what_a_mixture_has_no_place_for_is_told_with_its_share(bases, tmp_path):
    adapter = pico.make_adapter(tmp_path / "a", bases["llama"], seed=3)
    (left,) = told(adapter, bases["llama"], bases["qwen3_moe"]).left
    squares = {
        place: np.linalg.norm(s * B @ A) ** 2
        for place, (B, A, s) in pico.load_adapter(bases["llama"], adapter).items()
    }
    gone = sum(square for (_, role), square in squares.items() if role not in "qkvo")
    assert left == (
        "mlp.down_proj, mlp.gate_proj, mlp.up_proj will be left behind, "
        f"{100 * gone / sum(squares.values()):.0f}% of the update's squared norm: "
        "qwen3_moe has a mixture of experts there"
    )


def test_an_adapter_of_feed_forward_networks_alone_has_no_place(bases, tmp_path):
    targets = ["gate_proj", "up_proj", "down_proj"]
    adapter = pico.make_adapter(tmp_path / "a", bases["llama"], seed=3, targets=targets)
    found = told(adapter, bases["llama"], bases["qwen3_moe"])
    assert found.how == NOT
    assert "no place in the new model" in found.refused[0]
