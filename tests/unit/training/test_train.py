"""Training on pico models: schedules, starts, repeatability, resumption, errors."""

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pico
import pytest
import torch
import yaml
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from loraport.artifacts import write_json
from loraport.errors import LoraportError
from loraport.training import checkpoints, data, trainer
from loraport.training.card import Names, write_card
from loraport.training.data import IGNORED, Example
from loraport.training.settings import Settings, count_steps
from loraport.training.starts import Fresh, fresh_like
from loraport.training.train import train_lora

pytestmark = pytest.mark.usefixtures("one_thread")

GSM8K = {
    "question": "Natalia sold clips to 48 friends, then half as many. How many in all?",
    "answer": "She sold 48/2 = <<48/2=24>>24 clips.\nIn all 48+24 = <<48+24=72>>72.\n#### 72",
}
ADAPTERS = {"instruction": "What is 3 + 4? ", "input": "", "output": "\nA: It is 7.", "answer": "7"}


def sums(n):
    return [Example(f"{a} + {b} =", f" {a + b}") for a, b in ((i % 9, i % 7) for i in range(n))]


SHIPPED = Path(__file__).parents[3] / "config" / "config.yaml"
PUBLISHED = yaml.safe_load(SHIPPED.read_text())["finetune"]["small"]
FAST = Settings(examples=20, batch_size=8, epochs=2, learning_rate=1e-2, dtype="float32")


@pytest.fixture(scope="module")
def model(pico_pair):
    return pico_pair.new


@pytest.fixture(scope="module")
def start(tmp_path_factory, model):
    """A trained-looking adapter whose last layer is new: both factors zero."""
    directory = tmp_path_factory.mktemp("start") / "adapter"
    return with_empty_layer(make_adapter(directory, model, "lora"))


def make_adapter(directory, model_dir, kind, rank=4):
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    common = {"target_modules": pico.ATTENTION, "lora_alpha": 8, "task_type": "CAUSAL_LM"}
    if kind == "adalora":
        config = AdaLoraConfig(init_r=rank, target_r=2, tfinal=1, total_step=10, **common)
    else:
        config = LoraConfig(r=rank, use_rslora=kind == "rslora", use_dora=kind == "dora", **common)
    adapted = get_peft_model(base, config)
    for name, values in adapted.named_parameters():
        if any(part in name for part in ("lora_B", "lora_A", "lora_E")):
            torch.nn.init.normal_(values, std=0.05)
    adapted.save_pretrained(directory)
    return Path(directory)


def with_empty_layer(directory):
    path = directory / "adapter_model.safetensors"
    tensors = load_file(path)
    for name in tensors:
        if ".layers.3." in name and "magnitude" not in name:
            tensors[name].zero_()
    save_file(tensors, path, {"format": "pt"})
    return directory


def weights(directory):
    return load_file(Path(directory) / "adapter_model.safetensors")


def same_files(first, second):
    assert sorted(p.name for p in first.iterdir()) == sorted(p.name for p in second.iterdir())
    for path in first.iterdir():
        if path.name != "training.json":
            assert path.read_bytes() == (second / path.name).read_bytes(), path.name
    one, two = (json.loads((d / "training.json").read_text()) for d in (first, second))
    # times and host, and the checksum over them
    assert all(each.pop(key) for each in (one, two) for key in ("run", "digest"))
    assert one == two


# ---- data


def test_the_three_layouts_and_the_templates():
    assert data.to_example(GSM8K, "question", "x") == Example(
        f"Question: {GSM8K['question']}\nAnswer:",
        " She sold 48/2 = 24 clips.\nIn all 48+24 = 72.\nThe answer is 72.",
    )
    assert data.to_example(ADAPTERS, "question", "x") == Example(
        "Question: What is 3 + 4?\nAnswer:", " A: It is 7."
    )
    with_input = {**ADAPTERS, "input": "Three and four."}
    assert data.to_example(with_input, "question", "x").prompt.startswith("Context: Three and")
    assert "### Input:\n" in data.to_example(with_input, "alpaca", "x").prompt
    literal = data.to_example(ADAPTERS, "llm_adapters", "x").prompt
    assert literal.endswith("### Response:\n" + 16 * " ")
    assert data.to_example(ADAPTERS, "Q: {instruction}A:", "x").prompt == "Q: What is 3 + 4? A:"


def test_reading_json_jsonl_and_a_dataset_directory(tmp_path):
    record = {"prompt": "1 + 1 =", "completion": " 2"}
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n\n")
    (tmp_path / "b.json").write_text(json.dumps([record, record]))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text(json.dumps(record) + "\n")
    assert data.read(str(tmp_path / "a.jsonl"), "plain") == [Example("1 + 1 =", " 2")]
    assert len(data.read(str(tmp_path / "b.json"), "plain")) == 2
    assert data.read(str(tmp_path / "set"), "plain") == [Example("1 + 1 =", " 2")]


@pytest.mark.skipif("LORAPORT_DATA" not in os.environ, reason="LORAPORT_DATA is not set")
def test_the_published_training_sets_are_read():
    root = Path(os.environ["LORAPORT_DATA"])
    gsm8k = data.read(str(root / "math/gsm8k.train.jsonl"), "question")
    assert len(gsm8k) == 7473
    assert not any("<<" in e.completion or "####" in e.completion for e in gsm8k)
    assert all(e.completion.rstrip(".").rsplit(" ", 1)[1][-1].isdigit() for e in gsm8k)
    assert len(data.read(str(root / "commonsense/boolq.train.json"), "llm_adapters")) == 9427


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: data.read(str(p / "none.jsonl"), "plain"), "cannot be read"),
        (lambda p: data.read(str(p / "none"), "plain"), "could not be loaded"),
        (lambda p: data.read(str(p / "empty.jsonl"), "plain"), "holds no example"),
        (lambda p: data.read(str(p / "bad.jsonl"), "plain"), "cannot be read"),
        (lambda p: data.to_example(ADAPTERS, "plain", "x"), "no field 'prompt'"),
        (lambda p: data.to_example(GSM8K, "nonsense", "x"), "unknown template"),
        (lambda p: data.to_example(GSM8K, "{story}", "x"), "does not fill"),
        (lambda p: data.to_example({"prompt": "a", "completion": " "}, "plain", "x"), "empty"),
        (lambda p: data.subset(sums(5), 6, 0), "6 asked, 5 there"),
        (lambda p: data.subset([], 0, 0), "0 there"),
    ],
)
def test_bad_data_is_told(tmp_path, make, message):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "bad.jsonl").write_text('{"prompt": ')
    with pytest.raises(LoraportError, match=message):
        make(tmp_path)


def test_subsets_are_nested_and_do_not_depend_on_the_method():
    examples = sums(63)
    small, large = data.subset(examples, 10, seed=4), data.subset(examples, 30, seed=4)
    assert large[:10] == small
    assert data.subset(examples, 10, seed=5) != small
    assert data.subset(examples, 0, seed=5) == examples


def test_labels_cover_the_answer_and_the_end_only(model):
    tokenizer = AutoTokenizer.from_pretrained(model)
    example = Example("1 + 2 =", " 3")
    (row,) = data.encode([example], tokenizer, 64, "answer").rows
    prompt = tokenizer(example.prompt)["input_ids"]
    assert row["input_ids"][: len(prompt)] == prompt
    assert row["labels"][: len(prompt)] == [IGNORED] * len(prompt)
    learnt = row["labels"][len(prompt) :]
    assert tokenizer.decode(learnt[:-1]) == " 3" and learnt[-1] == tokenizer.eos_token_id
    (row,) = data.encode([example], tokenizer, 64, "text").rows
    assert row["labels"] == row["input_ids"]


def test_the_prompt_keeps_its_tokens_where_the_tokenizer_merges_across_the_border(model):
    tokenizer = AutoTokenizer.from_pretrained(model)
    merged = next(  # a word that is one token, cut in two
        word
        for word in (tokenizer.decode([i]) for i in range(100, len(tokenizer)))
        if len(word) == 2 and word.isalpha() and len(tokenizer(word)["input_ids"]) == 2
    )
    (row,) = data.encode([Example(merged[0], merged[1])], tokenizer, 64, "answer").rows
    prompt = tokenizer(merged[0])["input_ids"]
    assert row["input_ids"][: len(prompt)] == prompt
    assert [tokenizer.decode([t]) for t in row["labels"][len(prompt) : -1]] == [merged[1]]


def test_long_examples_are_counted_cut_or_dropped(model):
    tokenizer = AutoTokenizer.from_pretrained(model)
    long_answer = Example("1 =", " 1" * 50)
    long_prompt = Example("1 " * 50, " 2")
    encoded = data.encode([*sums(3), long_answer, long_prompt], tokenizer, 20, "answer")
    assert (len(encoded.rows), encoded.truncated, encoded.dropped) == (4, 2, 1)
    assert max(len(row["input_ids"]) for row in encoded.rows) == 20
    with pytest.raises(LoraportError, match="within the cutoff"):
        data.encode([long_prompt], tokenizer, 20, "answer")


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


# ---- repeatability and resumption


def test_the_same_run_gives_the_same_bytes_and_another_seed_others(tmp_path, model):
    fresh = Fresh(rank=4, alpha=8, dropout=0.1)
    for name in ("a", "b"):
        train_lora(model, sums(30), tmp_path / name, start=fresh, settings=FAST)
    same_files(tmp_path / "a", tmp_path / "b")
    train_lora(model, sums(30), tmp_path / "c", start=fresh, settings=replace(FAST, seed=1))
    assert weights(tmp_path / "a").keys() == weights(tmp_path / "c").keys()
    assert not torch.equal(*(next(iter(weights(tmp_path / n).values())) for n in "ac"))


KILLED = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
from loraport.training import trainer
from loraport.training.data import Example
from loraport.training.settings import Settings
from loraport.training.train import train_lora
model, start, out, resume, settings, data = json.loads(sys.argv[1])
watch = trainer._Watch.on_log
def on_log(self, args, state, control, **kwargs):
    if state.global_step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    watch(self, args, state, control, **kwargs)
trainer._Watch.on_log = on_log
data = [Example(*pair) for pair in data]
train_lora(model, data, out, start=start, settings=Settings(**settings), resume_root=resume)
"""


@pytest.mark.parametrize("rule", ["zero", pytest.param("init", marks=pytest.mark.slow)])
def test_a_killed_run_ends_as_an_uninterrupted_one(tmp_path, model, start, rule):
    settings = replace(FAST, save_steps=2, new_layers=rule)
    out, resume = tmp_path / "killed", tmp_path / "resume"
    call = [str(model), str(start), str(out), str(resume), asdict(settings), sums(20)]
    killed = subprocess.run([sys.executable, "-c", KILLED, json.dumps(call)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    assert not out.exists()
    (folder,) = resume.iterdir()
    assert checkpoints.newest(folder) == str(folder / "checkpoint-4")
    (folder / "checkpoint-99").mkdir()  # killed while it was written
    steps = []
    watch = trainer._Watch.on_log

    def on_log(self, args, state, control, **kwargs):
        steps.append(state.global_step)
        watch(self, args, state, control, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer._Watch, "on_log", on_log)
        train_lora(model, sums(20), out, start=start, settings=settings, resume_root=resume)
    assert min(steps) == 5
    train_lora(model, sums(20), tmp_path / "whole", start=start, settings=settings)
    same_files(out, tmp_path / "whole")
    assert not list(resume.iterdir())


def test_checkpoints_of_another_run_are_not_used(tmp_path, start):
    keys = {
        checkpoints.key_of(data.subset(sums(30), 10, seed), start, replace(FAST, **change), inputs)
        for seed in (0, 1)
        for change in ({}, {"seed": 1}, {"learning_rate": 1e-3})
        for inputs in ({}, {"spec": "another base"})
    }
    assert len(keys) == 2 * 3 * 2
    folders = {checkpoints.make_folder(tmp_path, key, "out") for key in keys}
    assert len(folders) == len(keys)


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


# ---- cards


def test_a_card_tells_what_a_training_began_as(tmp_path, model, start):
    names = Names("tickets", "Own/Base-1B", "0123456789abcdef0123456789abcdef01234567")
    fresh = fresh_like(start)
    write_json(start / "start.json", "start", {}, {"start": "carried, times 0.5"})
    try:
        train_lora(model, sums(20), tmp_path / "bare", start=fresh, settings=FAST)
        for name, begun in (("new", fresh), ("on", start)):
            out = tmp_path / name
            train_lora(model, sums(20), out, start=begun, settings=FAST, names=names)
    finally:
        (start / "start.json").unlink()
    new, on = ((tmp_path / name / "README.md").read_text() for name in ("new", "on"))
    assert f"Start: a new adapter (lora, rank {fresh.rank})." in new
    assert "Start: carried, times 0.5, as chosen by short trainings" in on
    for text in (new, on):
        assert "base_model: Own/Base-1B" in text and "# tickets: a trained LoRA adapter" in text
        assert "**No verdict.**" in text and str(tmp_path) not in text
    assert not (tmp_path / "bare" / "README.md").exists()


def test_a_carried_start_is_told_with_where_it_came_from(tmp_path):
    of = {"old": "v1", "app": "tickets", "source": "Own/tickets"}
    content = {"of": of, "method": "aligned", "gain": {"gain": 0.5}}
    write_json(tmp_path / "transfer.json", "transfer", {}, content)
    report = {"examples": 100, "steps": 21, "start": "adapter", "settings": vars(FAST)}
    write_card(tmp_path, report, Names("tickets", "/models/base"), tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "the adapter `Own/tickets` of `v1`, carried by `aligned`" in text
    assert "multiplied by 0.5" in text and "/models" not in text
