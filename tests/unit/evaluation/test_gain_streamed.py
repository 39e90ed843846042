"""A gain that is chosen on a model of which one block is in memory is that of the whole model."""

import gc
import json

import families
import pico
import pytest
import torch
from safetensors.torch import load_file, save_file
from weights_alive import Counted

from loraport.adapters.attach import attach
from loraport.adapters.streamed import attach_streamed
from loraport.evaluation import gain
from loraport.evaluation.gain import GAINS, Gain, choose_for, measure, measure_streamed
from loraport.models import blocks
from loraport.models.blocks import Streamed
from loraport.models.loading import load_base
from loraport.models.spec import open_model
from loraport.models.weights import TensorFile
from loraport.training.data import Example

pytestmark = pytest.mark.usefixtures("one_thread")
EXAMPLES = [Example(f"the word {n} is", f" number {'and ' * (n % 4)}{n}") for n in range(10)]
LINEAR = pico.ALL_LINEAR
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def choose_streamed(model, adapter, **how) -> Gain:
    streamed = Streamed(model, device="cpu", head=True, **how)
    attach_streamed(streamed, adapter)
    return measure_streamed(model, streamed, streamed.tokenizer, EXAMPLES, 64, 4, least=0.0)


def assert_same_choice(directory, adapter, **how) -> None:
    base, tokenizer = load_base(directory, device="cpu", **how)
    whole = measure(attach(base, adapter).eval(), tokenizer, EXAMPLES, 64, 4, least=0.0)
    assert choose_streamed(open_model(directory), adapter, **how) == whole
    assert len(set(whole.curve.values())) == len(GAINS)  # each gain does something of its own


@pytest.mark.parametrize("kind", [{}, {"use_dora": True}], ids=["lora", "dora"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "gemma4_multimodal", "cohere2"])
def test_the_curve_and_the_choice_are_those_of_the_whole_model(tmp_path, name, kind):
    """Among these: norms on outputs, scores that are capped or scaled, tied heads, keys and values
    of earlier blocks.
    """
    directory = families.make_model(tmp_path / "model", name, seed=5)
    targets = LINEAR
    if name == "gemma4_multimodal":  # some of its layers lack k and v, its tower has others
        targets = rf"model[.]language_model[.].*[.]({'|'.join(LINEAR)})"
    assert_same_choice(
        directory,
        pico.make_adapter(tmp_path / "adapter", directory, seed=2, targets=targets, **kind),
    )


@pytest.mark.parametrize(
    ("name", "model", "adapter"),
    [
        ("llama", {}, {"targets": [*LINEAR, "embed_tokens", "lm_head"]}),
        ("llama", {"tie_word_embeddings": True}, {"targets": [*LINEAR, "lm_head"]}),
        ("llama", {}, {"modules_to_save": ["embed_tokens", "lm_head", "input_layernorm"]}),
        ("gemma2", {}, {"trainable_token_indices": [3, 5]}),
        ("qwen3_moe", {}, {"targets": ["q_proj"], "target_parameters": EXPERTS}),
    ],
    ids=["vocabulary", "tied head", "whole modules", "tokens", "experts"],
)
def test_so_they_are_of_adapters_that_reach_beyond_linear_modules(tmp_path, name, model, adapter):
    directory = families.make_model(tmp_path / "model", name, seed=5, **model)
    assert_same_choice(
        directory, pico.make_adapter(tmp_path / "adapter", directory, seed=2, **adapter)
    )


@pytest.mark.parametrize("kind", [{}, {"use_dora": True}], ids=["lora", "dora"])
def test_so_they_are_in_bfloat16(tmp_path, kind):
    directory = families.make_model(tmp_path / "model", "gemma2", seed=5)
    adapter = pico.make_adapter(tmp_path / "adapter", directory, seed=2, **kind)
    assert_same_choice(directory, adapter, dtype="bfloat16")


@pytest.mark.parametrize("factor", [1, 2])
def test_a_head_that_a_checkpoint_has_beside_its_tie_is_read(tmp_path, factor):
    directory = families.make_model(tmp_path / "model", "gemma2", seed=5)
    adapter = pico.make_adapter(tmp_path / "adapter", directory, seed=2)
    file = directory / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = factor * tensors["model.embed_tokens.weight"]
    save_file(tensors, file, {"format": "pt"})
    assert_same_choice(directory, adapter)
    base = Streamed(open_model(directory), device="cpu", head=True).base
    assert (base.lm_head.weight is base.model.embed_tokens.weight) == (factor == 1)


@pytest.fixture
def deep(tmp_path):
    """A model of ten blocks that are larger than what stands around them, and an adapter."""
    sizes = {"hidden": 32, "intermediate": 256, "layers": 10, "heads": 4, "kv_heads": 4}
    directory = pico.make_model(tmp_path / "deep", seed=3, vocab_words=60, **sizes)
    return open_model(directory), pico.make_adapter(tmp_path / "adapter", directory, seed=2)


def test_no_more_than_two_blocks_are_in_memory_and_all_is_read_once_for_all_gains(
    deep, monkeypatch
):
    model, adapter = deep
    counted, read = Counted(), []
    read_tensor, read_bytes = blocks.read_tensor, TensorFile.read
    monkeypatch.setattr(blocks, "read_tensor", lambda *of: counted.add(read_tensor(*of)))
    monkeypatch.setattr(TensorFile, "read", lambda *of: read.append(of[1]) or read_bytes(*of))
    choose_streamed(model, adapter)
    gc.collect()
    base, _ = load_base(model.directory, device="cpu")
    one = sum(weights.nbytes for weights in base.model.layers[0].parameters())
    around = 4 * (2 * model.dims.vocabulary + 1) * model.dims.hidden  # embedding, head, last norm
    assert around + one < counted.most <= around + 2 * one
    assert counted.alive == 0
    of_base = [name for name in read if "lora_" not in name]
    assert sorted(of_base) == sorted(model.checkpoint().names())


def test_weights_that_stand_in_take_no_memory_and_are_gone_again(deep):
    streamed = Streamed(deep[0], device="cpu", dtype="bfloat16")
    weight = streamed.base.model.layers[9].mlp.up_proj
    with streamed.standing_in():
        assert weight.weight.shape == (256, 32) and weight.weight.dtype == torch.bfloat16
        assert weight.weight.untyped_storage().nbytes() == 2
    assert weight.weight.is_meta


@pytest.mark.parametrize(
    ("stream", "device_map", "own_code", "streamed"),
    [
        ("auto", "", False, True),
        ("always", "", True, True),
        ("never", "", False, False),
        ("auto", "", True, False),
        ("auto", "auto", False, False),
    ],
)
def test_the_settings_say_whether_the_model_is_whole(
    deep, tmp_path, monkeypatch, stream, device_map, own_code, streamed
):
    model, adapter = deep
    lines = [json.dumps(example.record()) for example in EXAMPLES]
    (tmp_path / "small.jsonl").write_text("\n".join(lines) + "\n")
    made = []
    for name in ("Streamed", "load_base"):
        make = getattr(gain, name)
        monkeypatch.setattr(
            gain,
            name,
            lambda *of, make=make, name=name, **how: made.append(name) or make(*of, **how),
        )
    settings = {
        "examples": 8,
        "subset_seed": 0,
        "cutoff": 64,
        "batch_size": 4,
        "micro_batch": 0,
        "dtype": "auto",
        "device": "cpu",
        "device_map": device_map,
        "stream": stream,
    }
    data = {"source": str(tmp_path / "small.jsonl"), "template": "plain"}
    chosen = choose_for(model, adapter, data, settings, {"remote_code": own_code})
    assert made == ["Streamed" if streamed else "load_base"]
    assert chosen.examples == 8 and set(chosen.curve) == set(GAINS)
