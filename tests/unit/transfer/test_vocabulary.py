"""LoRA on the embedding and on the head: rows go with their tokens, the rest through W_h."""

import copy
import json

import families
import numpy as np
import pytest
import torch
from kindcase import edit_tensors, loaded, logits, make
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from loraport.adapters.attach import attach, save_adapter
from loraport.adapters.audit import audit
from loraport.adapters.files import read_adapter, write_adapter
from loraport.artifacts import write_h5
from loraport.errors import LoraportError
from loraport.models.side import Side
from loraport.models.spec import open_model
from loraport.models.weights import TensorFile
from loraport.training.starts import begin
from loraport.transfer.embedding_file import Tokens
from loraport.transfer.merged_model import merge
from loraport.transfer.vocabulary import carry_from, carry_vocabulary, vocabulary_modules

pytestmark = pytest.mark.usefixtures("one_thread")
BOTH = ["embed_tokens", "lm_head"]
TOKENS = torch.tensor([[1, 5, 9, 13, 17, 21, 25, 29]])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return families.make_model(tmp_path_factory.mktemp("base") / "llama", "llama", seed=1)


def side(directory):
    model = open_model(directory)
    return Side(model.architecture, model.dims)


def embedding(path, hidden_map, old, new):
    with write_h5(path, "embedding", {}) as file:
        file.dataset("W_h", hidden_map)
        file.dataset("token_ids_old", old)
        file.dataset("token_ids_new", new)
    return path


def carried(tmp_path, source, old, new, artifact):
    """The adapter, of the vocabulary alone, as rule transferred writes it."""
    adapter, sides = read_adapter(source), (side(old), side(new))
    located = audit(adapter, sides[0].family, sides[0].dims, {str(old)}, vocabulary=True)
    assert not located
    words, report = carry_from(adapter, artifact, *sides, None)
    out = tmp_path / "carried"
    out.mkdir()
    layers = sides[1].dims.layers
    write_adapter(out, adapter.config, "new", "", sides[1].family, layers, {}, "float32", {}, words)
    return out, report, adapter.warnings


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("targets", [BOTH, ["embed_tokens"], ["lm_head"]], ids=str)
def test_a_permuted_vocabulary_and_a_rotated_stream_change_nothing(tmp_path, base, targets, rslora):
    """The new model is the old one with its tokens renumbered and its residual stream rotated."""
    old = loaded(base)
    count, width = old.get_input_embeddings().weight.shape
    rng = np.random.default_rng(0)
    order = rng.permutation(count)  # new id -> old id
    signs = np.diag(rng.choice([-1.0, 1.0], width))[rng.permutation(width)]
    tensors = {name: values.double().numpy() for name, values in old.state_dict().items()}
    for name, values in tensors.items():
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = values[order] @ signs
        elif "norm" in name:
            tensors[name] = np.abs(signs.T) @ values
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            tensors[name] = signs.T @ values
        else:
            tensors[name] = values @ signs
    model = copy.deepcopy(old)
    model.load_state_dict({n: torch.from_numpy(v).float() for n, v in tensors.items()})
    config = LoraConfig(r=4, lora_alpha=6, target_modules=targets, use_rslora=rslora)
    source = make(tmp_path / "source", base, config)
    where = np.argsort(order)  # old id -> new id
    artifact = embedding(tmp_path / "embedding.h5", signs, np.arange(count), where)
    out, report, warnings = carried(tmp_path, source, base, base, artifact)
    before = logits(base, source)
    assert (before - logits(base, None)).abs().max() > 1e-2
    with torch.no_grad():
        after = attach(model, out).eval()(torch.from_numpy(where)[TOKENS]).logits.double()
    assert (after[..., where] - before).abs().max() < 1e-5
    assert all(each["energy_shared"] == pytest.approx(1) for each in report.values())
    assert any("took their update along" in each for each in warnings)
    assert any("the base's own" in each for each in warnings)  # peft saves a copy of it
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(targets)


def test_light_fine_tuning_goes_on_from_a_carried_vocabulary(tmp_path, base):
    """Every part of it has a gradient, and it is saved as it came."""
    source = make(tmp_path / "source", base, LoraConfig(r=4, target_modules=BOTH))
    count, width = loaded(base).get_input_embeddings().weight.shape
    ids = np.arange(count)
    artifact = embedding(tmp_path / "embedding.h5", np.eye(width), ids, ids)
    out, _, _ = carried(tmp_path, source, base, base, artifact)
    model = begin(copy.deepcopy(loaded(base)), out, "init", 10)
    output = model(input_ids=TOKENS, labels=TOKENS)
    assert (output.logits.double() - logits(base, source)).abs().max() < 1e-5
    output.loss.backward()
    trained = [values for values in model.parameters() if values.requires_grad]
    assert len(trained) == 4 and all(values.grad.any() for values in trained)
    save_adapter(model, tmp_path / "tuned")
    names = [
        set(TensorFile(d / "adapter_model.safetensors").tensors) for d in (out, tmp_path / "tuned")
    ]
    assert names[0] == names[1]


def test_tokens_without_a_counterpart_have_no_update_and_are_told(tmp_path, base):
    other = families.make_model(tmp_path / "neox", "gpt_neox", seed=2)
    source = make(tmp_path / "source", base, LoraConfig(r=4, target_modules=BOTH))
    sides = side(base), side(other)
    modules = vocabulary_modules(read_adapter(source), sides[0].family)
    rng = np.random.default_rng(0)
    tokens = Tokens(rng.normal(size=(32, 32)), np.array([3, 7]), np.array([9, 2]))
    made, report = carry_vocabulary(modules, tokens, *sides)
    new_names = {"model.embed_tokens": sides[1].family.embedding, "lm_head": sides[1].family.head}
    for old, new in new_names.items():
        weights, carried = modules[old], made[new]
        rows = (
            weights.scale * (weights.b[[3, 7]] @ weights.a.astype(np.float64)) @ tokens.hidden_map
        )
        full = carried.scale * carried.b @ carried.a
        assert np.allclose(full[[9, 2]], rows, atol=1e-6)
        assert not np.delete(full, [9, 2], axis=0).any()
    energy = [each["energy_shared"] for each in report.values()]
    assert all(0 < share < 0.1 for share in energy)


def test_without_an_embedding_it_is_refused(tmp_path, base):
    source = make(tmp_path / "source", base, LoraConfig(target_modules=["lm_head"]))
    with pytest.raises(LoraportError, match=r"no embedding\.h5 for lm_head"):
        carry_from(read_adapter(source), None, side(base), side(base), None)


def test_steps_that_do_not_carry_a_vocabulary_refuse_it(tmp_path, base):
    source = make(tmp_path / "source", base, LoraConfig(target_modules=["q_proj", "lm_head"]))
    about = side(base)
    with pytest.raises(LoraportError, match=r"vocabulary.*lm_head.*transfer it as it is"):
        audit(read_adapter(source), about.family, about.dims, {str(base)})


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_dora_on_a_vocabulary_is_refused_by_name(tmp_path, base, target):
    source = make(tmp_path / "source", base, LoraConfig(target_modules=[target], use_dora=True))
    about = side(base)
    with pytest.raises(LoraportError, match=rf"vocabulary by DoRA.*{target}"):
        audit(read_adapter(source), about.family, about.dims, {str(base)}, vocabulary=True)


def test_a_vocabulary_that_was_cut_and_copies_of_other_weights_are_refused(tmp_path, base):
    source = make(tmp_path / "source", base, LoraConfig(target_modules=["lm_head"]))
    about = side(base)

    def check():
        audit(read_adapter(source), about.family, about.dims, {str(base)}, vocabulary=True)

    edit_tensors(
        source, lambda tensors: {**tensors, "base_model.model.x.base_layer.weight": np.ones(3)}
    )
    with pytest.raises(LoraportError, match="a weight of its base"):
        check()

    def shorter(tensors):
        name = "base_model.model.lm_head.lora_B.weight"
        return {
            name: np.ones((100, 8), np.float32),
            name.replace("B", "A"): tensors[name.replace("B", "A")],
        }

    edit_tensors(source, shorter)
    with pytest.raises(LoraportError, match=r"lm_head: \(100, 32\)"):
        check()


@pytest.mark.parametrize("name", ["llama", "bloom", "gemma3_multimodal"])
def test_merged_into_a_model_it_computes_the_same_also_where_the_head_was_tied(tmp_path, name):
    base = families.make_model(tmp_path / name, name, seed=1)
    table = open_model(base).architecture.embedding.rpartition(".")[2]
    source = make(tmp_path / "source", base, LoraConfig(target_modules=[table]))
    out = tmp_path / "merged"
    out.mkdir()
    done = merge(source, open_model(base), out, "base", {})
    assert done["untied"] == (name != "llama")
    alone = AutoModelForCausalLM.from_pretrained(out)
    with torch.no_grad():
        got = alone.eval()(TOKENS).logits.double()
    wanted = logits(base, source)
    assert (wanted - logits(base, None)).abs().max() > 1e-2
    assert (got - wanted).abs().max() < 1e-5
