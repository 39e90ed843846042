"""Maps of one adapter are the same where of each of the four models one block is in memory."""

import json
import weakref
from dataclasses import replace

import families
import methodcase
import pico
import pytest
import torch
from inprocess import CALIBRATION, Named
from weights_alive import Counted

from loraport.adapters.attach import attach
from loraport.adapters.streamed import Merged
from loraport.artifacts import identity
from loraport.mapping import four_models
from loraport.mapping.adapter_texts import open_adapted
from loraport.mapping.four_models import open_walks
from loraport.methods import make_maps
from loraport.models import blocks
from loraport.models.blocks import Streamed, Whole
from loraport.models.loading import load_base
from loraport.models.spec import open_model
from loraport.models.weights import TensorFile
from loraport.transfer.maps import write_maps

pytestmark = pytest.mark.usefixtures("one_thread")
TEXTS = pico.texts(12)
METHOD = "aligned_sequential"


@pytest.mark.parametrize("streamed", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("names", [("llama", "gemma2"), ("gemma2", "qwen2")])
def test_maps_have_the_bytes_of_those_made_of_whole_models(tmp_path, names, streamed):
    old, new = (
        families.make_model(tmp_path / side, name, seed=seed, wider=seed > 1)
        for seed, (side, name) in enumerate(zip(("old", "new"), names, strict=True), 1)
    )
    lora, path = pico.make_adapter(tmp_path / "lora", old, seed=3), [(0, 0), (1, 2)]
    moments = methodcase.collect_moments(old, new, path, TEXTS)
    pair = methodcase.adapted(methodcase.make_method_pair(old, new, path, moments), lora, TEXTS)
    pair = methodcase.with_outputs(tmp_path / "outputs.h5", METHOD, pair)
    made = {}
    for how in ((False, False), streamed):
        asked = replace(pair, adapter=replace(pair.adapter, streamed=how))
        file = tmp_path / f"{how}.h5"
        write_maps(file, METHOD, {}, make_maps(METHOD, asked))
        made[how] = identity(file)[0]
    assert made[streamed] == made[False, False]


@pytest.mark.parametrize(
    ("adapter", "shares"),
    [
        ({}, True),
        ({"use_dora": True}, True),
        ({"lora_bias": True, "targets": ["q_proj"]}, True),
        ({"targets": [*pico.ALL_LINEAR, "embed_tokens"]}, False),
        ({"modules_to_save": ["embed_tokens", "lm_head", "input_layernorm"]}, True),
        ({"trainable_token_indices": [3, 5]}, False),
    ],
    ids=["lora", "dora", "bias", "vocabulary", "whole modules", "tokens"],
)
@torch.no_grad()
def test_an_adapter_is_in_the_weights_of_a_block_while_that_is_there(tmp_path, adapter, shares):
    directory = families.make_model(tmp_path / "model", "qwen2", seed=5)
    lora = pico.make_adapter(tmp_path / "lora", directory, seed=3, **adapter)
    base, tokenizer = load_base(directory, device="cpu")
    ids = tokenizer(TEXTS[0], return_tensors="pt").input_ids
    bare = base.model(ids).last_hidden_state
    expected = attach(base, lora).merge_and_unload().model(ids).last_hidden_state
    ahead = Streamed(open_model(directory), device="cpu")
    merged = Merged(ahead.follower(), lora)
    assert (around(merged.base) >= around(ahead.base)) == shares
    for turn in range(2):  # a block may come again, and without the model ahead
        for layer in range(2):
            if turn == 0:
                ahead.take(layer)
                taken = places(ahead.base.model.layers[layer])
                ahead.leave(layer)
            merged.take(layer)
            assert turn or taken & places(merged.base.model.layers[layer])
        assert torch.equal(merged.base.model(ids).last_hidden_state, expected)
        for layer in range(2):
            merged.leave(layer)
        assert merged.base.model.layers[1].mlp.up_proj.weight.is_meta
    for layer in range(2):
        ahead.take(layer)
    assert torch.equal(ahead.base.model(ids).last_hidden_state, bare)
    assert not torch.allclose(expected, bare, atol=1e-3)


@pytest.mark.parametrize(
    "path", [[(n, n) for n in range(6)], [(0, 0), (0, 2), (3, 3), (5, 5)]], ids=["all", "some"]
)
def test_both_models_of_a_base_read_it_once_and_share_what_they_hold(tmp_path, monkeypatch, path):
    sizes = {"hidden": 32, "intermediate": 256, "layers": 6, "heads": 4, "kv_heads": 4}
    directories = [
        pico.make_model(tmp_path / side, seed=3, vocab_words=60, **sizes) for side in ("old", "new")
    ]
    lora = pico.make_adapter(
        tmp_path / "lora", directories[0], seed=2, targets=["q_proj", "down_proj"]
    )
    pair = methodcase.adapted(methodcase.make_method_pair(*directories), lora, TEXTS)
    pair = replace(pair, adapter=replace(pair.adapter, streamed=(True, True)))
    base, _ = load_base(directories[0], device="cpu")
    one = sum(weights.nbytes for weights in base.model.layers[0].parameters())
    counted, read, there = Counted(), [], []
    read_tensor, read_bytes, take = blocks.read_tensor, TensorFile.read, Streamed.take
    monkeypatch.setattr(blocks, "read_tensor", lambda *of: counted.add(read_tensor(*of)))
    monkeypatch.setattr(
        TensorFile, "read", lambda *of: read.append((of[0].path, of[1])) or read_bytes(*of)
    )
    walks = open_walks(pair, pair.adapter)
    bases = [walk.base for walk in (walks.old, walks.adapted, walks.new, walks.placed)]

    def taken(streamed, layer):
        take(streamed, layer)
        there.append(sum(len(places(base)) for base in bases) - 2 * 2 * len(around(bases[0])))

    monkeypatch.setattr(Streamed, "take", taken)
    for layers in path:
        walks.step(*layers)
        walks.reading("attention")
        assert around(bases[0]) == around(bases[1]) != around(bases[2]) == around(bases[3])
    assert len(around(bases[0])) == 2  # embedding and last norm
    assert len(there) == 4 * 6 and set(there) == {len(list(base.model.layers[0].parameters()))}
    held = 4 * (pair.old.dims.vocabulary + 1) * 32
    assert 2 * held + one < counted.most <= 2 * held + 3 * one  # two of them read ahead
    names = [name for name in pair.old.checkpoint().names() if name != "lm_head.weight"]
    files = [directory / "model.safetensors" for directory in directories]
    of_bases = sorted((file, name) for file, name in read if file in files)
    assert of_bases == sorted((file, name) for file in files for name in names)


def places(module):
    """Where in memory the weights of a base are."""
    held = module.named_parameters()
    return {w.data_ptr() for name, w in held if not w.is_meta and "lora_" not in name}


def around(base):
    """The same of what stands around the blocks."""
    return places(base.model) - places(base.model.layers)


def test_the_old_model_is_whole_only_while_it_writes_answers(pico_pair, monkeypatch):
    pair = methodcase.make_method_pair(pico_pair.old, pico_pair.new)
    pair = methodcase.adapted(pair, pico_pair.adapter, TEXTS)
    loaded, load = [], four_models.load_base
    monkeypatch.setattr(
        four_models, "load_base", lambda *of, **how: loaded.append(of) or load(*of, **how)
    )
    opened = []

    def texts(whole, tokenizer):
        model = whole()
        opened.append(weakref.ref(model))
        update = model.get_submodule("model.layers.0.self_attn.q_proj").weight
        assert not torch.equal(update, load(pico_pair.old, device="cpu")[0].get_parameter(
            "model.layers.0.self_attn.q_proj.weight"))  # fmt: skip
        return TEXTS

    for asks, count in ((texts, 1), (lambda whole, tokenizer: TEXTS, 0)):
        loaded.clear()
        walks = open_walks(pair, replace(pair.adapter, texts=asks, streamed=(True, True)))
        assert len(loaded) == count and isinstance(walks.adapted._blocks, Merged)
    assert opened[0]() is None


def test_the_answers_are_the_same_and_the_settings_say_which_model_is_streamed(pico_pair, tmp_path):
    lines = [json.dumps({"prompt": f"{text}:", "completion": " label"}) for text in TEXTS]
    (tmp_path / "sums.jsonl").write_text("\n".join(lines) + "\n")
    pair, read = methodcase.make_method_pair(pico_pair.old, pico_pair.new), {}
    for stream in ("never", "auto"):
        reading = {"calibration": {**CALIBRATION, "stream": stream}, "remote_code": [False, False]}
        params = {
            "known_as": [str(pico_pair.old)],
            "reading": reading,
            "task": {"source": str(tmp_path / "sums.jsonl"), "template": "plain"},
            "sources": {},
            "settings": {"calibrate_on": "own_answers", "prompts": 0},
        }
        adapted = open_adapted(str(pico_pair.adapter), pair.old, Named(params))
        walks = open_walks(pair, adapted)
        kind = Streamed if stream == "auto" else Whole
        assert all(type(walk._blocks) is kind for walk in (walks.old, walks.new, walks.placed))
        read[stream] = [batch.inputs[0]["input_ids"].tolist() for batch in walks.batches]
    assert read["auto"] == read["never"] != []
    reading["remote_code"] = [True, False]
    assert open_adapted(str(pico_pair.adapter), pair.old, Named(params)).streamed == (False, True)
