"""Training on pico models: schedules, starts, errors."""

import csv
import json
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from traincase import FAST, PUBLISHED, make_adapter, sums, weights, with_empty_layer
from transformers import AutoModelForCausalLM

from loraport.errors import LoraportError
from loraport.training import trainer
from loraport.training.settings import Settings, count_steps
from loraport.training.starts import Fresh, fresh_like
from loraport.training.train import train_lora

pytestmark = pytest.mark.usefixtures("one_thread")

# ---- schedules


def test_steps_of_the_published_small_run_never_leave_the_warm_up():
    lft = Settings(examples=100)
    assert count_steps(100, lft) == 21
    assert PUBLISHED["warmup_steps"] > count_steps(100, replace(lft, **PUBLISHED))
    assert count_steps(100, replace(lft, max_steps=5)) == 5


def test_the_matched_baseline_takes_lfts_steps_and_learning_rates(tmp_path, model, start):
    lft = train_lora(model, sums(40), tmp_path / "lft", start=start, settings=FAST)
    matched = train_lora(
        model, sums(40), tmp_path / "matched", start=fresh_like(start), settings=FAST
    )
    small = train_lora(
        model,
        sums(40),
        tmp_path / "small",
        start=fresh_like(start),
        settings=replace(FAST, **PUBLISHED),
    )
    rates = {}
    for name in ("lft", "matched", "small"):
        rows = list(csv.DictReader((tmp_path / name / "loss.csv").open()))
        rates[name] = [float(row["learning_rate"]) for row in rows]
        assert [int(row["step"]) for row in rows] == list(range(1, len(rows) + 1))
    assert lft["steps"] == matched["steps"] == small["steps"] == len(rates["lft"]) == 6
    assert rates["lft"] == rates["matched"]
    assert rates["lft"][0] == pytest.approx(1e-2)
    assert max(rates["small"]) < 0.2 * 3e-4
    assert lft["data_sha256"] == matched["data_sha256"] == small["data_sha256"]
    assert lft["trained_parameters"] == matched["trained_parameters"]


def test_gradient_accumulation_takes_the_same_steps(tmp_path, model, start):
    whole = train_lora(
        model, sums(16), tmp_path / "a", start=start, settings=replace(FAST, examples=16)
    )
    parts = train_lora(
        model,
        sums(16),
        tmp_path / "b",
        start=start,
        settings=replace(FAST, examples=16, micro_batch=2),
    )
    assert whole["steps"] == parts["steps"]
    for name, values in weights(tmp_path / "a").items():
        torch.testing.assert_close(values, weights(tmp_path / "b")[name], rtol=2e-2, atol=2e-3)


# ---- starts


def test_logits_of_answers_alone_give_the_models_own_loss(tmp_path, model, start, monkeypatch):
    """In micro-batches as well, whose answers count by their tokens."""
    settings = replace(FAST, micro_batch=4)
    seen = []
    makes = trainer.needed_logits

    def kept(*given):
        seen.append(makes(*given)["logits_to_keep"])
        return {"logits_to_keep": seen[-1]}

    monkeypatch.setattr(trainer, "needed_logits", kept)
    mine = train_lora(model, sums(20), tmp_path / "mine", start=start, settings=settings)
    assert len(seen) >= 10 and all(positions[0] > 1 for positions in seen)
    monkeypatch.setattr(trainer, "_adds_to_its_loss", lambda model: True)
    whole = train_lora(model, sums(20), tmp_path / "whole", start=start, settings=settings)
    assert mine["last_loss"] == pytest.approx(whole["last_loss"], rel=1e-5)
    own, every = (weights(tmp_path / name) for name in ("mine", "whole"))
    for name, values in own.items():
        assert torch.allclose(values, every[name], atol=1e-5), name


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora", "adalora"])
def test_every_kind_of_start_is_trained_and_loads_again(tmp_path, model, kind):
    begun = make_adapter(tmp_path / "start", model, kind)
    out = tmp_path / "out"
    result = train_lora(model, sums(20), out, start=begun, settings=FAST)
    before, after = weights(begun), weights(out)
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before if "lora_" in name)
    assert result["last_loss"] < result["first_loss"]
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    found = PeftModel.from_pretrained(base, out)
    assert found.peft_config["default"].peft_type == ("ADALORA" if kind == "adalora" else "LORA")


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora", "adalora"])
def test_every_kind_starts_fresh(tmp_path, model, kind):
    fresh = Fresh(rank=4, alpha=8, kind=kind)
    out = tmp_path / "out"
    result = train_lora(model, sums(40), out, start=fresh, settings=replace(FAST, examples=40))
    assert result["last_loss"] < result["first_loss"]
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(config["target_modules"])
    assert config["inference_mode"] is True
    assert sorted(p.name for p in out.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "loss.csv",
        "training.json",
    ]
    again = fresh_like(out)
    assert (again.rank, again.alpha, again.kind) == (4, 8, kind)


def test_new_layers_stay_zero_or_are_trained_from_a_standard_start(tmp_path, model, start):
    for rule in ("zero", "init"):
        settings = replace(FAST, new_layers=rule)
        train_lora(model, sums(20), tmp_path / rule, start=start, settings=settings)
    zero, init = weights(tmp_path / "zero"), weights(tmp_path / "init")
    new = [name for name in zero if ".layers.3." in name]
    assert len(new) == 8
    assert not any(zero[name].any() for name in new)
    assert all(init[name].any() for name in new)
    assert all(zero[name].any() for name in zero if name not in new)


def test_zero_new_layers_of_a_dora_adapter_keep_their_magnitudes(tmp_path, model):
    begun = with_empty_layer(make_adapter(tmp_path / "start", model, "dora"))
    settings = replace(FAST, new_layers="zero")
    train_lora(model, sums(20), tmp_path / "out", start=begun, settings=settings)
    before, after = weights(begun), weights(tmp_path / "out")
    for name in (n for n in before if "magnitude" in n):
        assert torch.equal(before[name], after[name]) == (".layers.3." in name), name


# ---- errors


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_no_output(tmp_path, model):
    begun = make_adapter(tmp_path / "start", model, "lora")
    tensors = weights(begun)
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, begun / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(LoraportError, match="loss is nan at step 1"):
        train_lora(model, sums(20), tmp_path / "out", start=begun, settings=FAST)
    assert not (tmp_path / "out").exists()


def test_no_step_uses_cudnns_attention(tmp_path, model, start, monkeypatch):
    seen, step = [], trainer.Trainer.training_step

    def watched(self, *args, **kwargs):
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return step(self, *args, **kwargs)

    monkeypatch.setattr(trainer.Trainer, "training_step", watched)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    train_lora(model, sums(20), tmp_path / "out", start=start, settings=FAST)
    assert before and set(seen) == {False}
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_an_adapter_that_does_not_fit_is_told(tmp_path, pico_pair, start):
    with pytest.raises(LoraportError, match="does not fit the model"):
        train_lora(pico_pair.old, sums(20), tmp_path / "a", start=start, settings=FAST)
    broken = make_adapter(tmp_path / "start", pico_pair.new, "lora")
    tensors = weights(broken)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, broken / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(LoraportError, match=r"missing \['base_model"):
        train_lora(pico_pair.new, sums(20), tmp_path / "b", start=broken, settings=FAST)
    with pytest.raises(LoraportError, match="target modules that the model has"):
        fresh = Fresh(target_modules=("nowhere",))
        train_lora(pico_pair.new, sums(20), tmp_path / "c", start=fresh, settings=FAST)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "all"}, "answer or text"),
        ({"new_layers": "none"}, "init or zero"),
        ({"batch_size": 16, "micro_batch": 5}, "not a multiple"),
    ],
)
def test_settings_that_make_no_sense_are_told(change, message):
    with pytest.raises(LoraportError, match=message):
        replace(FAST, **change)
