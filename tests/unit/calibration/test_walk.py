"""A model walked block by block, each read when its turn comes, computes what it computes whole."""

import gc
from pathlib import Path

import families
import family_configs
import numpy as np
import pico
import pytest
import torch
from weights_alive import Counted

from loraport.calibration import resume
from loraport.calibration.activations import POOLS, pooled_features
from loraport.calibration.batches import make_batches
from loraport.calibration.resume import KeptFeatures
from loraport.calibration.sites import STREAM, caught_sites
from loraport.calibration.streams import Streams
from loraport.calibration.sums import layer_moments
from loraport.calibration.walk import Walk, open_walks
from loraport.errors import LoraportError
from loraport.models import blocks
from loraport.models.blocks import Streamed, Whole, open_blocks
from loraport.models.loading import load_base
from loraport.models.spec import Model, describe, open_model
from loraport.models.streaming import is_streamed
from loraport.models.weights import TensorFile

pytestmark = pytest.mark.usefixtures("one_thread")
TEXTS = [text[: 7 * number] for number, text in enumerate(pico.texts(10), 2)]  # padded in batches


def open_both(directory: Path, **how):
    """The same batches over a whole model and a streamed one: (model, whole base, walk)."""
    model = open_model(directory)
    base, tokenizer = load_base(directory, device="cpu", **how)
    batches = make_batches((tokenizer, tokenizer), TEXTS, 64, 4)
    return model, base, batches, Walk(model, Streamed(model, device="cpu", **how), batches, 0)


@torch.no_grad()
def passed(model: Model, base, batch, layer: int) -> dict[str, torch.Tensor]:
    """What passes the sites of a block, and what it gives to the next one, in a whole pass."""
    behind = []
    block = base.get_submodule(model.architecture.block.format(layer=layer))
    handle = block.register_forward_hook(lambda module, inputs, output: behind.append(output))
    with caught_sites(base, model, layer, lambda: batch.rows[0]) as caught:
        base(**batch.inputs[0], use_cache=False)
    handle.remove()
    output = behind[0]
    return {**caught, "output": output[0] if isinstance(output, tuple) else output}


def assert_same_walk(directory: Path, **how) -> None:
    model, base, batches, walk = open_both(directory, **how)
    for layer in range(model.dims.layers):
        has_heads = "q" in model.architecture.roles_of(model.dims.at(layer))
        reads = "attention" if has_heads else "linear"
        whole = [passed(model, base, batch, layer) for batch in batches]
        seen = list(walk.through(move=True))
        for number, (expected, found) in enumerate(zip(whole, seen, strict=True)):
            assert torch.equal(expected.pop("output"), walk.streams[number])
            assert expected.keys() == found.keys() >= {*STREAM.values(), reads}
            for site, values in expected.items():
                assert torch.equal(values, found[site]), (layer, site)


@pytest.mark.parametrize("name", sorted(families.FAMILIES))
def test_what_passes_each_block_has_the_bytes_of_a_whole_pass(tmp_path, name):
    assert_same_walk(families.make_model(tmp_path, name, seed=5))


def test_a_model_of_another_class_with_the_same_layers_is_walked_alike(tmp_path):
    directory = families.make_model(
        tmp_path, "gemma4", seed=5, config_class=family_configs.gemma4_unified
    )
    model = open_model(directory)
    assert model.architecture.name == "gemma4_multimodal"
    assert describe(directory, "x", "")["other_tensors"] == []
    assert_same_walk(directory)


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "cohere2", "mistral"])
def test_windows_that_slide_by_layer_are_those_of_the_models_own_code(tmp_path, name):
    """A window of four tokens on every second layer, or on each."""
    kinds = (
        {} if name == "mistral" else {"layer_types": ["full_attention", "sliding_attention"] * 2}
    )
    directory = families.make_model(tmp_path, name, seed=5, layers=4, sliding_window=4, **kinds)
    assert_same_walk(directory)
    wide = families.make_model(
        tmp_path / "wide", name, seed=5, layers=4, sliding_window=64, **kinds
    )
    outputs = []
    for each in (directory, wide):
        _, _, batches, walk = open_both(each)
        walk.step(4)
        outputs.append(walk.streams[len(batches) - 1])
    assert not torch.equal(*outputs)  # the window does something


def test_a_model_in_bfloat16_is_walked_in_it(tmp_path):
    directory = families.make_model(tmp_path, "gemma3", seed=5)
    pico.load(directory).bfloat16().save_pretrained(directory)
    assert open_model(directory).checkpoint().dtype("model.norm.weight").name == "bfloat16"
    assert_same_walk(directory, dtype="bfloat16")
    assert_same_walk(directory, dtype="float32")


@pytest.mark.parametrize("pooling", sorted(POOLS))
def test_features_are_the_same_of_a_whole_model_a_streamed_one_and_from_disk(
    pico_pair, monkeypatch, pooling
):
    model, found = open_model(pico_pair.new), {}
    for stream in ("never", "always", "auto"):
        found[stream] = pooled_features(model, TEXTS, pooling=pooling, batch_size=3, stream=stream)
    monkeypatch.setattr("loraport.calibration.streams.IN_MEMORY", 9000)
    found["disk"] = pooled_features(model, TEXTS, pooling=pooling, batch_size=3)
    for features, kept in found.values():
        assert np.array_equal(features, found["never"][0])
        assert np.array_equal(kept, found["never"][1]) and kept.all()
    assert np.abs(found["never"][0]).min(axis=2).all()


def test_streams_beyond_the_limit_lie_on_disk_and_come_back_as_they_were():
    streams = Streams(limit=100)
    values = [torch.randn(3, 4, generator=torch.Generator().manual_seed(n)) for n in range(4)]
    values[3] = values[3].bfloat16().T
    for number, each in enumerate(values):
        streams[number] = each
    assert len(streams) == 4
    folder = Path(streams._folder.name)
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3"]  # 48 + 48 bytes are held
    for number, each in enumerate(values):
        assert streams[number].dtype == each.dtype and torch.equal(streams[number], each)
    streams[2] = torch.ones(1)
    assert torch.equal(streams[2], torch.ones(1)) and len(streams) == 4
    del streams
    gc.collect()
    assert not folder.exists()


class Cut(Exception):
    """A run that is cut off."""


def cut_at_the_third_file(monkeypatch):
    """A run keeps what it has come to behind each block, and ends as it writes the third time."""
    files, written = iter(range(9)), resume.write_h5

    def write(*given):
        if next(files) == 2:
            raise Cut
        return written(*given)

    monkeypatch.setattr(resume, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(resume, "write_h5", write)


def test_features_go_on_at_the_block_that_was_reached(pico_pair, tmp_path, monkeypatch):
    model, run = open_model(pico_pair.new), []
    run_block = Walk._run
    monkeypatch.setattr(Walk, "_run", lambda w, n: run.append(w.layer) or run_block(w, n))
    whole, _ = pooled_features(model, TEXTS, batch_size=4)
    assert run == [layer for layer in range(4) for _ in range(3)]

    def kept(made_from="a"):
        return KeptFeatures(tmp_path, "activations.h5", {"spec": made_from})

    cut_at_the_third_file(monkeypatch)
    with pytest.raises(Cut):  # behind the third block: two are kept
        pooled_features(model, TEXTS, batch_size=4, so_far=kept())
    told = []
    for made_from, first in (("another", 0), ("a", 2)):
        monkeypatch.setattr(resume, "SAVE_EVERY_S", 1e9)
        run.clear()
        told.clear()
        found, _ = pooled_features(
            model, TEXTS, batch_size=4, so_far=kept(made_from), progress=told.append
        )
        assert np.array_equal(found, whole)
        assert run == [layer for layer in range(first, 4) for _ in range(3)]
        assert sum(told) == 4 * len(TEXTS)
    kept().remove()
    assert not list(tmp_path.iterdir())


def test_keys_and_values_of_earlier_blocks_are_kept_where_a_run_goes_on(tmp_path, monkeypatch):
    """Gemma 4: the last two of four blocks read those of the first two."""
    directory = families.make_model(tmp_path / "model", "gemma4_multimodal", seed=5)
    model = open_model(directory)
    assert [model.dims.at(layer).borrows for layer in range(4)] == [-1, -1, 0, 1]
    whole, _ = pooled_features(model, TEXTS, batch_size=4)
    monkeypatch.setattr("loraport.calibration.streams.IN_MEMORY", 9000)
    assert np.allclose(pooled_features(model, TEXTS, batch_size=4)[0], whole, atol=1e-5)
    monkeypatch.undo()
    cut_at_the_third_file(monkeypatch)
    kept = [KeptFeatures(tmp_path, "activations.h5", {"spec": "a"}) for _ in range(2)]
    with pytest.raises(Cut):
        pooled_features(model, TEXTS, batch_size=4, so_far=kept[0])
    run, run_block = [], Walk._run
    monkeypatch.setattr(resume, "SAVE_EVERY_S", 1e9)
    monkeypatch.setattr(Walk, "_run", lambda w, n: run.append(w.layer) or run_block(w, n))
    found, _ = pooled_features(model, TEXTS, batch_size=4, so_far=kept[1])
    assert run == [2, 2, 2, 3, 3, 3]
    assert np.array_equal(found, whole)


def test_a_block_that_lends_keys_and_values_may_run_again(tmp_path):
    directory = families.make_model(tmp_path, "gemma4_multimodal", seed=5)
    model, base, batches, walk = open_both(directory)
    for layer in range(4):
        expected = [passed(model, base, batch, layer)["output"] for batch in batches]
        for _ in range(2):
            list(walk.through(move=False))
        list(walk.seen("heads"))
        list(walk.through(move=True))
        for number, output in enumerate(expected):
            assert torch.equal(walk.streams[number], output)


# ---- memory, and what is read


@pytest.fixture
def deep(tmp_path):
    """A model of ten blocks that are larger than what stands around them."""
    sizes = {"hidden": 32, "intermediate": 256, "layers": 10, "heads": 4, "kv_heads": 4}
    return open_model(pico.make_model(tmp_path / "deep", seed=3, vocab_words=60, **sizes))


def block_bytes(model: Model) -> int:
    """float32 weights of one block."""
    base, _ = load_base(model.directory, device="cpu")
    return sum(p.nbytes for p in base.model.layers[0].parameters())


def test_no_more_than_two_blocks_are_in_memory_and_all_is_read_once(deep, monkeypatch):
    counted, read, around = Counted(), [], 0
    read_tensor, read_bytes = blocks.read_tensor, TensorFile.read
    monkeypatch.setattr(blocks, "read_tensor", lambda *of: counted.add(read_tensor(*of)))
    monkeypatch.setattr(TensorFile, "read", lambda *of: read.append(of[1]) or read_bytes(*of))
    pooled_features(deep, TEXTS, batch_size=3)
    gc.collect()
    one, family = block_bytes(deep), deep.architecture
    around = 4 * (deep.dims.vocabulary + 1) * deep.dims.hidden  # embedding and last norm
    assert around + one < counted.most <= around + 2 * one
    assert counted.alive == 0
    assert len(read) == len(set(read))
    names = set(deep.checkpoint().names())
    assert set(read) == names - {f"{family.head}.weight"}


def test_two_models_side_by_side_hold_two_blocks_each_and_read_all_once(deep, monkeypatch):
    counted, read = Counted(), []
    read_tensor, read_bytes = blocks.read_tensor, TensorFile.read
    monkeypatch.setattr(blocks, "read_tensor", lambda *of: counted.add(read_tensor(*of)))
    monkeypatch.setattr(TensorFile, "read", lambda *of: read.append(of[1]) or read_bytes(*of))
    settings = {"stream": "auto", "device": "cpu", "max_tokens": 64, "batch_size": 4}
    walks, batches = open_walks((deep, deep), TEXTS, settings, [False, False])
    pairs = [(layer, layer) for layer in range(deep.dims.layers)]
    assert len(list(layer_moments((deep, deep), walks, batches, pairs, "cpu"))) == len(pairs)
    around = 4 * (deep.dims.vocabulary + 1) * deep.dims.hidden
    assert counted.most <= 2 * around + 4 * block_bytes(deep)
    assert len(read) == 2 * (len(set(deep.checkpoint().names())) - 1)  # all but the heads


def test_weights_that_changed_since_they_were_described_are_refused(deep):
    sums = describe(deep.directory, str(deep.directory), "")["tensors"]
    path = deep.directory / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    known = Model(deep.architecture, deep.dims, deep.directory, deep.tied, sums)
    with pytest.raises(LoraportError, match="not the one that spec"):
        pooled_features(known, TEXTS)


def test_models_are_streamed_but_where_they_are_to_be_whole(pico_pair):
    model = open_model(pico_pair.old)
    for stream, device_map, own_code, expected in (
        ("auto", "", False, True),
        ("always", "balanced", True, True),
        ("never", "", False, False),
        ("auto", "balanced", False, False),
        ("auto", "", True, False),
    ):
        settings = {"stream": stream, "device_map": device_map, "device": "cpu"}
        assert is_streamed(settings, own_code) == expected, settings
    for stream, kind in (("auto", Streamed), ("never", Whole)):
        opened, tokenizer = open_blocks(model, {"stream": stream, "device": "cpu"}, False)
        assert type(opened) is kind and tokenizer.pad_token_id is not None
