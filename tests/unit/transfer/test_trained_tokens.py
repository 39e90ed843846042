"""Rows that an adapter trained for a few tokens go with these tokens, or are left by name."""

import json
import shutil

import families
import numpy as np
import pico
import pytest
import torch
from inprocess import PairRun
from kindcase import config_of, edit, edit_tensors, loaded, logits, make
from peft import LoraConfig, get_peft_model
from renumbered import carried, renumber
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from loraport.adapters.attach import attach
from loraport.adapters.audit import audit
from loraport.adapters.cut import cut_adapter
from loraport.adapters.files import read_adapter
from loraport.adapters.trained_tokens import END, FIELD
from loraport.errors import LoraportError
from loraport.models.spec import open_model
from loraport.planning import preflight
from loraport.transfer.merged_model import merge
from loraport.transfer.trained_tokens import carry_tokens

pytestmark = pytest.mark.usefixtures("one_thread")
IDS = [40, 7, 93]
BOTH = {"embed_tokens": IDS, "lm_head": IDS[:2]}
TABLE, HEAD = "model.embed_tokens", "lm_head"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return families.make_model(tmp_path_factory.mktemp("base") / "llama", "llama", seed=1)


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tied") / "llama"
    return families.make_model(folder, "llama", seed=1, tie_word_embeddings=True)


def trained(folder, base, tokens=IDS):
    config = LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices=tokens)
    return make(folder, base, config)


def rolled(tmp_path, source, drop=()):
    count = open_model(source).dims.vocabulary
    return renumber(tmp_path / "new", source, np.roll(np.arange(count), 7), drop)


def told(out):
    return "; ".join(json.loads((out / "transfer.json").read_text())["warnings"])


def in_use(base, adapter, path):
    """The weight that peft's own layer has for each token."""
    model = attach(AutoModelForCausalLM.from_pretrained(base), adapter)
    layer = model.base_model.model.get_submodule(path).token_adapter
    return layer.get_merged_weights(["default"]).detach().numpy()


@pytest.mark.parametrize("tokens", [IDS, BOTH], ids=["list", "dict"])
def test_rows_go_with_their_tokens_to_other_ids(tmp_path, base, tokens):
    adapter = trained(tmp_path / "adapter", base, tokens)
    assert preflight.adapts_vocabulary(str(adapter))
    new, where = rolled(tmp_path, base)
    out = carried(tmp_path, base, new, adapter)
    before, tables = load_file(adapter / "adapter_model.safetensors"), pico.read_tensors(new)
    asked = BOTH if tokens is BOTH else {"embed_tokens": IDS}
    wanted = {name: [where[each] for each in ids] for name, ids in asked.items()}
    assert config_of(out)[FIELD] == {
        path: wanted[path.rpartition(".")[2]] for path in (TABLE, HEAD)[: len(wanted)]
    }
    for path in (TABLE, HEAD)[: len(wanted)]:
        ids = wanted[path.rpartition(".")[2]]
        used = in_use(new, out, path)
        rows = before[f"base_model.model.{path}{END}"]
        assert np.array_equal(used[ids], rows)
        assert np.abs(rows - tables[f"{path}.weight"][ids]).max() > 1e-2
        others = np.delete(np.arange(len(used)), ids)
        assert np.array_equal(used[others], tables[f"{path}.weight"][others].astype(np.float32))
    assert f"{len(IDS)} of {len(IDS)} trained tokens" in told(out)


def test_a_token_that_the_new_tokenizer_lacks_is_left_by_name(tmp_path, base):
    adapter = trained(tmp_path / "adapter", base)
    new, where = rolled(tmp_path, base, drop=[7])
    out = carried(tmp_path, base, new, adapter)
    assert config_of(out)[FIELD] == {TABLE: [where[40], where[93]]}
    assert "lacks are left behind: 7" in told(out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(base / name, adapter / name)
    vocabulary = json.loads((base / "tokenizer.json").read_text())["model"]["vocab"]
    word = next(token for token, number in vocabulary.items() if number == 7)
    shutil.rmtree(out)
    assert f"lacks are left behind: {word}" in told(carried(tmp_path, base, new, adapter))


def test_tokens_that_were_added_for_the_adapter_are_found_by_their_names(tmp_path, base):
    """The old base was resized: its ids behind the last row are told by the adapter's tokenizer."""
    count = open_model(base).dims.vocabulary
    adapter = trained(tmp_path / "adapter", base, [40, 7])
    edit(adapter, **{FIELD: [40, count + 1]})
    new, where = rolled(tmp_path, base)
    free = free_id(new)
    add_token(base, adapter, "<|tool|>", count + 1)
    add_token(new, new, "<|tool|>", free)
    out = carried(tmp_path, base, new, adapter)
    assert config_of(out)[FIELD] == {TABLE: [where[40], free]}
    assert "2 of 2 trained tokens" in told(out)


def resized(folder, base, **arguments):
    """An adapter of a base that was given two rows more, with the tokenizer that has their tokens;
    and the new model's tokenizer, which has the second of them, in front of all others' ids.
    """
    count = open_model(base).dims.vocabulary
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(count + 2, mean_resizing=False)
    config = LoraConfig(**{"r": 4, "target_modules": ["q_proj"], **arguments})
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, values in adapted.named_parameters():
            if "lora_" in name:
                values.normal_(std=0.1)
    adapted.save_pretrained(folder, save_embedding_layers=not arguments)
    edit(folder, base_model_name_or_path=str(base))
    words = ["<|begin|>", "<|tool|>"]
    for place, word in enumerate(words):
        add_token(base if place == 0 else folder, folder, word, count + place)
    return folder, count, words


def add_token(source, target, word, number):
    document = json.loads((source / "tokenizer.json").read_text())
    entry = {**document["added_tokens"][0], "content": word, "special": True, "id": number}
    document["added_tokens"].append(entry)
    (target / "tokenizer.json").write_text(json.dumps(document))


def free_id(directory):
    vocabulary = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    written = set(vocabulary.values())
    return min(set(range(open_model(directory).dims.vocabulary)) - written)


def test_rows_of_a_resized_base_that_peft_saved_by_itself_go_with_their_tokens(tmp_path, base):
    """Added tokens that the new tokenizer has take their rows along; the table itself is left."""
    adapter, count, words = resized(tmp_path / "adapter", base)
    assert preflight.adapts_vocabulary(str(adapter))
    new, _ = rolled(tmp_path, base)
    free = free_id(new)
    add_token(new, new, words[1], free)
    out = carried(tmp_path, base, new, adapter)
    assert config_of(out)[FIELD] == {TABLE: [free], HEAD: [free]}
    rows = load_file(adapter / "adapter_model.safetensors")
    for path in (TABLE, HEAD):
        saved = rows[f"base_model.model.{path}.weight"]
        assert np.array_equal(in_use(new, out, path)[free], saved[count + 1])
    assert f"lacks are left behind: {words[0]}" in told(out)
    assert "2 rows behind the base's go with their tokens" in told(out)


def test_rows_of_a_resized_base_that_were_trained_whole_go_with_their_tokens(tmp_path, base):
    adapter, count, words = resized(tmp_path / "adapter", base, modules_to_save=["lm_head"])
    new, where = rolled(tmp_path, base)
    free = free_id(new)
    add_token(new, new, words[1], free)
    out = carried(tmp_path, base, new, adapter)
    (before,), (after,) = (read_adapter(each).saved.values() for each in (adapter, out))
    assert len(before) == count + 2 and len(after) == count
    assert np.array_equal(after[free], before[count + 1])
    assert np.array_equal(after[where[40]], before[40])
    assert f"lacks are left behind: {words[0]}" in told(out)


def test_updates_of_a_resized_vocabulary_go_with_their_tokens(tmp_path, base):
    """LoRA on the embedding and the head of a base that was given two rows more."""
    targets = {"target_modules": ["embed_tokens", "lm_head"]}
    adapter, count, words = resized(tmp_path / "adapter", base, **targets)
    new, where = rolled(tmp_path, base)
    free = free_id(new)
    add_token(new, new, words[1], free)
    out = carried(tmp_path, base, new, adapter)
    before, after = (read_adapter(each).modules for each in (adapter, out))
    for path in (TABLE, HEAD):
        (old, made) = ((each[path].scale * each[path].b @ each[path].a) for each in (before, after))
        assert len(old) == count + 2 and len(made) == count
        assert np.abs(old[count + 1]).max() > 1e-2
        assert np.allclose(made[free], old[count + 1], atol=1e-6)
        assert np.allclose(made[where[40]], old[40], atol=1e-6)
    assert f"lacks are left behind: {words[0]}" in told(out)
    assert "updates of its 2 rows behind the base's go with their tokens" in told(out)
    assert f" of {count + 2} tokens are in the new vocabulary" in told(out)
    attach(AutoModelForCausalLM.from_pretrained(new), out)


def test_what_tokens_lose_is_known_before_anything_runs(tmp_path, base):
    adapter, _, words = resized(tmp_path / "adapter", base)
    new, _ = rolled(tmp_path, base)
    add_token(new, new, words[1], free_id(new))
    at = [(str(each), "") for each in (base, new)]
    left = preflight.told_of_transfer(str(adapter), *at, (str(base),)).left
    assert left == [
        f"{path}: 1 of 2 trained tokens, which the new tokenizer lacks: {words[0]}"
        for path in (HEAD, TABLE)
    ]


def test_a_table_that_is_no_larger_is_taken_to_be_the_bases_and_a_cut_one_is_refused(
    tmp_path, base
):
    adapter, count, _ = resized(tmp_path / "adapter", base)
    about = open_model(base)

    def audited(rows):
        name = f"base_model.model.{TABLE}.weight"
        edit_tensors(adapter, lambda tensors: {**tensors, name: tensors[name][:rows].copy()})
        held = read_adapter(adapter)
        audit(held, about.architecture, about.dims, {str(base)})
        return held

    held = audited(count)
    assert set(held.tokens) == {HEAD} and f"own {TABLE} as well" in str(held.warnings)
    with pytest.raises(LoraportError, match=rf"was cut.*{TABLE}"):
        audited(count - 1)


def test_a_head_that_was_tied_gets_the_rows_too_and_one_that_is_tied_gets_them_once(
    tmp_path, base, tied
):
    adapter = trained(tmp_path / "of_tied", tied)
    (one := tmp_path / "one").mkdir()
    assert config_of(carried(one, tied, base, adapter))[FIELD] == {TABLE: IDS, HEAD: IDS}
    assert np.array_equal(*(in_use(base, one / "out", p)[IDS] for p in (TABLE, HEAD)))
    adapter = trained(tmp_path / "of_untied", base, {"embed_tokens": IDS, "lm_head": IDS})
    (two := tmp_path / "two").mkdir()
    assert config_of(carried(two, base, tied, adapter))[FIELD] == {TABLE: IDS}
    in_use(tied, two / "out", TABLE)


def test_rows_go_through_w_h_where_the_hidden_size_changes(tmp_path, base):
    new = families.make_model(tmp_path / "wider", "llama", seed=1, wider=True)
    adapter = trained(tmp_path / "adapter", base)
    out = carried(tmp_path, base, new, adapter)
    hidden_map = PairRun(tmp_path, base, new, tmp_path / "texts.txt").read(
        tmp_path / "embedding.h5", "W_h"
    )
    (rows,) = read_adapter(adapter).saved.values()
    assert np.allclose(in_use(new, out, TABLE)[IDS], rows @ hidden_map, rtol=1e-5, atol=1e-6)


def test_a_cut_adapter_keeps_them_and_a_merged_model_has_them(tmp_path, base, tied):
    for name, source in (("untied", base), ("tied", tied)):
        adapter = trained(tmp_path / name, source)
        (cut := tmp_path / f"{name}_cut").mkdir()
        cut_adapter(adapter, open_model(source), cut, [str(source)], {"rank": 4}, str(source), {})
        wanted = logits(source, adapter)
        assert (logits(source, cut) - wanted).abs().max() < 1e-5
        (out := tmp_path / f"{name}_merged").mkdir()
        merge(adapter, open_model(source), out, "base", {})
        with torch.no_grad():
            tokens = torch.tensor([[1, 5, 7, 13, 40, 21, 93, 29]])
            merged = AutoModelForCausalLM.from_pretrained(out).eval()(tokens).logits
            model = attach(AutoModelForCausalLM.from_pretrained(source), adapter)
            assert (merged - model.eval()(tokens).logits).abs().max() < 1e-5
            assert (merged - loaded(source).eval()(tokens).logits).abs().max() > 1e-2


def test_rows_that_no_one_can_say_whose_they_are_are_refused(tmp_path, base):
    adapter = trained(tmp_path / "adapter", base)
    for wrong in ([1, 2], {"lm_head": IDS}, None):
        with pytest.raises(LoraportError, match="does not say whose rows it trained"):
            read_adapter(edit(adapter, **{FIELD: wrong}))
    with pytest.raises(LoraportError, match=f"{FIELD} = 3"):
        read_adapter(edit(adapter, **{FIELD: 3}))
    edit(adapter, **{FIELD: IDS})
    name = f"base_model.model.{TABLE}{END}"
    edit_tensors(adapter, lambda tensors: {**tensors, name: tensors[name][:, :8].copy()})
    about = open_model(base)
    with pytest.raises(LoraportError, match=r"another base model.*\(3, 8\)"):
        audit(read_adapter(adapter), about.architecture, about.dims, {str(base)})
    edit_tensors(adapter, lambda t: {key: values for key, values in t.items() if key != name})
    with pytest.raises(LoraportError, match="no module"):
        read_adapter(adapter)


def test_without_an_embedding_it_is_refused(tmp_path, base):
    adapter = read_adapter(trained(tmp_path / "adapter", base))
    with pytest.raises(LoraportError, match=r"no embedding\.h5"):
        carry_tokens(adapter, None, None, None, None, False)
