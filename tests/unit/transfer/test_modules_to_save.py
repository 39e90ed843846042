"""Whole tables of a vocabulary: their rows go with their tokens, whatever their numbers."""

import json

import families
import numpy as np
import pico
import pytest
import torch
from inprocess import PairRun
from kindcase import edit, edit_tensors, loaded, logits, make
from peft import LoraConfig
from renumbered import ROWS, carried, renumber
from transformers import AutoModelForCausalLM

from loraport.adapters.attach import attach
from loraport.adapters.files import read_adapter
from loraport.errors import LoraportError
from loraport.models.side import Side
from loraport.models.spec import open_model
from loraport.planning import preflight
from loraport.transfer.modules_to_save import check_saved, keep_saved

pytestmark = pytest.mark.usefixtures("one_thread")
TABLES = ["embed_tokens", "lm_head"]
TOKENS = torch.tensor([[1, 5, 9, 13, 17, 21, 25, 29]])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return families.make_model(tmp_path_factory.mktemp("base") / "llama", "llama", seed=1)


def tables(adapter):
    return read_adapter(adapter).saved


def warnings(out):
    return json.loads((out / "transfer.json").read_text())["warnings"]


@pytest.mark.parametrize("saved", [TABLES, TABLES[:1], TABLES[1:]], ids="+".join)
def test_rows_go_with_their_tokens_where_the_new_tokenizer_numbers_them_otherwise(
    tmp_path, base, saved
):
    """A planted permutation of the ids: the carried tables hold each token's row at its new id."""
    count = loaded(base).get_input_embeddings().weight.shape[0]
    order = np.random.default_rng(0).permutation(count)
    new, where = renumber(tmp_path / "new", base, order)
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=saved)
    adapter = make(tmp_path / "adapter", base, config)
    out = carried(tmp_path, base, new, adapter)
    written = [number for number in range(count) if number in _written(base)]
    for name, values in tables(adapter).items():
        at = [where[number] for number in written]
        assert (tables(out)[name][at] == values[written]).all()
        assert not (tables(out)[name] == values).all()
    ids = torch.tensor([where[number] for number in written])
    before = with_tables(base, adapter, TOKENS)[..., written]
    after = with_tables(new, out, torch.tensor([[where[int(t)] for t in TOKENS[0]]]))[..., ids]
    assert (before - loaded(base).eval()(TOKENS).logits[..., written]).abs().max() > 1e-2
    assert (after - before).abs().max() < 1e-5
    attach(AutoModelForCausalLM.from_pretrained(new), out)  # peft finds a place for each tensor
    assert sum("took their trained rows along" in each for each in warnings(out)) == len(saved)


@torch.no_grad()
def with_tables(directory, adapter, tokens):
    """Logits of a model with an adapter's whole tables, and nothing else of it."""
    model = AutoModelForCausalLM.from_pretrained(directory)
    whole = {name: torch.from_numpy(values) for name, values in tables(adapter).items()}
    model.load_state_dict({**model.state_dict(), **whole})
    return model.eval()(tokens).logits


def _written(directory):
    content = json.loads((directory / "tokenizer.json").read_text())
    return set(content["model"]["vocab"].values())


def test_tokens_that_only_the_new_tokenizer_has_keep_the_new_bases_rows(tmp_path, base):
    count = loaded(base).get_input_embeddings().weight.shape[0]
    order = np.roll(np.arange(count), 7)
    drop = range(20, 40)
    new, where = renumber(tmp_path / "new", base, order, drop)
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=TABLES)
    adapter = make(tmp_path / "adapter", base, config)
    out = carried(tmp_path, base, new, adapter)
    own = pico.read_tensors(new)
    for name in ROWS:
        at = [where[number] for number in drop]
        assert np.array_equal(tables(out)[name][at], own[name][at].astype(np.float32))
    assert any(f"the other {count - len(_written(base)) + 20} of its rows" in each
               for each in warnings(out))  # fmt: skip


def test_tables_are_kept_whole_between_two_tokenizers_that_are_the_same(tmp_path, base):
    """Rows that no token has, of the padding, are kept as well."""
    new = pico.edit_model(tmp_path / "new", base, lambda tensors: tensors)
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=TABLES)
    adapter = make(tmp_path / "adapter", base, config)
    out = carried(tmp_path, base, new, adapter)
    for name, values in tables(adapter).items():
        assert (tables(out)[name] == values).all()
    assert any("both tokenizers are the same" in each for each in warnings(out))


def test_a_tied_base_gives_the_rows_of_its_embedding_to_a_head(tmp_path):
    tied = {"tie_word_embeddings": True}
    base = families.make_model(tmp_path / "old", "llama", seed=1, **tied)
    count = loaded(base).get_input_embeddings().weight.shape[0]
    new, where = renumber(tmp_path / "new", base, np.roll(np.arange(count), 7), range(20, 40))
    source = families.make_model(tmp_path / "apart", "llama", seed=1)
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])
    adapter = make(tmp_path / "adapter", source, config)
    edit(adapter, base_model_name_or_path=str(base))
    out = carried(tmp_path, base, new, adapter)
    own = pico.read_tensors(new)["model.embed_tokens.weight"].astype(np.float32)
    at = [where[number] for number in range(20, 40)]
    assert np.array_equal(tables(out)["lm_head.weight"][at], own[at])


@pytest.mark.parametrize("saved", [TABLES, TABLES[1:]], ids="+".join)
def test_a_table_under_each_of_its_names_is_taken_once(tmp_path, base, saved):
    """peft's file of a resized base: the trained table twice, and what it stands in for."""
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=saved)
    adapter = make(tmp_path / "adapter", base, config)
    wanted, said = tables(adapter), logits(base, adapter)

    def as_peft_writes_it(tensors):
        for name in saved:
            path = f"base_model.model.{'model.' if name == 'embed_tokens' else ''}{name}"
            tensors[f"{path}.modules_to_save.weight"] = tensors[f"{path}.weight"].copy()
            tensors[f"{path}.original_module.weight"] = 0 * tensors[f"{path}.weight"]
        return tensors

    edit_tensors(adapter, as_peft_writes_it)
    found = tables(adapter)
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert torch.equal(logits(base, adapter), said)
    edit_tensors(
        adapter, lambda t: {n: v + 1 if ".modules_to_save." in n else v for n, v in t.items()}
    )
    with pytest.raises(LoraportError, match="holds a tensor twice"):
        read_adapter(adapter)


def sides(*directories):
    return [Side(m.architecture, m.dims) for m in map(open_model, directories)]


def test_other_hidden_sizes_are_refused_before_any_work(tmp_path, base):
    wider = families.make_model(tmp_path / "wider", "llama", seed=2, wider=True)
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])
    adapter = make(tmp_path / "adapter", base, config)
    with pytest.raises(LoraportError, match=r"no place in the new model.*lm_head.*32 to 64"):
        check_saved(read_adapter(adapter), *sides(base, wider))
    assert preflight.adapts_vocabulary(str(adapter))
    at = [(str(each), "") for each in (base, wider)]
    (why,) = preflight.told_of_transfer(str(adapter), *at, (str(base),)).refused
    assert "no place in the new model" in why


def test_without_shared_tokens_or_through_a_map_that_is_no_identity_it_is_refused(tmp_path, base):
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])
    adapter = read_adapter(make(tmp_path / "adapter", base, config))
    with pytest.raises(LoraportError, match=r"no embedding\.h5"):
        keep_saved(adapter, *sides(base, base), None, None)
    texts = pico.make_texts(tmp_path / "texts.txt", 24)
    artifact = PairRun(tmp_path, base, base, texts, wh="embedding").embedding()
    with pytest.raises(LoraportError, match="not the identity"):
        keep_saved(adapter, *sides(base, base), artifact, None)
