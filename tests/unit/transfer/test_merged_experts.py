"""Updates of experts merged into a checkpoint, in whatever form it has them, are what peft adds."""

import families
import methodcase
import pico
import pytest
import torch
from safetensors.torch import load_file, save_file

from loraport.errors import LoraportError
from loraport.models.spec import open_model
from loraport.models.weights import Checkpoint
from loraport.transfer.merged_model import merge

pytestmark = pytest.mark.usefixtures("one_thread")

ROUTER = {"gpt_oss": "mlp.router.weight", "granitemoe": "block_sparse_moe.router.weight"}


def make(root, name):
    base = families.make_model(root / "base", name, seed=1)
    parameters = ["experts.gate_up_proj", "experts.down_proj", ROUTER.get(name, "mlp.gate.weight")]
    adapter = pico.make_adapter(
        root / "lora", base, seed=3, targets=["q_proj"], target_parameters=parameters
    )
    return base, adapter


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral", "gpt_oss", "granitemoe"])
def test_merged_experts_compute_what_peft_does(tmp_path, name):
    base, adapter = make(tmp_path, name)
    (out := tmp_path / "merged").mkdir()
    merge(adapter, open_model(base), out, "base", {})
    assert set(Checkpoint(out).names()) == set(Checkpoint(base).names())
    bare, wanted, found = (
        methodcase.logits(base), methodcase.logits(base, adapter), methodcase.logits(out)
    )  # fmt: skip
    assert (found - wanted).norm() < 1e-5 * (wanted - bare).norm()


def test_nothing_can_be_added_to_packed_experts(tmp_path):
    base, adapter = make(tmp_path, "gpt_oss")
    tensors = {}
    for name, values in load_file(base / "model.safetensors").items():
        if name.endswith(("gate_up_proj", "down_proj")):
            tensors[f"{name}_blocks"] = torch.zeros(4, 2, 1, 16, dtype=torch.uint8)
            tensors[f"{name}_scales"] = torch.zeros(4, 2, 1, dtype=torch.uint8)
        else:
            tensors[name] = values
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    (out := tmp_path / "merged").mkdir()
    with pytest.raises(LoraportError, match=r"can't be merged.*packed in MXFP4"):
        merge(adapter, open_model(base), out, "base", {})
