"""Merged weights: what peft computes with the adapter on, from files that stand alone."""

import copy
import json

import families
import numpy as np
import pico
import pytest
import torch
from kindcase import TOKENS, adalora, loaded, logits, make, prune
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from loraport.adapters.attach import attach
from loraport.errors import LoraportError
from loraport.models.spec import open_model
from loraport.models.weights import Checkpoint, TensorFile
from loraport.transfer.merged_model import merge

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ("llama", "qwen2", "phi3", "gpt_neox", "bloom", "gemma2")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    return {name: families.make_model(root / name, name, seed=1) for name in NAMES}


ALL = pico.ALL_LINEAR
KINDS = {
    "lora": ("llama", LoraConfig(target_modules=ALL)),
    "rslora": (
        "llama",
        LoraConfig(target_modules=ALL, use_rslora=True, rank_pattern={"q_proj": 2}),
    ),
    "dora": ("llama", LoraConfig(target_modules=ALL, use_dora=True)),
    "adalora": ("llama", adalora()),
    "adalora_pruned": ("llama", adalora()),
    "bias": ("qwen2", LoraConfig(target_modules=["q_proj", "v_proj"], lora_bias=True)),
    "fused_blocks": ("phi3", LoraConfig(target_modules=["qkv_proj", "gate_up_proj"])),
    "fused_dora": ("phi3", LoraConfig(target_modules=["qkv_proj", "down_proj"], use_dora=True)),
    "fused_heads": ("gpt_neox", LoraConfig(target_modules=["query_key_value", "dense_4h_to_h"])),
    "tied": ("bloom", LoraConfig(target_modules=["query_key_value", "dense"])),
    "embedding_scale": ("gemma2", LoraConfig(target_modules=["q_proj", "down_proj"])),
    "saved": ("llama", LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"])),
}


def merged(tmp_path, base, source, dtype="base", **more):
    out = tmp_path / "merged"
    out.mkdir()
    merge(source, open_model(base), out, dtype, {}, **more)
    return out


@pytest.mark.parametrize("name", KINDS)
def test_merged_weights_compute_what_peft_merges(tmp_path, bases, name):
    family, config = KINDS[name]
    base = bases[family]
    source = make(tmp_path / "source", base, config)
    if name == "adalora_pruned":
        prune(source)
    out = merged(tmp_path, base, source)
    by_peft = attach(copy.deepcopy(loaded(base)), source).merge_and_unload()
    alone = AutoModelForCausalLM.from_pretrained(out)
    with torch.no_grad():
        wanted, got = (model.eval()(TOKENS).logits.double() for model in (by_peft, alone))
    assert (got - wanted).abs().max() < 1e-5
    assert (got - logits(base, None)).abs().max() > 1e-3
    assert len(AutoTokenizer.from_pretrained(out)) == len(AutoTokenizer.from_pretrained(base))


def test_an_update_of_zero_leaves_the_weights_as_they_are(tmp_path, bases):
    source = pico.silence(make(tmp_path / "source", bases["llama"], KINDS["lora"][1]))
    alone = AutoModelForCausalLM.from_pretrained(merged(tmp_path, bases["llama"], source))
    with torch.no_grad():
        got = alone.eval()(TOKENS).logits.double()
    assert (got - logits(bases["llama"], None)).abs().max() < 1e-6


def test_shards_have_an_index_and_the_same_tensors(tmp_path, bases):
    base = bases["llama"]
    source = make(tmp_path / "source", base, LoraConfig(target_modules=ALL))
    whole = Checkpoint(merged(tmp_path, base, source))
    (tmp_path / "apart").mkdir()
    apart = merged(tmp_path / "apart", base, source, shard_bytes=20_000)
    files = sorted(apart.glob("*.safetensors"))
    assert len(files) > 3
    index = json.loads((apart / "model.safetensors.index.json").read_text())
    held = {name: path.name for path in files for name in TensorFile(path).tensors}
    assert index["weight_map"] == held
    for path in files:
        tensors = TensorFile(path).tensors
        assert len(tensors) == 1 or path.stat().st_size < 25_000
    shards = Checkpoint(apart)
    assert all(np.array_equal(shards.read(name), whole.read(name)) for name in whole.names())
    assert AutoModelForCausalLM.from_pretrained(apart) is not None


def test_a_dtype_is_rounded_to_once(tmp_path, bases):
    base = bases["llama"]
    source = make(tmp_path / "source", base, LoraConfig(target_modules=["q_proj"]))
    exact = Checkpoint(merged(tmp_path, base, source))
    (tmp_path / "half").mkdir()
    half = merged(tmp_path / "half", base, source, "bfloat16")
    assert json.loads((half / "config.json").read_text())["dtype"] == "bfloat16"
    for name in exact.names():
        wanted = torch.from_numpy(exact.read(name)).bfloat16()
        got = torch.from_numpy(Checkpoint(half).read(name).astype(np.float32))
        assert torch.equal(got, wanted.float())


def test_the_same_inputs_give_the_same_bytes(tmp_path, bases):
    base = bases["llama"]
    source = make(tmp_path / "source", base, LoraConfig(target_modules=ALL))
    outs = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        outs.append(merged(tmp_path / folder, base, source))
    names = sorted(path.name for path in outs[0].iterdir())
    assert names == sorted(path.name for path in outs[1].iterdir())
    assert all((outs[0] / n).read_bytes() == (outs[1] / n).read_bytes() for n in names)


def test_half_precision_that_overflows_is_refused(tmp_path, bases):
    base = bases["llama"]
    source = make(tmp_path / "source", base, LoraConfig(target_modules=["q_proj"], lora_alpha=1e45))
    with pytest.raises(LoraportError, match=r"NaN or Inf in .*q_proj.*another dtype"):
        merged(tmp_path, base, source, "bfloat16")


def test_an_adapter_of_another_model_is_refused(tmp_path, bases):
    source = make(tmp_path / "source", bases["phi3"], LoraConfig(target_modules=["qkv_proj"]))
    with pytest.raises(LoraportError, match=r"can't be merged.*qkv_proj"):
        merged(tmp_path, bases["llama"], source)
