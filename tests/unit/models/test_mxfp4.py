"""GPT-OSS as it is published, its experts packed in MXFP4: read, described and run."""

import json

import families
import pico
import pytest
import torch
from safetensors.torch import load_file, save_file

from loraport.models.blocks import Streamed
from loraport.models.loading import load_base
from loraport.models.spec import check_shapes, describe, open_model

# the sixteen numbers of a 4-bit float: a sign, two bits of exponent, one of mantissa
NUMBERS = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
FP4 = torch.tensor(NUMBERS + [-number for number in NUMBERS])
EXPERTS = ("experts.gate_up_proj", "experts.down_proj")


def packed(values):
    """A parameter (experts, in, out) of random codes: blocks, scales, and the values they mean."""
    experts, into, out = values.shape
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (experts, out, into // 32, 32), generator=generator)
    scales = torch.randint(123, 127, (experts, out, into // 32), generator=generator)
    blocks = codes[..., 0::2] + 16 * codes[..., 1::2]
    meant = FP4[codes] * 2.0 ** (scales[..., None] - 127)
    meant = meant.reshape(experts, out, into).transpose(1, 2)
    return blocks.to(torch.uint8), scales.to(torch.uint8), meant


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A model with packed experts, and the same one with what they mean."""
    root = tmp_path_factory.mktemp("mxfp4")
    given = {"head_dim": 16, "intermediate": 64, "dtype": torch.bfloat16}
    plain = families.make_model(root / "plain", "gpt_oss", seed=1, **given)
    tensors, unpacked = {}, {}
    for name, values in load_file(plain / "model.safetensors").items():
        if name.endswith(EXPERTS):
            tensors[f"{name}_blocks"], tensors[f"{name}_scales"], unpacked[name] = packed(values)
        else:
            tensors[name] = unpacked[name] = values
    method = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}
    config = {"quantization_config": method}
    whole = pico.edit_model(root / "whole", plain, lambda _: unpacked)
    made = pico.edit_model(root / "packed", plain, lambda _: unpacked, **config)
    save_file(tensors, made / "model.safetensors", {"format": "pt"})
    return made, whole


def test_its_headers_fit_and_every_tensor_is_known(pair):
    model = open_model(pair[0])
    check_shapes(model)
    described = describe(pair[0], "x", "")
    assert described["other_tensors"] == []
    assert described["dimensions"]["experts"] == 4
    assert any(name.endswith("_blocks") for name in described["tensors"]["model.safetensors"])
    assert model.weight(model.checkpoint(), 1, "q").dtype.name == "bfloat16"


def test_a_block_of_it_is_read_with_its_experts_unpacked(pair):
    """As where a model is streamed; in bfloat16, which holds every number of MXFP4, as well."""
    whole = load_base(pair[1], device="cpu")[0]
    for dtype in ("float32", "bfloat16"):
        blocks = Streamed(open_model(pair[0]), dtype=dtype, device="cpu")
        blocks.take(1)
        found = dict(blocks.base.model.layers[1].named_parameters())
        for name, values in whole.model.layers[1].named_parameters():
            assert torch.equal(found[name].float(), values), name


def test_it_runs_with_its_experts_unpacked(pair):
    ids = torch.randint(5, 120, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = [load_base(each, device="cpu")[0](ids).logits for each in pair]
    assert torch.allclose(*logits, atol=1e-4)
    fields = json.loads((pair[0] / "config.json").read_text())
    assert fields["quantization_config"]["quant_method"] == "mxfp4"
