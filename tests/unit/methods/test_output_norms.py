"""Families with a norm on what o and down write: what their maps take into account."""

from pathlib import Path

import families
import methodcase
import normed_twins
import numpy as np
import pico
import pytest
import torch
import twins
from normed_twins import EDITS, FAMILIES

from loraport.artifacts import write_h5
from loraport.calibration.batches import make_batches
from loraport.calibration.moments_file import read_moments, write_layer
from loraport.calibration.ridge import SLIGHT_RIDGE, solve
from loraport.calibration.sites import STREAM, caught_sites, rms, written
from loraport.calibration.solutions import Regression
from loraport.calibration.walk import Walk
from loraport.errors import LoraportError
from loraport.methods import aligned, aligned_sequential, make_maps
from loraport.models.blocks import Whole
from loraport.models.loading import load_base
from loraport.models.spec import open_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("normed")


@pytest.fixture(scope="module", params=[(name, edit) for name in FAMILIES for edit in EDITS])
def twin(request, root) -> tuple[Path, Path, Path, list]:
    """Old and new model of one function, an adapter of the old one, and their moments."""
    name, edit = request.param
    even = root / name
    if not even.exists():
        normed_twins.make_old(even, name)
        for directory in (even, root / f"{name}_any"):
            pico.make_adapter(root / f"lora_{directory.name}", directory, seed=3)
    old = even if edit == "rotated" else root / f"{name}_any"
    new = normed_twins.make_twin(root / f"{name}_{edit}", old, name, edit)
    moments = methodcase.collect_moments(old, new, twins.PATH, pico.texts(60))
    return old, new, root / f"lora_{old.name}", moments


@pytest.mark.parametrize(
    "settings", [{}, {"ridge": 1e-9, "prior": "zero"}, {"ridge": 1e-9, "writes": "module"}]
)
def test_a_model_rewritten_gets_the_whole_adapter(twin, tmp_path, settings):
    """By default, too: 1e-6 of the effect is lost, which is float32's."""
    old, new, lora, moments = twin
    pair = methodcase.make_method_pair(old, new, twins.PATH, moments, **settings)
    methodcase.transferred(tmp_path, "aligned", pair, lora)
    assert methodcase.lost(old, new, lora, tmp_path / "adapter") < 1e-4


def test_a_model_rewritten_gets_the_whole_adapter_sequentially(twin, tmp_path):
    old, new, lora, moments = twin
    pair = methodcase.make_method_pair(old, new, twins.PATH, moments)
    pair = methodcase.adapted(pair, lora, pico.texts(60))
    methodcase.transferred(tmp_path, "aligned_sequential", pair, lora)
    assert methodcase.lost(old, new, lora, tmp_path / "adapter") < 1e-4


# ---- two families

PATH = [(0, 0), (1, 1)]


@pytest.fixture(scope="module")
def crossed(root) -> tuple[Path, Path, Path, list]:
    """A Llama model with an adapter, and a random Gemma 3 whose norms write as loudly as a real
    one's: weights of 20 on the average, one of them nought.
    """
    old = pico.make_model(root / "llama", seed=1, **twins.SIZES)

    def loud(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        made = dict(tensors)
        for key, values in tensors.items():
            if key.split(".")[-2] in normed_twins.OUTPUT_NORMS:
                made[key] = 20 * (1 + values) - 1
                made[key][3] = -1
        return made

    plain = families.make_model(root / "gemma3_plain", "gemma3", seed=2, **normed_twins.SAFE)
    new = pico.edit_model(root / "gemma3_loud", plain, loud)
    lora = pico.make_adapter(root / "lora_llama", old, seed=3)
    moments = methodcase.collect_moments(old, new, PATH, pico.texts(60))
    return old, new, lora, moments


def grown(report: dict) -> dict[str, float]:
    """By how much the relative norm of o's and down's updates grows, at most."""
    return {
        kind: max(
            each["relative_norm_after"] / each["relative_norm_before"]
            for name, each in report["modules"].items()
            if name.endswith(kind)
        )
        for kind in ("o_proj", "down_proj")
    }


@pytest.fixture(scope="module")
def without(root, crossed, tmp_path_factory) -> dict[str, dict[str, float]]:
    """Method -> by how much updates grow from the same model to another random Llama, whose
    outputs have no norm: random models have little in common, and what little the maps find they
    magnify.
    """
    old, _, lora, _ = crossed
    new = pico.make_model(root / "llama_2", seed=2, **twins.SIZES)
    moments = methodcase.collect_moments(old, new, PATH, pico.texts(60))
    pair = methodcase.make_method_pair(old, new, PATH, moments)
    pair = methodcase.adapted(pair, lora, pico.texts(60))
    return {
        method: grown(
            methodcase.transferred(tmp_path_factory.mktemp(method), method, pair, lora)[1]
        )
        for method in ("aligned", "aligned_sequential")
    }


def test_updates_for_a_family_with_norms_are_of_the_size_of_those_for_one_without(
    crossed, without, tmp_path
):
    old, new, lora, moments = crossed
    pair = methodcase.make_method_pair(old, new, PATH, moments)
    weights, report = methodcase.transferred(tmp_path, "aligned", pair, lora)
    for kind, growth in grown(report).items():
        assert growth < 3 * without["aligned"][kind], kind
    for (_, module), each in weights.items():
        dense = methodcase.dense(each)
        assert np.isfinite(dense).all()
        if module.endswith(("o_proj", "down_proj")):
            assert np.abs(dense[3]).max() < 1e-12  # what the norm multiplies by nought


def test_maps_say_how_large_the_outputs_are_that_a_norm_stands_on(crossed):
    old, new, _, moments = crossed
    pair = methodcase.make_method_pair(old, new, PATH, moments)
    for each in make_maps("aligned", pair):
        sizes = {key: value for key, value in each.notes.items() if key.startswith("rms")}
        if each.role not in STREAM:
            assert sizes == {}
            continue
        parts = moments[each.layer][STREAM[each.role]]
        total, count = sum(p.rms_new for p in parts), sum(p.count for p in parts)
        assert sizes == {"rms_new": pytest.approx(total / count)}


def test_they_would_not_be_if_the_norm_were_not_known(crossed, without, tmp_path, monkeypatch):
    old, new, lora, moments = crossed
    monkeypatch.setattr(aligned, "norm_factor", lambda *place: None)
    pair = methodcase.make_method_pair(old, new, PATH, moments)
    _, report = methodcase.transferred(tmp_path, "aligned", pair, lora)
    for kind, growth in grown(report).items():
        assert growth > 10 * without["aligned"][kind], kind


def test_sequential_updates_for_a_family_with_norms_are_as_well(crossed, without, tmp_path):
    old, new, lora, moments = crossed
    pair = methodcase.make_method_pair(old, new, PATH, moments)
    pair = methodcase.adapted(pair, lora, pico.texts(60))
    _, report = methodcase.transferred(tmp_path, "aligned_sequential", pair, lora)
    for kind, growth in grown(report).items():
        assert growth < 3 * without["aligned_sequential"][kind], kind


def test_updates_in_front_of_a_norm_have_a_heavier_ridge(crossed, tmp_path, monkeypatch):
    old, new, lora, moments = crossed
    ridges = []

    def noted(regression, ridge, spare_exact, weights):
        ridges.append((ridge, weights is None))
        return solve(regression, ridge, spare_exact, weights)

    monkeypatch.setattr(aligned_sequential, "solve", noted)
    for at, where in ((old, new), (new, old)):
        sums = moments if at == old else methodcase.collect_moments(at, where, PATH, pico.texts(20))
        adapter = lora if at == old else pico.make_adapter(tmp_path / "lora", at, seed=3)
        pair = methodcase.make_method_pair(at, where, PATH, sums)
        pair = methodcase.adapted(pair, adapter, pico.texts(20))
        pair = methodcase.with_outputs(tmp_path / f"{at.name}.h5", "aligned_sequential", pair)
        list(make_maps("aligned_sequential", pair))
    assert ridges == [(1e-1, False)] * 4 + [(1e-2, True)] * 4


# ---- sites and sums


@pytest.mark.parametrize("name", sorted(families.FAMILIES))
def test_the_stream_is_what_the_sites_say_that_it_takes_in(tmp_path, name):
    directory = families.make_model(tmp_path / name, name, seed=1)
    model = open_model(directory)
    base, tokenizer = load_base(directory, device="cpu", dtype="float32")
    (batch, *_) = make_batches((tokenizer, tokenizer), pico.texts(8), 64, 8)
    rows, inputs = batch.rows[0], []
    block = base.get_submodule(model.architecture.block.format(layer=1))
    block.register_forward_hook(lambda m, i, o: inputs.append(i[0][tuple(rows)]))
    with torch.no_grad(), caught_sites(base, model, 1, lambda: rows) as caught:
        base(**batch.inputs[0], use_cache=False)
    assert torch.allclose(caught["middle"], inputs[0] + written(caught, "middle"))
    here = {r: STREAM[r] for r in model.architecture.roles_of(model.dims.at(1)) if r in STREAM}
    assert "middle" in here.values()
    if "down" in here:  # not of a mixture of experts
        taken = caught["middle"] + written(caught, "stream")
        assert torch.allclose(caught["stream"], taken, atol=1e-4)
    for role, site in here.items():
        assert (rms(site) in caught) == (role in model.architecture.output_norms)
        if name == "granite":
            assert torch.allclose(written(caught, site), 0.22 * caught[role])
        if rms(site) in caught:
            factor = torch.from_numpy(model.output_norm(1, role))
            expected = caught[role].double().square().mean(dim=1, keepdim=True).sqrt()
            assert torch.allclose(caught[rms(site)], expected, rtol=1e-4)
            again = factor * caught[role].double() / caught[rms(site)]
            assert torch.allclose(again, written(caught, site).double(), atol=1e-4)
        else:
            assert model.output_norm(1, role) is None


def test_a_walk_that_stops_at_a_norm_sees_what_a_whole_block_shows(crossed):
    directory = crossed[1]
    base, tokenizer = load_base(directory, device="cpu", dtype="float32")
    batches = make_batches((tokenizer, tokenizer), pico.texts(8), 64, 4)
    walk = Walk(open_model(directory), Whole(base), batches, 0)
    walk.step(1)
    early = list(walk.seen("heads"))
    for seen, whole in zip(early, walk.cross(["middle", rms("middle")]), strict=True):
        assert "stream" not in seen
        for site in ("middle", rms("middle")):
            assert torch.allclose(seen[site], whole[site], atol=1e-5)


def test_sizes_of_outputs_are_stored_where_a_norm_stands(crossed, tmp_path):
    moments = crossed[3][0]
    with write_h5(tmp_path / "moments.h5", "moments", {}) as writer:
        write_layer(writer, 0, 0, moments)
    stored = read_moments(tmp_path / "moments.h5", 0)
    for site in STREAM.values():
        for part, again in zip(moments[site], stored[site], strict=True):
            assert part.rms_old == again.rms_old == 0  # the Llama side
            assert part.rms_new == again.rms_new > 0
    assert stored["o"][0].rms_new == 0
    total = moments["middle"][0] + moments["middle"][1]
    assert total.rms_new == sum(part.rms_new for part in moments["middle"])


def test_moments_that_lack_the_sizes_are_refused_by_name(crossed):
    old, new, _, moments = crossed
    for layer in moments:
        for part in layer["middle"]:
            part.sizes[3] = 0.0  # rms_new
    pair = methodcase.make_method_pair(old, new, PATH, moments)
    with pytest.raises(LoraportError, match=r"o's outputs are in layer 0.*older.*delete"):
        list(make_maps("aligned", pair))


@pytest.mark.parametrize("exact", [False, True])
def test_a_weighted_ridge_map_is_the_printed_formula(exact):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(40, 3)), np.array([2.0, -0.5, 0.0, 1e-9, 7.0])
    M = rng.normal(size=(5, 3))
    y = w * (x @ M.T) + (0 if exact else rng.normal(size=(40, 5)))
    sums = [torch.from_numpy(each) for each in (y.T @ x, x.T @ x)]
    regression = Regression(*sums, float((y**2).sum()))
    got = solve(regression, 0.3, True, torch.from_numpy(w)).numpy()
    ridge = SLIGHT_RIDGE if exact else 0.3
    weight = ridge * np.trace(x.T @ x) / 3 * np.mean(w**2)
    for row, factor in enumerate(w):  # of the least Σ (y − w m·x)² + λ‖m‖²
        gram, right = factor**2 * x.T @ x, factor * x.T @ y[:, row]
        literally = np.linalg.solve(gram + weight * np.eye(3), right)
        assert np.allclose(got[row], literally, atol=1e-9)
    assert np.isfinite(got).all() and np.abs(got[2]).max() == 0
    plain = solve(regression, 0.3).numpy()
    assert np.allclose(plain, solve(regression, 0.3, weights=torch.ones(5)).numpy())
