"""Which files of a folder are the model: the reader's choice is the one that transformers makes."""

import json
import shutil

import pico
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from loraport.errors import LoraportError
from loraport.models.folder import left_aside, weight_files
from loraport.models.loading import load_base
from loraport.models.spec import check_shapes, describe, open_model

SIZES = {"hidden": 16, "intermediate": 24, "layers": 2, "heads": 2, "kv_heads": 2}
TABLE = "model.embed_tokens.weight"
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models of one shape, the second one in two shards."""
    root = tmp_path_factory.mktemp("models")
    one = pico.make_model(root / "one", seed=1, vocab_words=200, **SIZES)
    two = pico.make_model(root / "two", seed=2, vocab_words=200, shards=2, **SIZES)
    return one, two


def copy_shards(two, folder):
    for path in two.glob("model*"):
        shutil.copy(path, folder)


def whole_beside_shards(folder, two):
    copy_shards(two, folder)


def whole_beside_a_stale_index(folder, two):
    shutil.copy(two / INDEX, folder)


def another_layout_beside(folder, two):
    shutil.copy(next(two.glob("model-00001*")), folder / "consolidated.safetensors")


def shards_that_the_config_names(folder, two):
    copy_shards(two, folder)
    pico_config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**pico_config, "transformers_weights": INDEX}))


def only_shards(folder, two):
    (folder / WHOLE).unlink()
    copy_shards(two, folder)


@pytest.mark.parametrize(
    "arrange",
    [
        whole_beside_shards,
        whole_beside_a_stale_index,
        another_layout_beside,
        shards_that_the_config_names,
        only_shards,
    ],
)
def test_what_is_read_is_what_transformers_loads(models, tmp_path, arrange):
    folder = shutil.copytree(models[0], tmp_path / "mixed")
    arrange(folder, models[1])
    loaded = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True).state_dict()
    model = open_model(folder)
    check_shapes(model)
    read = model.checkpoint().read(TABLE)
    assert (torch.from_numpy(read) == loaded[TABLE]).all()
    used = {path.name for path in weight_files(folder)}
    assert used.isdisjoint(left_aside(folder))
    others = {path.name for path in folder.glob("*.safetensors")} - used
    assert others <= set(left_aside(folder))
    assert describe(folder, str(folder), "").get("left_aside", []) == left_aside(folder)


def test_an_adapter_in_a_models_folder_is_not_put_onto_it(models, tmp_path):
    folder = shutil.copytree(models[0], tmp_path / "merged")
    adapter = pico.make_adapter(tmp_path / "adapter", models[0], seed=3)
    for name in (CONFIG, WEIGHTS):
        shutil.copy(adapter / name, folder)
    loaded, _ = load_base(folder, device="cpu")
    bare, _ = load_base(models[0], device="cpu")
    ids = torch.tensor([[1, 5, 9]])
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, bare(ids).logits)
    assert left_aside(folder) == [CONFIG, WEIGHTS]
    assert [path.name for path in weight_files(folder)] == [WHOLE]


def test_shards_without_their_index_are_named(models, tmp_path):
    folder = shutil.copytree(models[1], tmp_path / "shards")
    (folder / INDEX).unlink()
    with pytest.raises(LoraportError, match=r"does not load.*00001-of-00002.*index"):
        weight_files(folder)


def test_a_resized_vocabulary_is_told_with_the_size_to_set(models, tmp_path):
    folder = shutil.copytree(models[0], tmp_path / "resized")
    tensors = load_file(folder / WHOLE)
    rows = len(tensors[TABLE]) + 1
    for name in (TABLE, "lm_head.weight"):
        tensors[name] = torch.cat([tensors[name], tensors[name][:1]])
    save_file(tensors, folder / WHOLE, {"format": "pt"})
    with pytest.raises(LoraportError, match=f"set vocab_size in config.json to {rows}"):
        check_shapes(open_model(folder))


def test_a_pad_token_without_a_row_is_replaced_and_other_tokens_without_one_are_named(
    models, tmp_path
):
    folder = shutil.copytree(models[0], tmp_path / "padded")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = len(load_file(folder / WHOLE)[TABLE])
    tokenizer.add_tokens([f"<extra_{n}>" for n in range(rows - len(tokenizer))])
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)
    model, loaded = load_base(folder, device="cpu")
    assert loaded.pad_token == "</s>"
    batch = loaded.pad({"input_ids": [[1, 5, 9], [1]]}, return_tensors="pt")
    with torch.no_grad():
        assert torch.isfinite(model(**batch).logits).all()
        with pytest.raises(LoraportError, match=f"token {rows + 1} in a text, {rows} rows"):
            model(loaded("<new>", return_tensors="pt").input_ids)
