"""Adapters whose modules bear other names: carried as the same adapter, and put onto their base."""

import json
import shutil
from pathlib import Path

import families
import numpy as np
import pico
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from loraport.adapters.attach import attach
from loraport.adapters.audit import audit
from loraport.adapters.files import read_adapter
from loraport.artifacts import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from loraport.errors import LoraportError
from loraport.models.spec import open_model

IDS = torch.tensor([[1, 5, 9, 13, 17, 21]])
PREFIX = "base_model.model."
SEEING = f"{PREFIX}model.vision_tower.encoder.layers.0.self_attn.q_proj"


def renamed(source: Path, directory: Path, change, **config) -> Path:
    """A copy of an adapter whose tensors bear other names."""
    shutil.copytree(source, directory)
    tensors = load_file(directory / ADAPTER_WEIGHTS)
    made = {change(name): values for name, values in tensors.items()}
    save_file(made, directory / ADAPTER_WEIGHTS, {"format": "pt"})
    path = directory / ADAPTER_CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return directory


def audited(directory: Path, model: Path):
    base, adapter = open_model(model), read_adapter(directory)
    known = [str(adapter.config["base_model_name_or_path"])]
    return audit(adapter, base.architecture, base.dims, known, vocabulary=True), adapter


def logits(model: Path, adapter: Path):
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        return attach(base, adapter).eval()(IDS).logits


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Family -> its model and an adapter of its attention, its head and its embedding."""
    root, made = tmp_path_factory.mktemp("names"), {}
    targets = {
        "llama": ["q_proj", "v_proj", "lm_head", "embed_tokens"],
        "gpt_neox": ["query_key_value", "lm_head", "embed_in"],
        "bloom": ["query_key_value", "word_embeddings"],
        "gemma3_multimodal": r".*language_model.*\.(q_proj|v_proj)",
    }
    for name, each in targets.items():
        model = families.make_model(root / name, name, seed=1)
        made[name] = model, pico.make_adapter(root / f"{name}_adapter", model, seed=3, targets=each)
    return made


FORMS = {
    "compiled": ("llama", lambda n: f"_orig_mod.{n}"),
    "compiled inside": ("llama", lambda n: n.replace(PREFIX, f"{PREFIX}_orig_mod.")),
    "DDP": ("llama", lambda n: f"module.{n}"),
    "DDP inside": ("llama", lambda n: n.replace(PREFIX, f"{PREFIX}module.")),
    "FSDP": (
        "llama",
        lambda n: n.replace(".self_attn", "._fsdp_wrapped_module.self_attn").replace(
            PREFIX, f"_fsdp_wrapped_module.{PREFIX}_fsdp_wrapped_module."
        ),
    ),
    "checkpointed": ("llama", lambda n: n.replace(".self_", "._checkpoint_wrapped_module.self_")),
    "wrapped twice": ("llama", lambda n: PREFIX + n),
    "not wrapped": ("llama", lambda n: n.removeprefix(PREFIX)),
    "an adapter's name": ("llama", lambda n: n.replace("_A.weight", "_A.default.weight")),
    "AutoModel": ("llama", lambda n: n.replace(f"{PREFIX}model.", PREFIX)),
    "inside a multimodal model": (
        "llama",
        lambda n: n.replace(f"{PREFIX}model.", f"{PREFIX}model.language_model."),
    ),
    "inside an older multimodal model": (
        "llama",
        lambda n: n.replace(PREFIX, f"{PREFIX}language_model."),
    ),
    "an older head": ("gpt_neox", lambda n: n.replace(".lm_head.", ".embed_out.")),
    "AutoModel of Pythia": ("gpt_neox", lambda n: n.replace("gpt_neox.", "")),
    "AutoModel of BLOOM": ("bloom", lambda n: n.replace("transformer.", "")),
    "the text model alone": (
        "gemma3_multimodal",
        lambda n: n.replace("model.language_model.", "model.").replace(f"{PREFIX}model", "model"),
    ),
    "an older multimodal model": (
        "gemma3_multimodal",
        lambda n: n.replace("model.language_model.", "language_model.model."),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_other_names_are_the_same_adapter(cases, tmp_path, form):
    family, change = FORMS[form]
    model, adapter = cases[family]
    other = renamed(adapter, tmp_path / "other", change)
    assert set(load_file(other / ADAPTER_WEIGHTS)) != set(load_file(adapter / ADAPTER_WEIGHTS))
    (wanted, plain), (located, same) = audited(adapter, model), audited(other, model)
    assert list(located) == list(wanted) and set(same.modules) == set(plain.modules)
    for path, weights in plain.modules.items():
        assert np.array_equal(same.modules[path].b, weights.b)
        assert np.array_equal(same.modules[path].a, weights.a)
    assert torch.equal(logits(model, other), logits(model, adapter))


def test_whole_modules_are_named_as_the_model_names_them(cases, tmp_path):
    model, _ = cases["gpt_neox"]
    whole = pico.make_adapter(
        tmp_path / "whole", model, seed=3, targets=["query_key_value"], modules_to_save=["lm_head"]
    )
    older = renamed(
        whole,
        tmp_path / "older",
        lambda n: n.replace(".lm_head.", ".embed_out."),
        modules_to_save=["embed_out"],
    )
    assert list(audited(older, model)[1].saved) == ["lm_head.weight"]
    assert torch.equal(logits(model, older), logits(model, whole))


def test_a_module_that_is_named_twice_is_refused(cases, tmp_path):
    model, adapter = cases["gpt_neox"]
    both = renamed(adapter, tmp_path / "both", lambda n: n.replace(".lm_head.", ".embed_out."))
    tensors = load_file(both / ADAPTER_WEIGHTS) | load_file(adapter / ADAPTER_WEIGHTS)
    save_file(tensors, both / ADAPTER_WEIGHTS, {"format": "pt"})
    with pytest.raises(LoraportError, match="adapts a module twice"):
        audited(both, model)
    with pytest.raises(LoraportError, match="twice"):
        logits(model, both)
    wrapped = {f"_orig_mod.{name}": values for name, values in tensors.items()}
    save_file(tensors | wrapped, both / ADAPTER_WEIGHTS, {"format": "pt"})
    with pytest.raises(LoraportError, match="holds a tensor twice"):
        read_adapter(both)


def add_vision(directory: Path, values: np.ndarray) -> None:
    tensors = load_file(directory / ADAPTER_WEIGHTS)
    tensors[f"{SEEING}.lora_A.weight"] = np.ones((4, 16), np.float32)
    tensors[f"{SEEING}.lora_B.weight"] = values
    save_file(tensors, directory / ADAPTER_WEIGHTS, {"format": "pt"})


@pytest.mark.parametrize("family", ["gemma3_multimodal", "llama"])
def test_updates_of_zero_beside_the_language_model_are_left_out_with_a_note(
    cases, tmp_path, family
):
    model, adapter = cases[family]
    seeing = shutil.copytree(adapter, tmp_path / "seeing")
    add_vision(seeing, np.zeros((16, 4), np.float32))
    (located, held), (wanted, _) = audited(seeing, model), audited(adapter, model)
    assert list(located) == list(wanted)
    assert any("1 updates of zero beside the language model" in told for told in held.warnings)
    add_vision(seeing, np.full((16, 4), 0.1, np.float32))
    with pytest.raises(LoraportError, match=r"beside the language model.*not zero"):
        audited(seeing, model)


EXPRESSIONS = {
    "long": r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|v_proj|embed_tokens).*?)"
    r"|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|v_proj)))"
    r"|(?:lm_head)|(?:model\.embed_tokens)" + "|(?:never)" * 40,
    "exploding": r"(?:(.+)+!$)|(.*(q_proj|v_proj|lm_head|embed_tokens))",
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_an_expression_that_is_not_matched_is_written_out(cases, tmp_path, name):
    model, adapter = cases["llama"]
    other = renamed(adapter, tmp_path / "other", lambda n: n, target_modules=EXPRESSIONS[name])
    assert torch.equal(logits(model, other), logits(model, adapter))
    assert list(audited(other, model)[0]) == list(audited(adapter, model)[0])


def test_ranks_and_alphas_by_pattern_stay_with_their_modules(cases, tmp_path):
    model, _ = cases["llama"]
    patterned = pico.make_adapter(
        tmp_path / "patterned",
        model,
        seed=4,
        targets=["q_proj", "v_proj"],
        rank_pattern={"layers.0.self_attn.q_proj": 2},
        alpha_pattern={"v_proj": 3},
    )
    other = renamed(patterned, tmp_path / "other", lambda n: n.replace(f"{PREFIX}model.", PREFIX))
    assert torch.equal(logits(model, other), logits(model, patterned))
