"""Tensors of a checkpoint under the names of its family, or others that are still found."""

import json

import families
import numpy as np
import pico
import pytest
import torch
from transformers import AutoModelForCausalLM

from loraport.errors import LoraportError
from loraport.models.spec import check_shapes, describe, open_model


@pytest.mark.parametrize("name", ["bloom", "gpt_neox", "llama"])
def test_checkpoints_of_the_bare_model_and_older_names_are_found(tmp_path, name):
    """No prefix, as a bare model is saved; GPT-NeoX's head as `embed_out`; buffers beside."""
    directory = families.make_model(tmp_path / name, name, seed=1)
    family = open_model(directory).architecture
    before = open_model(directory).checkpoint()
    paths = family.embedding, family.path(1, next(iter(family.modules)))
    first = {path: before.read(f"{path}.weight") for path in paths}

    def rename(tensors):
        renamed = {}
        for tensor, value in tensors.items():
            module = tensor.rpartition(".")[0]
            if module in family.aliases:
                tensor = tensor.replace(module, family.aliases[module])
            renamed[tensor.removeprefix(f"{family.prefix}.")] = value
        block = family.block.format(layer=0).removeprefix(f"{family.prefix}.")
        for buffer in family.buffers:
            renamed[f"{block}.{buffer}"] = torch.full((1,), -torch.inf)
        return renamed

    model = open_model(pico.edit_model(tmp_path / "bare", directory, rename))
    check_shapes(model)
    for path, values in first.items():
        assert np.array_equal(model.checkpoint().read(f"{path}.weight"), values)
    described = describe(model.directory, str(model.directory), "")
    assert described["other_tensors"] == []
    assert AutoModelForCausalLM.from_pretrained(model.directory).get_input_embeddings() is not None


def test_a_head_that_is_not_tied_must_be_there(tmp_path):
    directory = families.make_model(tmp_path / "whole", "llama", seed=1)
    without = pico.edit_model(
        tmp_path / "headless",
        directory,
        lambda tensors: {n: v for n, v in tensors.items() if not n.startswith("lm_head")},
    )
    with pytest.raises(LoraportError, match=r"lm_head\.weight"):
        check_shapes(open_model(without))


def test_tensors_that_the_family_does_not_know_are_listed(tmp_path):
    directory = families.make_model(tmp_path / "whole", "qwen2", seed=1)
    more = pico.edit_model(
        tmp_path / "more",
        directory,
        lambda tensors: {**tensors, "model.layers.0.router.weight": torch.ones(2, 2)},
    )
    assert describe(more, "x", "")["other_tensors"] == ["model.layers.0.router.weight"]


def test_a_bad_number_in_one_of_many_experts_is_found(tmp_path):
    """One tensor holds all of them, and is read expert by expert."""

    def spoil(tensors):
        tensors["model.layers.0.mlp.experts.down_proj"][2, 3, 4] = torch.nan
        return tensors

    whole = families.make_model(tmp_path / "whole", "gpt_oss", seed=1)
    assert describe(whole, "x", "")["dimensions"]["experts"] == 4
    with pytest.raises(LoraportError, match=r"down_proj.*holds NaN.*1 bad"):
        describe(pico.edit_model(tmp_path / "bad", whole, spoil), "x", "")


def test_minicpm_is_named_as_llama_and_tied(tmp_path):
    """Its own modelling code comes with its checkpoints; names and sizes are Llama's."""
    llama = families.make_model(tmp_path / "llama", "llama", seed=1, tie_word_embeddings=True)
    fields = json.loads((llama / "config.json").read_text())
    del fields["tie_word_embeddings"], fields["head_dim"]
    fields |= {"model_type": "minicpm", "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256}
    (llama / "config.json").write_text(json.dumps(fields))
    model = open_model(llama)
    assert model.architecture.name == "minicpm"
    assert model.tied
    check_shapes(model)
    assert describe(llama, "x", "")["other_tensors"] == []
    assert model.residual == pytest.approx(1.4 / 2**0.5)  # of its two layers
    fields["num_key_value_heads"] = None
    assert model.architecture.read_dimensions(fields, "").kv_heads == fields["num_attention_heads"]
