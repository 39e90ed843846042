"""Evaluation on pico models: what is counted, what is cached, what is refused."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pico
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from loraport.artifacts import read_json
from loraport.errors import LoraportError
from loraport.evaluation import evaluate, harness
from loraport.evaluation.evaluate import Settings, Stage, score_stages
from loraport.training.data import Example
from loraport.training.settings import Settings as Training
from loraport.training.starts import Fresh
from loraport.training.train import train_lora

pytestmark = pytest.mark.usefixtures("one_thread")

TASKS = Path(__file__).parents[3] / "resources" / "tasks"
FAST = Settings(dtype="float32", batch_size=8, resamples=200, empty="score")
SUMS = [(a, b) for a in range(1, 7) for b in range(1, 5)]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Two small tasks of our own, on the shared task files: sums, and letters."""
    root = tmp_path_factory.mktemp("tasks")
    sums = [
        {"prompt": f"{a} + {b} =", "completion": f" {a + b}", "answer": str(a + b)} for a, b in SUMS
    ]
    letters = [
        {"prompt": f"{a} or {b}:", "completion": " " + "AB"[a < b], "answer": "AB"[a < b]}
        for a, b in SUMS
    ]
    for name, records, base in (("sums", sums, "nano_math"), ("letters", letters, "nano_mcq")):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        (root / f"{name}.yaml").write_text(
            f"include: {TASKS}/{base}.yaml\ntask: {name}\n"
            f"dataset_kwargs: {{file: {root}/{name}.jsonl}}\n"
            'generation_kwargs: {do_sample: false, max_gen_toks: 6, until: ["\\n"]}\n'
        )
    return root


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, pico_pair):
    """Two adapters that know some of the sums."""
    root = tmp_path_factory.mktemp("adapters")
    torch.set_num_threads(1)
    data = [Example(f"{a} + {b} =", f" {a + b}") for a, b in SUMS]
    settings = Training(examples=12, batch_size=12, epochs=60, learning_rate=2e-2, dtype="float32")
    for seed in (0, 1):
        train_lora(
            pico_pair.new,
            data,
            root / f"seed{seed}",
            start=Fresh(rank=8, alpha=16, target_modules="all-linear"),
            settings=replace(settings, subset_seed=seed, seed=seed),
        )
    return root


def stages(out, adapters, tasks=("sums",)):
    return [
        Stage("bare", None, out / "bare.json", tasks, "plain"),
        Stage("first", adapters / "seed0", out / "first.json", tasks, "plain"),
        Stage("second", adapters / "seed1", out / "second.json", tasks, "plain"),
    ]


@pytest.fixture(scope="module")
def scored(tmp_path_factory, pico_pair, tasks, adapters):
    out = tmp_path_factory.mktemp("scored")
    score_stages(
        pico_pair.new,
        stages(out, adapters, ("sums", "letters")),
        tasks,
        FAST,
        cache=out / "cache",
    )
    return out


def model_with(pico_pair, adapter):
    base = AutoModelForCausalLM.from_pretrained(pico_pair.new, dtype=torch.float32)
    model = base if adapter is None else PeftModel.from_pretrained(base, adapter)
    return model.eval(), AutoTokenizer.from_pretrained(pico_pair.new)


@pytest.mark.parametrize("name", ["bare", "first", "second"])
def test_an_independent_count_agrees(scored, pico_pair, adapters, name):
    """Each item alone, without padding, a greedy loop and an extraction written again here."""
    adapter = {"bare": None, "first": adapters / "seed0", "second": adapters / "seed1"}[name]
    model, tokenizer = model_with(pico_pair, adapter)
    found = read_json(scored / f"{name}.json", "eval")["tasks"]["sums"]
    assert found["n"] == len(SUMS) == len(found["items"]) == len(found["outputs"])
    right = []
    for (a, b), output in zip(SUMS, found["outputs"], strict=True):
        ids = tokenizer(f"{a} + {b} =", return_tensors="pt")["input_ids"]
        start = ids.shape[1]
        for _ in range(6):
            logits = model(input_ids=ids).logits[0, -1]
            if int(logits.argmax()) == tokenizer.eos_token_id:
                break
            ids = torch.cat([ids, logits.argmax().reshape(1, 1)], dim=1)
        text = tokenizer.decode(ids[0, start:], skip_special_tokens=True).split("\n")[0]
        assert text == output
        numbers = re.findall(r"-?\d+\.?\d*", text.replace(",", ""))
        right.append(bool(numbers) and abs(float(numbers[-1]) - (a + b)) <= 1e-3)
    assert found["items"] == [int(r) for r in right]
    assert found["value"] == pytest.approx(sum(right) / len(right))
    assert found["low"] <= found["value"] <= found["high"]
    if name != "bare":
        assert sum(right) >= 8


@pytest.mark.parametrize("name", ["bare", "second"])
def test_likelihoods_are_those_of_the_gold_answer(scored, pico_pair, adapters, name):
    model, tokenizer = model_with(pico_pair, None if name == "bare" else adapters / "seed1")
    found = read_json(scored / f"{name}.json", "eval")["tasks"]["sums"]
    for (a, b), nll in list(zip(SUMS, found["item_nll"], strict=True))[:6]:
        prompt = tokenizer(f"{a} + {b} =")["input_ids"]
        whole = tokenizer(f"{a} + {b} = {a + b}")["input_ids"]
        logs = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
        expected = -sum(logs[i - 1, whole[i]].item() for i in range(len(prompt), len(whole)))
        assert nll == pytest.approx(expected, abs=2e-4)
    assert found["nll"] == pytest.approx(sum(found["item_nll"]) / len(SUMS), abs=1e-5)


def test_adapters_are_swapped_without_a_trace(scored, tmp_path, pico_pair, tasks, adapters):
    """Alone, in another order, in other batches: the same scores as in one job."""
    alone = [stages(tmp_path, adapters, ("sums", "letters"))[n] for n in (2, 0)]
    settings = replace(FAST, batch_size=5)
    score_stages(pico_pair.new, alone, tasks, settings, cache=tmp_path / "cache")
    for stage in alone:
        one, two = (read_json(p / f"{stage.name}.json", "eval") for p in (scored, tmp_path))
        for document in (one, two):
            document.pop("run")
            document["settings"].pop("batch_size")
            for task in document["tasks"].values():
                task["item_nll"] = [round(value, 3) for value in task["item_nll"]]
                for key in ("nll", "nll_low", "nll_high"):
                    task[key] = round(task[key], 3)
        assert one == two


def test_what_is_scored_is_not_scored_again(scored, tmp_path, pico_pair, tasks, adapters):
    before = {p.name: p.read_bytes() for p in scored.glob("*.json")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "load", lambda *_, **__: pytest.fail("the base was loaded"))
        again = stages(scored, adapters, ("sums", "letters"))
        score_stages(pico_pair.new, again, tasks, FAST, cache=scored / "cache")
        assert before == {p.name: p.read_bytes() for p in scored.glob("*.json")}
        with pytest.raises(pytest.fail.Exception, match="was loaded"):
            changed = replace(FAST, limit=5)
            score_stages(pico_pair.new, again, tasks, changed, cache=scored / "cache")
        patch.setattr(evaluate, "SCORING_VERSION", -1)
        with pytest.raises(pytest.fail.Exception, match="was loaded"):
            score_stages(pico_pair.new, again, tasks, FAST, cache=scored / "cache")


def test_an_adapter_that_changes_nothing_has_the_bare_models_scores(
    scored, tmp_path, pico_pair, tasks, adapters
):
    """It is not run; the same adapter with one number in B is."""
    none = pico.silence(shutil.copytree(adapters / "seed0", tmp_path / "none"))
    job = [Stage("none", none, tmp_path / "none.json", ("sums",), "plain")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "load", lambda *_, **__: pytest.fail("the base was loaded"))
        score_stages(pico_pair.new, job, tasks, FAST, cache=scored / "cache")
        own, bare = (json.loads(p.read_text()) for p in (job[0].out, scored / "bare.json"))
        assert own["tasks"]["sums"] == bare["tasks"]["sums"]
        assert (own["stage"], own["adapter_sha256"]) != (bare["stage"], bare["adapter_sha256"])
        file = none / "adapter_model.safetensors"
        tensors = load_file(file)
        next(value for name, value in tensors.items() if ".lora_B." in name)[0, 0] = 1e-3
        save_file(tensors, file)
        with pytest.raises(pytest.fail.Exception, match="was loaded"):
            score_stages(pico_pair.new, job, tasks, FAST, cache=scored / "cache")


def test_a_killed_job_goes_on_after_its_last_task(tmp_path, pico_pair, tasks, adapters):
    done = []
    real = evaluate.score_task

    def killed(lm, task, settings):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(task.config.task)
        return real(lm, task, settings)

    job = stages(tmp_path, adapters, ("letters", "sums"))[1:2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "score_task", killed)
        with pytest.raises(KeyboardInterrupt):
            score_stages(pico_pair.new, job, tasks, FAST, cache=tmp_path / "cache")
        assert done == ["letters"] and not job[0].out.exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            evaluate,
            "score_task",
            lambda lm, task, s: done.append(task.config.task) or real(lm, task, s),
        )
        score_stages(pico_pair.new, job, tasks, FAST, cache=tmp_path / "cache")
    assert done == ["letters", "sums"]


def test_the_file_says_what_was_done(scored):
    content = read_json(scored / "first.json", "eval")
    assert content["stage"] == "first" and content["template"] == "plain"
    assert len(content["adapter_sha256"]) == 64
    assert content["versions"]["lm_eval"] and content["run"]["seconds"] > 0
    assert {"sums", "letters"} == set(content["run"]["tasks"])
    means = [task["value"] for task in content["tasks"].values()]
    assert content["average"]["mean"] == pytest.approx(sum(means) / 2)
    assert "data_dir" not in content["settings"]
    same = read_json(scored / "bare.json", "eval")["tasks"]["sums"]["items_sha256"]
    assert content["tasks"]["sums"]["items_sha256"] == same


def test_a_limit_takes_the_first_items(tmp_path, pico_pair, tasks, scored, adapters):
    job = stages(tmp_path, adapters)[1:2]
    score_stages(pico_pair.new, job, tasks, replace(FAST, limit=7), cache=tmp_path / "cache")
    found = read_json(job[0].out, "eval")["tasks"]["sums"]
    whole = read_json(scored / "first.json", "eval")["tasks"]["sums"]
    assert found["n"] == 7 and found["outputs"] == whole["outputs"][:7]


def test_batches_shrink_when_memory_runs_out(tmp_path, pico_pair, tasks, adapters):
    sizes = []
    real = harness.evaluator.evaluate

    def short_of_memory(lm, **kwargs):
        sizes.append(lm.batch_size_per_gpu)
        if lm.batch_size_per_gpu > 8:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return real(lm=lm, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness.evaluator, "evaluate", short_of_memory)
        settings = replace(FAST, batch_size="auto", limit=4)
        job = stages(tmp_path, adapters)[:2]
        score_stages(pico_pair.new, job, tasks, settings, cache=tmp_path / "cache")
    assert sizes == [64, 32, 16, 8, 8]


def test_likelihoods_take_smaller_batches_than_answers_and_shrink_when_memory_runs_out():
    sizes = []

    class Short:
        batch_size_per_gpu = 64

        def loglikelihood(self, requests, disable_tqdm):
            sizes.append(self.batch_size_per_gpu)
            if self.batch_size_per_gpu > 8:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
            return [(-float(len(r.args[1])), False) for r in requests]

    lm = Short()
    samples = [{"doc": {"gold": "x" * n}, "arguments": [("p",)], "target": ""} for n in (3, 1)]
    assert harness.answer_nll(lm, None, samples) == [3.0, 1.0]
    assert sizes == [32, 16, 8]
    assert lm.batch_size_per_gpu == 64


# ---- errors


def one(tmp_path, tasks=("sums",), adapter=None):
    return [Stage("bare", adapter, tmp_path / "bare.json", tasks, "plain")]


@pytest.mark.parametrize(
    ("names", "message"),
    [((), "has no task"), (("summs",), r"unknown evaluation task 'summs'.*such as sums")],
)
def test_tasks_that_are_not_there_are_told(tmp_path, pico_pair, tasks, names, message):
    with pytest.raises(LoraportError, match=message):
        score_stages(pico_pair.new, one(tmp_path, names), tasks, FAST, cache=tmp_path / "c")


def test_a_task_that_generates_nothing_is_an_error_or_wrong(tmp_path, pico_pair, tasks):
    (tmp_path / "empty.yaml").write_text(
        f"include: {tasks}/sums.yaml\ntask: empty\n"
        "generation_kwargs: {do_sample: false, max_gen_toks: 2, until: ['']}\n"
    )
    name = (str(tmp_path / "empty.yaml"),)
    real = harness.evaluator.evaluate

    def silent(**kwargs):
        result = real(**kwargs)
        for sample in result["samples"]["empty"]:
            sample["resps"] = [[" "]]
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness.evaluator, "evaluate", silent)
        with pytest.raises(LoraportError, match="generates nothing"):
            strict = replace(FAST, empty="error")
            score_stages(pico_pair.new, one(tmp_path, name), tasks, strict, cache=tmp_path / "c")
        assert not (tmp_path / "bare.json").exists()
        score_stages(pico_pair.new, one(tmp_path, name), tasks, FAST, cache=tmp_path / "c")
    assert read_json(tmp_path / "bare.json", "eval")["tasks"]["empty"]["value"] == 0


def test_a_task_without_room_for_an_answer_is_told(tmp_path, pico_pair, tasks):
    (tmp_path / "long.yaml").write_text(
        f"include: {tasks}/sums.yaml\ntask: long\n"
        "generation_kwargs: {do_sample: false, max_gen_toks: 256, until: ['x']}\n"
    )
    job = one(tmp_path, (str(tmp_path / "long.yaml"),))
    with pytest.raises(LoraportError, match="lower `max_gen_toks`"):
        score_stages(pico_pair.new, job, tasks, FAST, cache=tmp_path / "c")


def test_an_adapter_of_another_model_is_told(tmp_path, pico_pair, tasks, adapters):
    job = one(tmp_path, adapter=adapters / "seed0")
    with pytest.raises(LoraportError, match="does not fit the model"):
        score_stages(pico_pair.old, job, tasks, FAST, cache=tmp_path / "c")
    job = one(tmp_path, adapter=tmp_path / "nowhere")
    with pytest.raises(LoraportError, match="holds no adapter"):
        score_stages(pico_pair.old, job, tasks, FAST, cache=tmp_path / "c")


# ---- whole-set scores


def test_translations_are_scored_through_the_harness(tmp_path, pico_pair):
    (tmp_path / "translation").mkdir()
    lines = [{"translation": {"cs": "1 + 1", "en": f"{i} + {i} = {2 * i}"}} for i in range(6)]
    (tmp_path / "translation" / "wmt19.cs-en.validation.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines)
    )
    (tmp_path / "wmt.yaml").write_text(
        f"include: {TASKS}/wmt19_cs_en.yaml\ntask: wmt\n"
        "generation_kwargs: {do_sample: false, max_gen_toks: 12, until: [x]}\n"
    )
    job = one(tmp_path, (str(tmp_path / "wmt.yaml"),))
    settings = replace(FAST, data_dir=str(tmp_path))
    score_stages(pico_pair.new, job, TASKS, settings, cache=tmp_path / "c")
    found = read_json(tmp_path / "bare.json", "eval")["tasks"]["wmt"]
    assert found["metric"] == "bleu" and set(found["others"]) == {"chrf"}
    assert math.isfinite(found["value"]) and found["nll"] > 0


def scored_as(metric):
    """What `score_task` gives of a task of four items."""
    return {
        "metric": metric,
        "value": 0.5,
        "items": [0, 1, 1, 0],
        "run": {"seconds": 1.0, "peak_mib": 1.0},
    }


@pytest.mark.parametrize(
    ("metrics", "averaged"),
    [
        (("acc", "acc"), True),
        (("chrf", "chrf"), False),  # of a whole set: its score is no mean of its items
        (("bleu", "bleu"), False),
        (("acc", "bleu"), False),
        (("acc", "chrf"), False),
        (("bleu", "chrf"), False),
    ],
)
def test_only_tasks_of_one_metric_that_is_a_mean_of_items_are_averaged(tmp_path, metrics, averaged):
    (stage,) = one(tmp_path)
    tasks = {name: scored_as(metric) for name, metric in zip("xy", metrics, strict=True)}
    evaluate._write_stage(stage, tasks, FAST, {})
    assert ("average" in read_json(stage.out, "eval")) == averaged
