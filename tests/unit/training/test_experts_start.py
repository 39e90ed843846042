"""A fresh adapter like one of experts: at the same places, of the same rank, without an effect."""

import families
import pico
import pytest
import torch

from loraport.training.starts import begin, fresh_like

pytestmark = pytest.mark.usefixtures("one_thread")


def test_it_adapts_the_same_experts_and_can_be_trained(tmp_path):
    base = families.make_model(tmp_path / "base", "qwen3_moe", seed=1)
    parameters = ["experts.down_proj", "experts.gate_up_proj"]
    adapter = pico.make_adapter(
        tmp_path / "lora", base, seed=3, targets=pico.ATTENTION, target_parameters=parameters
    )
    fresh = fresh_like(adapter)
    assert fresh.target_parameters == tuple(parameters)
    ids = torch.arange(5, 25)[None]
    bare = pico.load(base)(ids).logits
    model = begin(pico.load(base), fresh, "zero", 10)
    assert torch.equal(model(ids).logits, bare)
    shapes = {name: p.shape for name, p in model.named_parameters() if "lora_" in name}
    given = pico.read_tensors(adapter)
    assert {n.replace(".default", ""): tuple(s) for n, s in shapes.items()} == {
        name: values.shape for name, values in given.items()
    }
    model(input_ids=ids, labels=ids).loss.backward()
    moved = [n for n, p in model.named_parameters() if "lora_B" in n and p.grad.abs().sum() > 0]
    assert len(moved) == sum("lora_B" in name for name in shapes)
