"""Parts of sequential alignment: the walk, written answers, what is wanted, the rule's script."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import h5py
import methodcase
import numpy as np
import pico
import pytest
import torch
import twins
from inprocess import CALIBRATION, Named, PairRun

from loraport.adapters.attach import attach
from loraport.adapters.lora_weights import LoraWeights
from loraport.artifacts import identities, identity, read_json
from loraport.calibration.batches import make_batches
from loraport.calibration.walk import Walk
from loraport.errors import LoraportError
from loraport.mapping.adapter_texts import open_adapted
from loraport.mapping.four_models import Walks, Wanted, open_walks, place
from loraport.mapping.pair import open_pair
from loraport.methods import make_maps, make_outputs, output_settings, per_adapter
from loraport.methods.aligned_sequential import _refuse_more_than_factors
from loraport.models.blocks import Whole
from loraport.models.families import ROLES
from loraport.models.loading import load_base
from loraport.models.spec import load_spec, open_model
from loraport.planning import memory_walks
from loraport.training import data
from loraport.training.data import Example
from loraport.training.own_answers import Answer, own_examples, task_texts, write_answers
from loraport.transfer.maps import open_maps, write_maps


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("twins")
    pico.make_model(root / "old", seed=1, **twins.SIZES)
    twins.make_twin(root / "qwen2", root / "old", "qwen2")
    for name in ("old", "qwen2"):
        pico.make_adapter(root / f"lora_{name}", root / name, seed=3)
    return root


def carry_over(root: Path, folder: Path, old: Path, new: Path) -> dict:
    """The adapter carried with the default settings; it also lies in `folder/adapter`."""
    moments = methodcase.collect_moments(old, new, twins.PATH, pico.texts(60))
    pair = methodcase.make_method_pair(old, new, twins.PATH, moments)
    pair = methodcase.adapted(pair, root / f"lora_{old.name}", pico.texts(60))
    lora = root / f"lora_{old.name}"
    return methodcase.transferred(folder, "aligned_sequential", pair, lora)[0]


@pytest.mark.parametrize("name", ["rotated", "permuted", "padded", "qwen2", "llama"])
def test_a_model_rewritten_gets_the_whole_adapter_by_default(root, tmp_path, name):
    """Float32 activations of the two models differ by about 1e-7; a ridge of 1e-9 may magnify that
    by 3e4 in directions that hardly occur. What is seen is 2e-6 of the adapter's effect.
    """
    old = root / ("qwen2" if name == "llama" else "old")
    new = root / "old" if name == "llama" else root / name
    if not new.is_dir():
        twins.make_twin(new, old, name)
    carry_over(root, tmp_path, old, new)
    error = methodcase.lost(old, new, root / f"lora_{old.name}", tmp_path / "adapter")
    print(f"{name}: {error:.1e} of the effect lost")
    assert error < 1e-4


def test_a_model_and_itself_keep_the_updates_by_default(root, tmp_path):
    weights = carry_over(root, tmp_path, root / "old", root / "old")
    before = pico.load_adapter(root / "old", root / "lora_old")
    assert {(layer, pico.PATHS[role]) for layer, role in before} == set(weights)
    errors = []
    for (layer, role), (B, A, s) in before.items():
        carried = methodcase.dense(weights[layer, pico.PATHS[role]])
        errors.append(np.linalg.norm(carried - s * B @ A) / np.linalg.norm(s * B @ A))
    print(f"updates: {max(errors):.1e}")
    assert max(errors) < 1e-3


def walked(directory: Path) -> tuple[Walk, list, object]:
    base, tokenizer = load_base(directory, device="cpu", dtype="float32")
    batches = make_batches((tokenizer, tokenizer), pico.texts(8), 64, 4)
    return Walk(open_model(directory), Whole(base), batches, 0), batches, base


@torch.no_grad()
def stream(base, batch, layer: int) -> torch.Tensor:
    """The stream behind a block at the batch's tokens, by a plain forward pass."""
    caught = []
    hook = base.model.layers[layer].register_forward_hook(lambda m, i, o: caught.append(o))
    base(**batch.inputs[0], use_cache=False)
    hook.remove()
    out = caught[0][0] if isinstance(caught[0], tuple) else caught[0]
    text, spot = batch.rows[0]
    return out[text, spot]


def test_a_walk_sees_what_a_forward_pass_sees_and_what_was_changed_before(pico_pair):
    walk, batches, base = walked(pico_pair.old)
    for layer in range(3):
        walk.step(layer)
        update = torch.full_like(base.model.layers[layer].mlp.down_proj.weight, 0.01)
        place(base, f"model.layers.{layer}.mlp.down_proj", None, update)
        for batch, seen in zip(batches, walk.seen("inner"), strict=True):
            assert torch.allclose(seen["stream"], stream(base, batch, layer), atol=1e-5)


def test_a_walk_that_stops_early_sees_what_a_whole_block_shows(pico_pair):
    walk, batches, _ = walked(pico_pair.old)
    walk.step(1)
    early = {site: list(walk.seen(site)) for site in ("attention", "heads", "mlp")}
    for number, whole in enumerate(walk.cross([*early, "middle"])):
        for site, seen in early.items():
            assert torch.equal(seen[number][site], whole[site])
            assert "stream" not in seen[number]
        assert torch.allclose(early["heads"][number]["middle"], whole["middle"], atol=1e-6)
    assert (walk.layer, len(batches)) == (2, number + 1)


def test_a_block_of_the_models_that_do_not_change_runs_once(pico_pair, monkeypatch):
    runs = Counter()
    run = Walk._run
    monkeypatch.setattr(Walk, "_run", lambda self, n: runs.update([id(self)]) or run(self, n))
    walks = [walked(pico_pair.old)[0] for _ in range(3)]
    placed, batches, _ = walked(pico_pair.old)
    four = Walks(*walks, placed, batches)
    for layer in range(3):
        four.step(layer, layer)
        for site in ("attention", "heads", "mlp", "inner"):
            four.reading(site)
    assert [runs[id(walk)] for walk in walks] == [3 * len(batches)] * 3


def test_an_old_layer_that_serves_two_new_ones_is_read_at_its_own_place(pico_pair):
    four = [walked(pico_pair.old) for _ in range(4)]
    batches = four[0][1]
    walks = Walks(*(walk for walk, _, _ in four), batches)
    walks.step(0, 0)
    first = walks.reading("heads")[0].cross
    walks.step(0, 1)  # the same old block, and the next new one
    second = walks.reading("heads")[0].cross
    old, new = walked(pico_pair.old)[0], walked(pico_pair.old)[0]
    new.step(1)
    expected = sum(
        x["heads"].double().T @ y["heads"].double()
        for batch, x, y in zip(batches, old.cross(["heads"]), new.seen("heads"), strict=True)
        if batch.part == "fit"
    )
    assert torch.allclose(second, expected) and not torch.allclose(second, first)


def test_what_a_walk_keeps_is_what_the_plan_counts(pico_pair):
    pair = methodcase.make_method_pair(pico_pair.old, pico_pair.new)
    pair = methodcase.adapted(pair, pico_pair.adapter, pico.texts(12))
    walks = open_walks(pair, pair.adapter)
    walks.step(0, 1)
    walks.reading("inner")
    four = ((walks.old, 0), (walks.adapted, 0), (walks.new, 1), (walks.placed, 1))
    padded = [sum(b.inputs[side]["input_ids"].numel() for b in walks.batches) for side in (0, 1)]
    paired = sum(batch.rows[0].shape[1] for batch in walks.batches)
    held = [(w.streams, padded[side]) for w, side in four]
    streams = sum(sum(each[n].numel() for n in range(len(each))) / count for each, count in held)
    sites = (walks._inputs, walks._changes, walks._new, walks._placed)
    passed = sum(x.numel() for site in sites for caught in site for x in caught.values())
    assert (streams, passed / paired) == memory_walks.walk_widths(pair.old.dims, pair.new.dims)


def test_an_update_is_placed_in_the_rows_of_its_role(pico_pair):
    _, _, base = walked(pico_pair.old)
    weight = base.model.layers[0].mlp.up_proj.weight
    before, rows = weight.detach().clone(), np.array([3, 1])
    place(base, "model.layers.0.mlp.up_proj", rows, torch.ones(2, weight.shape[1]).double())
    changed = torch.zeros_like(before)
    changed[[1, 3]] = 1
    assert torch.allclose(weight - before, changed, atol=1e-6)


def test_what_is_wanted_is_the_printed_formula():
    rng = np.random.default_rng(0)
    o, a, n, p = (torch.from_numpy(rng.normal(size=(9, d))) for d in (3, 3, 4, 4))
    L, gain = torch.from_numpy(rng.normal(size=(4, 3))), 1.7
    found = Wanted(L, gain).less(n, a - o, p)
    for t in range(9):
        assert torch.allclose(found[t], n[t] - p[t] + gain * (L @ (a[t] - o[t])))


def test_answers_do_not_depend_on_the_batch_and_are_the_models_own(pico_pair):
    model, tokenizer = load_base(pico_pair.old, device="cpu", dtype="float32")
    model = attach(model, pico_pair.adapter).merge_and_unload()
    prompts = pico.texts(4)
    together = write_answers(model, tokenizer, prompts, 64, 4, 6)
    assert together == write_answers(model, tokenizer, prompts, 64, 1, 6)
    ids = tokenizer(prompts[0], return_tensors="pt").input_ids
    start = ids.shape[1]
    for _ in range(6):  # greedily, one token after the other
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(dim=-1)], dim=1)
    assert together[0].text == tokenizer.decode(ids[0, start:], skip_special_tokens=True)


def test_an_answer_is_whole_where_the_model_ends_it_and_has_read_all_of_its_prompt(pico_pair):
    model, tokenizer = load_base(pico_pair.old, device="cpu", dtype="float32")
    prompts = pico.texts(4)
    assert not any(each.whole for each in write_answers(model, tokenizer, prompts, 64, 4, 6))
    ids = tokenizer(prompts[0], return_tensors="pt").input_ids
    written = model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :].tolist()
    model.generation_config.eos_token_id = [written[2]]
    whole = write_answers(model, tokenizer, prompts[:1], ids.shape[1], 1, 6)
    cut = write_answers(model, tokenizer, prompts[:1], ids.shape[1] - 1, 1, 6)
    assert whole[0].whole and not cut[0].whole
    assert whole[0].text == tokenizer.decode(written[: written.index(written[2]) + 1])


def test_a_prompt_too_long_keeps_its_end(pico_pair):
    model, tokenizer = load_base(pico_pair.old, device="cpu", dtype="float32")
    ids = tokenizer(pico.texts(1)[0]).input_ids[-5:]
    written = write_answers(model, tokenizer, pico.texts(1), 5, 1, 6)[0].text
    row = model.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False)[0]
    assert written == tokenizer.decode(row[5:], skip_special_tokens=True)


def test_empty_and_cut_answers_are_counted_and_left_out():
    written = [Answer(" 4.", True), Answer(" \n", True), Answer(" and so", False)]
    kept, counts = own_examples(["a:", "b:", "c:"], written)
    assert kept == [Example("a:", " 4.")]
    assert counts == {"prompts": 3, "kept": 1, "empty": 1, "cut": 1}
    with pytest.raises(LoraportError, match="1 empty and 1 cut"):
        own_examples(["b:", "c:"], written[1:])


def test_the_rule_writes_a_small_set_that_trainings_read(pico_pair, tmp_path):
    """The old model ends its answers at any of half of its tokens."""
    old = tmp_path / "old"
    shutil.copytree(pico_pair.old, old)
    ends = {"eos_token_id": list(range(2, 220, 2)), "pad_token_id": 0}
    (old / "generation_config.json").write_text(json.dumps(ends))
    prompts = [{"prompt": text, "completion": " label"} for text in pico.texts(12)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(each) + "\n" for each in prompts))
    run = PairRun(tmp_path, old, pico_pair.new, pico_pair.texts)
    inputs = {"spec": run.spec("old"), "adapter": pico_pair.adapter}
    params = {
        "base": {"source": str(old), "remote_code": False},
        "data": {"source": str(tmp_path / "sums.jsonl"), "template": "plain"},
        "settings": {"subset_seed": 3, "cutoff": 64, "batch_size": 4, "dtype": "float32"}
        | {"device": "cpu", "device_map": ""},
    }
    outputs = {"data": "10.jsonl", "about": "10.json"}
    run._script("own_answers", outputs, inputs, wildcards={"examples": "10"}, **params)
    drawn = data.read(str(tmp_path / "10.jsonl"), "plain")
    about = read_json(tmp_path / "10.json", "own answers")
    asked = [each["prompt"] for each in data.subset(prompts, 10, 3)]
    assert about["prompts"] == 10 and about["kept"] + about["empty"] + about["cut"] == 10
    assert about["kept"] == len(drawn) > 5
    assert about["data_sha256"] == data.fingerprint(drawn)  # which training.json records too
    assert [each.prompt for each in drawn] == [p for p in asked if p in {d.prompt for d in drawn}]
    assert not any(each.completion == " label" for each in drawn)


def test_only_the_labelled_kind_reads_the_answers():
    examples = [Example("a:", " b"), Example("c:", " d")]
    assert task_texts("inputs", examples, None, None) == ["a:", "c:"]
    assert task_texts("answers", examples, None, None) == ["a: b", "c: d"]
    with pytest.raises(LoraportError, match="generic, inputs, answers, own_answers"):
        task_texts("labels", examples, None, None)


def test_as_many_prompts_as_asked_are_read_in_the_order_of_fine_tuning(pico_pair, tmp_path):
    prompts = [Example(f"{text}:", " label") for text in pico.texts(12)]
    lines = (json.dumps({"prompt": p.prompt, "completion": p.completion}) + "\n" for p in prompts)
    (tmp_path / "sums.jsonl").write_text("".join(lines))
    params = {
        "known_as": [str(pico_pair.old)],
        "reading": {"calibration": {**CALIBRATION, "examples": 9}, "remote_code": [False, False]},
        "task": {"source": str(tmp_path / "sums.jsonl"), "template": "plain"},
        "sources": {},
    }
    for prompts_asked, seen in ((0, 9), (6, 6), (99, 12)):
        settings = {"calibrate_on": "inputs", "prompts": prompts_asked}
        opened = open_adapted(
            str(pico_pair.adapter),
            open_model(pico_pair.old),
            Named(params | {"settings": settings}),
        )
        drawn = data.subset(prompts, seen, 0)
        assert opened.texts(None, None) == [each.prompt for each in drawn]


def test_maps_of_a_pair_are_refused(pico_pair):
    pair = methodcase.make_method_pair(pico_pair.old, pico_pair.new)
    assert per_adapter("aligned_sequential") and not per_adapter("aligned")
    with pytest.raises(LoraportError, match="maps of one adapter"):
        list(make_maps("aligned_sequential", pair))


def test_too_few_prompts_are_told(pico_pair):
    pair = methodcase.make_method_pair(pico_pair.old, pico_pair.new, [(0, 0)])
    pair = methodcase.adapted(pair, pico_pair.adapter, pico.texts(4))
    with pytest.raises(
        LoraportError, match=r"too few texts .*4 texts, .*prompts of the app's task"
    ):
        list(make_maps("aligned_sequential", pair))


@pytest.mark.parametrize("extra", ["magnitude", "bias"])
def test_what_maps_of_rank_r_would_lose_is_refused_by_name(extra):
    weights = LoraWeights(np.ones((4, 2)), np.ones((2, 3)), 2.0, **{extra: np.ones(4)})
    with pytest.raises(LoraportError, match=f"{extra}.* at layer 1, self_attn.o_proj"):
        _refuse_more_than_factors({(1, "self_attn.o_proj"): weights})


@pytest.mark.usefixtures("one_thread")
def test_the_rule_makes_maps_of_one_adapter_with_the_same_bytes_each_time(pico_pair, tmp_path):
    """No moments are read: the output maps are there, and equal to what is fitted from moments."""
    run = PairRun(tmp_path, pico_pair.old, pico_pair.new, pico_pair.texts)
    specs = {f"{side}_spec": run.spec(side) for side in ("old", "new")}
    keys = ("examples", "max_tokens", "batch_size", "device", "stream")
    params = {
        "sources": {side: str(path) for side, path in run.models.items()}
        | {"texts": str(pico_pair.texts)},
        "reading": {
            "texts_version": "1",
            "remote_code": [False, False],
            "calibration": {key: CALIBRATION[key] for key in keys},
        },
    }
    made = {**specs, "layers": run.layers()}
    made["moments"] = run._script(
        "moments", "moments.h5", made, **params, settings={"modules": list(ROLES)}
    )
    name = "aligned_sequential"
    settings = {"modules": ["q", "o", "down"], "device": "cpu", "ridge": "auto"}
    settings |= {"prior": "procrustes", "calibrate_on": "generic", "prompts": 0}
    own = {"method": name, "settings": settings, "task": None}
    own["known_as"] = [str(run.models["old"])]
    read = {key: settings[key] for key in output_settings(name)}
    outputs = run._script("output_maps", "outputs.h5", made, method=name, settings=read)
    models = (load_spec(specs[f"{side}_spec"], str(run.models[side])) for side in ("old", "new"))
    pair = open_pair(*models, dict(made), settings, "cpu")
    adapter = open_adapted(str(pico_pair.adapter), pair.old, Named(params | own))
    direct = replace(pair, adapter=adapter, outputs=make_outputs(name, pair))
    moments = made.pop("moments")
    made["outputs"] = outputs
    write_maps(tmp_path / "direct.h5", name, identities(made), make_maps(name, direct))
    moments.unlink()
    files = [
        run._script(
            "adapter_maps", f"own_{i}.h5", {**made, "adapter": pico_pair.adapter}, **params, **own
        )
        for i in range(2)
    ]
    assert identity(files[0])[0] == identity(files[1])[0] == identity(tmp_path / "direct.h5")[0]
    with open_maps(files[0]) as maps:
        layers = maps.layers()
    assert [old for old, _ in run.path()] == [roles["o"] for _, roles in sorted(layers.items())]


def test_of_the_output_maps_those_of_the_adapters_modules_alone_are_read(
    pico_pair, tmp_path, monkeypatch
):
    old, new, texts = pico_pair.old, pico_pair.new, pico.texts(10)
    lora = pico.make_adapter(tmp_path / "lora", old, seed=3, targets=["q_proj", "o_proj"])
    moments = methodcase.collect_moments(old, new, [(0, 1)], texts)
    pair = methodcase.make_method_pair(old, new, [(0, 1)], moments)
    pair = methodcase.adapted(pair, lora, texts)
    pair = methodcase.with_outputs(tmp_path / "outputs.h5", "aligned_sequential", pair)
    read, get = [], h5py.Dataset.__getitem__

    def noted(self, *place, **more):
        read.append(self.name)
        return get(self, *place, **more)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", noted)
    assert [each.role for each in make_maps("aligned_sequential", pair)] == ["q", "o"]
    assert read == ["/layer_1/q/matrix", "/layer_1/middle/matrix"]
    with pytest.raises(LoraportError, match=r"no output maps at mlp of layer 1.*maps at .*middle"):
        pair.outputs(1)["mlp"]


def test_a_method_without_output_maps_is_told():
    with pytest.raises(LoraportError, match="'aligned' has no output maps"):
        output_settings("aligned")
