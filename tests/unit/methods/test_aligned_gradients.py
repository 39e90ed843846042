"""Output maps from gradients keep the effect of any rewriting, and are the printed formula."""

from pathlib import Path

import methodcase
import numpy as np
import pico
import pytest
import torch
import twins
from inprocess import CALIBRATION, PairRun
from transformers import AutoModelForCausalLM, AutoTokenizer
from twins import PATH

from loraport.calibration.batches import make_batches
from loraport.calibration.gradients import INNER, TEXTS_AT_ONCE, layer_gradients, read_gradients
from loraport.calibration.solutions import Regression
from loraport.methods import make_maps
from loraport.models.loading import load_base
from loraport.models.spec import open_model

pytestmark = pytest.mark.usefixtures("one_thread")
LINEAR = np.random.default_rng(0).uniform(0.3, 3, 16)  # of what both key-value heads write


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("gradients")
    pico.make_model(root / "old", seed=1, **twins.SIZES)
    pico.make_adapter(root / "lora", root / "old", seed=3)
    return root


def stretch(tensors: dict) -> dict:
    """Each number that v writes is scaled, and o reads it scaled back: no rotation does that."""
    stretched = dict(tensors)
    each = torch.from_numpy(LINEAR)
    heads = each.reshape(2, 8).repeat_interleave(2, dim=0).flatten()  # as query heads read them
    for name, values in tensors.items():
        if name.endswith("v_proj.weight"):
            stretched[name] = values * each[:, None]
        elif name.endswith("o_proj.weight"):
            stretched[name] = values / heads
    return stretched


def run(root: Path, folder: Path, new: Path, **settings) -> float:
    """Share of the adapter's effect that is lost."""
    moments = methodcase.collect_moments(root / "old", new, PATH, pico.texts(60))
    gradients = methodcase.collect_gradients(root / "old", new, PATH, pico.texts(60))
    pair = methodcase.make_method_pair(root / "old", new, PATH, moments, gradients, **settings)
    methodcase.transferred(folder, "aligned_gradients", pair, root / "lora")
    return methodcase.lost(root / "old", new, root / "lora", folder / "adapter")


@pytest.mark.parametrize("name", list(twins.TWINS))
def test_a_model_rewritten_gets_the_whole_adapter(root, tmp_path, name):
    assert run(root, tmp_path, twins.make_twin(tmp_path / name, root / "old", name)) < 1e-3


def test_a_stretched_output_gets_its_update_stretched_and_not_shrunk(root, tmp_path):
    """Gradients shrink there: BiCo's rotation would keep B as it is."""
    new = pico.edit_model(tmp_path / "new", root / "old", stretch)
    assert torch.allclose(methodcase.logits(new), methodcase.logits(root / "old"), atol=1e-4)
    assert run(root, tmp_path, new) < 1e-3


def test_maps_are_the_printed_formula_and_the_rest_is_aligned(pico_pair):
    path, texts = [(0, 0), (2, 3)], pico.texts(20)
    old, new = pico_pair.old, pico_pair.new
    moments = methodcase.collect_moments(old, new, path, texts)
    gradients = methodcase.collect_gradients(old, new, path, texts)
    pair = methodcase.make_method_pair(old, new, path, moments, gradients, ridge=0.3, prior="zero")
    base = {(m.layer, m.role): m for m in make_maps("aligned", pair)}
    made = {(m.layer, m.role): m for m in make_maps("aligned_gradients", pair)}
    assert list(made) == list(base)
    for (layer, role), each in made.items():
        (term,), (other,) = each.terms, base[layer, role].terms
        assert torch.equal(term.right[0].matrix, other.right[0].matrix)
        left = term.left[0].matrix
        if role not in INNER:
            assert torch.equal(left, other.left[0].matrix)
            continue
        fit, held = gradients[[new for _, new in path].index(layer)][role]
        gram, cross = (fit.gram + held.gram).numpy(), (fit.cross + held.cross).numpy()
        ridge = 0.3 * np.trace(gram) / len(gram) * np.eye(len(gram))
        assert np.allclose(left.numpy(), np.linalg.inv(gram + ridge) @ cross.T)


def test_gradients_are_those_of_the_next_tokens_loss(pico_pair):
    """Sums of one text's gradients that autograd gives at the modules' outputs."""
    text = pico.texts(5)[:1] * 5  # of five the last one is held out
    model = open_model(pico_pair.old)
    base, tokenizer = load_base(pico_pair.old, device="cpu")
    batches = make_batches((tokenizer, tokenizer), text, 64, TEXTS_AT_ONCE)
    (found,) = layer_gradients((model, model), (base, base), batches, [(1, 1)], "cpu")
    plain = AutoModelForCausalLM.from_pretrained(pico_pair.old)
    kept = {}
    inner = [role for role in INNER if role in pico.PATHS]
    for role in inner:
        module = plain.get_submodule(f"model.layers.1.{pico.PATHS[role]}")
        module.register_forward_hook(lambda m, i, output, role=role: kept.update({role: output}))
    ids = AutoTokenizer.from_pretrained(pico_pair.old)(text[0], return_tensors="pt").input_ids
    loss = plain(input_ids=ids, labels=ids).loss * (ids.shape[1] - 1)
    wanted = dict(zip(kept, torch.autograd.grad(loss, list(kept.values())), strict=True))
    assert set(found) == set(inner)
    for role, (part, held) in found.items():
        g = wanted[role][0, 1:].double()
        for sums, count in ((part, 4), (held, 1)):
            assert torch.allclose(sums.gram, count * g.T @ g, rtol=1e-3, atol=1e-5 * g.norm() ** 2)
            assert torch.allclose(sums.cross, sums.gram)
            assert sums.square == pytest.approx(count * float(g.norm() ** 2), rel=1e-4)


@pytest.mark.parametrize("gib", [8, 1e-9], ids=["one_pass", "a_pass_a_layer"])
def test_the_rule_writes_what_the_passes_find(pico_pair, tmp_path, monkeypatch, gib):
    monkeypatch.chdir(tmp_path)
    run = PairRun(tmp_path, pico_pair.old, pico_pair.new, pico_pair.texts)
    keys = ("examples", "max_tokens", "batch_size", "device")
    reading = {
        "texts_version": "1",
        "remote_code": [False, False],
        "calibration": {key: CALIBRATION[key] for key in keys},
    }
    file = run._script(
        "gradients", "gradients.h5", {**run._specs(), "layers": run.layers()},
        sources={"texts": str(pico_pair.texts), **run._sources()}, reading=reading,
        settings={"moments_gib": gib, "modules": ["q", "up", "down"]},
    )  # fmt: skip
    texts = Path(pico_pair.texts).read_text().splitlines()
    expected = methodcase.collect_gradients(pico_pair.old, pico_pair.new, run.path(), texts)
    for (_, layer), roles in zip(run.path(), expected, strict=True):
        for role in ("q", "up"):
            for stored, each in zip(read_gradients(file, layer, role), roles[role], strict=True):
                assert same(stored, each)


def same(one: Regression, other: Regression) -> bool:
    size = other.gram.abs().max()
    return (
        torch.allclose(one.cross, other.cross, rtol=1e-3, atol=1e-4 * size)
        and torch.allclose(one.gram, other.gram, rtol=1e-3, atol=1e-4 * size)
        and one.square == pytest.approx(other.square, rel=1e-4)
    )
