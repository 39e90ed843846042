"""An adapter that does not fit leaves the model as it was: another one may be tried on it."""

import warnings

import pico
import pytest
import torch
from safetensors.torch import load_file, save_file

from loraport.adapters.attach import attach, detach
from loraport.errors import LoraportError
from loraport.models.loading import load_base


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("attach")
    sizes = {"intermediate": 24, "layers": 2, "heads": 2, "kv_heads": 2, "vocab_words": 60}
    pico.make_model(root / "narrow", seed=1, hidden=16, **sizes)
    pico.make_model(root / "wide", seed=2, hidden=24, **sizes)
    pico.make_adapter(root / "fits", root / "wide", seed=3, targets=["q_proj"])
    return root


def lacking(folder):
    """An adapter without one of its tensors."""
    pico.make_adapter(folder, folder.parent / "wide", seed=4)
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize("kind", ["shapes", "tensors", "saved"])
def test_a_model_is_whole_behind_an_adapter_that_does_not_fit(folder, kind):
    wrong = folder / kind
    if kind == "tensors":
        lacking(wrong)
    else:
        more = {"modules_to_save": ["lm_head"]} if kind == "saved" else {}
        pico.make_adapter(wrong, folder / "narrow", seed=5, **more)
    model, tokenizer = load_base(folder / "wide", device="cpu")
    names = [name for name, _ in model.named_modules()]
    ids = tokenizer("a word and another", return_tensors="pt").input_ids
    with torch.no_grad():
        before = model(ids).logits
        with pytest.raises(LoraportError, match="does not fit the model"):
            attach(model, wrong)
        assert [name for name, _ in model.named_modules()] == names
        assert torch.equal(model(ids).logits, before)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        adapted = attach(model, folder / "fits")
    assert detach(adapted) is model


@pytest.mark.parametrize("more", [{"modules_to_save": ["lm_head"]}, {"use_dora": True}, {}])
def test_a_model_is_as_it_was_when_an_adapter_is_taken_off(folder, tmp_path, more):
    own = pico.make_adapter(tmp_path / "own", folder / "wide", seed=6, **more)
    path = own / "adapter_model.safetensors"
    doubled = {name: 2 * values for name, values in load_file(path).items()}
    save_file(doubled, path, {"format": "pt"})
    model, tokenizer = load_base(folder / "wide", device="cpu")
    ids = tokenizer("a word and another", return_tensors="pt").input_ids
    with torch.no_grad():
        before = model(ids).logits
        adapted = attach(model, own)
        assert not torch.equal(adapted(ids).logits, before)
        assert torch.equal(detach(adapted)(ids).logits, before)
