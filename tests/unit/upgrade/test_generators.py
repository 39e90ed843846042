"""What writes answers: transformers, or vLLM, for which a small package stands in."""

import json
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pico
import pytest
import torch

from loraport.adapters.attach import attach
from loraport.cli import main
from loraport.commands import _fleet_jobs, _fleet_run
from loraport.errors import LoraportError
from loraport.upgrade import generators, rule
from loraport.upgrade.base import Base, Limits
from loraport.upgrade.generators import PAYS, Wanted, _vllm_fit, vllm
from loraport.upgrade.parts import Settings
from loraport.upgrade.prompts import Record

pytestmark = pytest.mark.usefixtures("one_thread")
FAKE = Path(__file__).parents[2] / "fake_vllm"
PROMPTS = [f"the word {n} is{' one' * (n % 3)}" for n in range(12)]
LIMITS = Limits(batch_size=4, max_tokens=16, new_tokens=6)


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """The package that stands in, of canned answers; gives what it was asked."""
    path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(FAKE), path])))
    monkeypatch.setenv("FAKE_VLLM", "canned")
    monkeypatch.setenv("FAKE_VLLM_LOG", str(tmp_path / "asked.jsonl"))
    monkeypatch.syspath_prepend(str(FAKE))
    monkeypatch.delenv("LORAPORT_TEST_DOOR", raising=False)

    def asked():
        file = tmp_path / "asked.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    return asked


@pytest.fixture
def served(fake, pico_pair):
    """A base model whose answers the stand-in writes."""
    wanted = Wanted("vllm", 1, (pico_pair.adapter,))
    base = Base.load(pico_pair.old, replace(LIMITS), wanted, device="cpu")
    yield base
    base.close()


@pytest.fixture
def unchecked(monkeypatch):
    """Answers that no model would give are taken: canned ones."""
    monkeypatch.setattr(vllm.Engine, "_check", lambda *_: None)


@pytest.mark.usefixtures("unchecked")
def test_one_engine_serves_all_prompts_and_adapters(served, fake, pico_pair, tmp_path):
    other = shutil.copytree(pico_pair.adapter, tmp_path / "other")
    served.write(PROMPTS)
    for folder in (pico_pair.adapter, other, pico_pair.adapter):
        with served.wearing(folder):
            served.write(PROMPTS)
            with served.without_adapter():
                served.write(PROMPTS[:3])
    made, *rest = fake()
    assert made["made"]["model"] == str(pico_pair.old) and made["made"]["dtype"] == "float32"
    assert made["made"]["enable_lora"] and made["made"]["max_lora_rank"] == 16
    assert "gpu_memory_utilization" not in made["made"] and made["gpus"] == ""
    adapters = [each["adapter"] and each["adapter"][1:] for each in rest]
    one, two = [1, str(pico_pair.adapter)], [2, str(other)]
    assert adapters == [None, one, None, two, None, one, None]
    assert [each["asked"] for each in rest] == [12, 12, 3, 12, 3, 12, 3]
    assert len({each["pid"] for each in (made, *rest)}) == 1
    assert served.wrote == {"vllm 9.9": 57}
    served.close()
    with pytest.raises(OSError, match="No such process"):
        os.kill(made["pid"], 0)


@pytest.mark.usefixtures("unchecked")
def test_an_answer_is_whole_where_it_ended_and_its_prompt_was_read_whole(served, fake):
    tokenizer = served.tokenizer
    prompts = [*PROMPTS, "the word " * 20]
    lengths = [len(tokenizer(text)["input_ids"]) for text in prompts]
    assert len({length % 2 for length in lengths[:-1]}) == 2 and lengths[-1] > 16
    answers = served.write(prompts)
    assert [each.whole for each in answers] == [n % 2 == 0 and n <= 16 for n in lengths]
    first = tokenizer(prompts[0])["input_ids"]
    both = tokenizer.decode(first + first[1:6], skip_special_tokens=True)
    assert both == prompts[0] + answers[0].text
    sampling = fake()[-1]["sampling"]
    assert sampling["temperature"] == 0 and sampling["max_tokens"] == 6
    assert tokenizer.eos_token_id in sampling["stop_token_ids"]
    assert not any(fake()[-1]["seeds"])
    served.write(PROMPTS, temperature=0.7, seed=3, new_tokens=4)
    served.write(PROMPTS[:5], temperature=0.7, seed=3)
    served.write(PROMPTS, temperature=0.7, seed=4)
    first, fewer, other = (each["seeds"] for each in fake()[-3:])
    assert len(set(first)) == 12 and first[:5] == fewer and not set(first) & set(other)
    assert fake()[-3]["sampling"]["max_tokens"] == 4


def recorded(pair, folder):
    """transformers' answers to the prompts, bare and with the adapter; and a file of their tokens,
    that the stand-in reads.
    """
    alone = Base.load(pair.old, LIMITS, device="cpu")
    answers, tokens = [], {}
    for adapter in (None, pair.adapter):
        with alone.wearing(adapter) as model:
            answers.append(alone.write(PROMPTS))
            for text in PROMPTS:
                ids = alone.tokenizer(text)["input_ids"][-LIMITS.max_tokens :]
                written = model.generate(
                    input_ids=torch.tensor([ids]), max_new_tokens=8, do_sample=False
                )
                tokens[f"{ids} {adapter}"] = written[0, len(ids) :].tolist()
    assert alone.wrote == {"transformers": 24}
    (folder / "recorded.json").write_text(json.dumps(tokens))
    return answers, folder / "recorded.json"


def test_answers_are_those_of_transformers(served, fake, monkeypatch, pico_pair, tmp_path):
    expected, file = recorded(pico_pair, tmp_path)
    monkeypatch.setenv("FAKE_VLLM", str(file))
    for adapter, answers in zip((None, pico_pair.adapter), expected, strict=True):
        with served.wearing(adapter):
            assert served.write(PROMPTS) == answers
    assert served.wrote == {"vllm 9.9": 24}


def test_it_is_checked_once_with_each_adapter_before_it_is_relied_on(
    served, fake, monkeypatch, pico_pair, tmp_path
):
    _, file = recorded(pico_pair, tmp_path)
    monkeypatch.setenv("FAKE_VLLM", str(file))
    served.write(PROMPTS, temperature=0.7)
    served.write(PROMPTS)
    with served.wearing(pico_pair.adapter):
        served.write(PROMPTS[:3] * 2)
        served.write(PROMPTS)
        with served.without_adapter():
            served.write(PROMPTS)
    with served.wearing(pico_pair.adapter):
        served.write(PROMPTS)
    _, *rest = fake()
    told = [(each["asked"], *each["sampling"].values(), bool(each["adapter"])) for each in rest]
    assert [(count, heat, most, worn) for count, heat, most, *_, worn in told] == [
        (8, 0, 8, False),
        (12, 0.7, 6, False),
        (12, 0, 6, False),
        (3, 0, 8, True),
        (6, 0, 6, True),
        (12, 0, 6, True),
        (12, 0, 6, False),
        (12, 0, 6, True),
    ]
    assert served.wrote == {"vllm 9.9": 66}


def test_an_engine_that_leaves_an_adapter_out_is_found_out(
    served, fake, monkeypatch, pico_pair, tmp_path, caplog
):
    (bare, adapted), file = recorded(pico_pair, tmp_path)
    tokens = json.loads(file.read_text())
    without = {key: tokens[f"{key[: key.index(']') + 1]} None"] for key in tokens}
    file.write_text(json.dumps(without))
    monkeypatch.setenv("FAKE_VLLM", str(file))
    assert served.write(PROMPTS) == bare
    with served.wearing(pico_pair.adapter):
        assert served.write(PROMPTS) == adapted
    assert served.write(PROMPTS) == bare
    (told,) = (each for each in caplog.messages if "transformers goes on" in each)
    assert f"with adapter {pico_pair.adapter} does not write what the model in memory" in told
    assert "Got: 0 of 8 greedy answers" in told and "Expected: half of them" in told
    assert served.wrote == {"vllm 9.9": 12, "transformers": 24}
    with pytest.raises(OSError, match="No such process"):
        os.kill(fake()[0]["pid"], 0)


@pytest.mark.parametrize(("turned", "wrote"), [(4, "vllm 9.9"), (5, "transformers")])
def test_rounding_may_turn_half_of_what_is_checked(
    turned, wrote, served, fake, monkeypatch, pico_pair, tmp_path
):
    _, file = recorded(pico_pair, tmp_path)
    tokens = json.loads(file.read_text())
    for key in [key for key in tokens if key.endswith("None")][:turned]:
        tokens[key][7] += 1
    file.write_text(json.dumps(tokens))
    monkeypatch.setenv("FAKE_VLLM", str(file))
    served.write(PROMPTS)
    assert served.wrote == {wrote: 12}


def test_what_vllm_cannot_serve_transformers_writes(served, fake, pico_pair, tmp_path):
    served.write(PROMPTS, also=[lambda ids, scores: scores])
    served.model = attach(served.model, pico_pair.adapter)  # as a student in memory
    served.write(PROMPTS)
    served.model = served.model.unload()
    wide = pico.make_adapter(tmp_path / "wide", pico_pair.old, seed=5, r=20)
    with served.wearing(wide):
        served.write(PROMPTS)
    words = pico.make_adapter(
        tmp_path / "words", pico_pair.old, seed=5, targets=["q_proj", "lm_head"]
    )
    with served.wearing(words):
        served.write(PROMPTS)
    dora = pico.make_adapter(tmp_path / "dora", pico_pair.old, seed=5, use_dora=True)
    with served.wearing(dora):
        served.write(PROMPTS)
    served.generator._length = 18
    served.write(["the word " * 40])
    assert fake() == []
    assert served.wrote == {"transformers": 61}


@pytest.mark.parametrize(
    ("how", "said"),
    [("no_start", "no kernel image is available"), ("no_answer", "unsupported LoRA weight")],
)
def test_a_failure_is_told_once_and_transformers_goes_on(
    how, said, served, fake, monkeypatch, pico_pair, caplog
):
    monkeypatch.setenv("FAKE_VLLM", how)
    alone = Base.load(pico_pair.old, served.limits, device="cpu")
    with caplog.at_level(logging.WARNING, logger="loraport"):
        answers = [served.write(PROMPTS), served.write(PROMPTS)]
    assert answers == [alone.write(PROMPTS)] * 2
    (told,) = caplog.messages
    assert said in told and "transformers goes on" in told and str(pico_pair.old) in told
    assert served.wrote == {"transformers": 24}
    assert len([each for each in fake() if "made" in each]) == 1


@pytest.mark.usefixtures("unchecked")
def test_a_process_that_dies_is_such_a_failure(served, fake, caplog):
    served.write(PROMPTS)
    served.generator._child.kill()
    answers = served.write(PROMPTS)
    assert len(answers) == 12 and "transformers goes on" in caplog.text
    assert served.wrote == {"transformers": 12, "vllm 9.9": 12}


@pytest.mark.usefixtures("unchecked")
def test_a_request_without_a_reply_is_such_a_failure(served, fake, monkeypatch, caplog):
    monkeypatch.setenv("FAKE_VLLM", "hangs")
    monkeypatch.setattr(vllm, "REQUEST_SECONDS", 0.2)
    with caplog.at_level(logging.WARNING, logger="loraport"):
        served.write(PROMPTS)
        served.write(PROMPTS)
    (told,) = caplog.messages
    assert "no reply in 1 s" in told and "transformers goes on" in told
    assert served.wrote == {"transformers": 24}
    made, asked = fake()  # it started, and was asked once
    assert asked["asked"] == 12
    with pytest.raises(OSError, match="No such process"):
        os.kill(made["pid"], 0)


def test_a_start_without_a_reply_is_such_a_failure(served, monkeypatch):
    monkeypatch.setattr(vllm, "START_SECONDS", 0.01)
    served.write(PROMPTS)
    assert served.generator.failed.startswith("no reply in 0 s")
    assert served.wrote == {"transformers": 12}


def test_the_time_of_a_request_grows_with_what_is_asked():
    least = vllm.seconds_for([[1]], 1)
    assert 600 < least < 1200
    assert vllm.seconds_for([[1]] * 20_000, 64) - least > 3600
    assert vllm.seconds_for([[1] * 2000] * 20_000, 1) - least > 3600


def test_auto_takes_vllm_where_it_pays(fake, pico_pair, monkeypatch):
    model = Base.load(pico_pair.old, device="cpu").model
    named = type(type(model).__name__, (SimpleNamespace,), {})
    on_gpu = named(device=SimpleNamespace(type="cuda"), config=model.config)

    def opened(model, answers, name="auto"):
        return generators.opened(Wanted(name, answers), pico_pair.old, model, 640)

    assert opened(model, 10 * PAYS) is None
    assert opened(on_gpu, PAYS - 1) is None
    engine = opened(on_gpu, PAYS)
    assert isinstance(engine, vllm.Engine) and not engine.failed
    assert opened(on_gpu, PAYS, "transformers") is None
    monkeypatch.setattr(vllm, "installed", lambda: False)
    assert opened(on_gpu, PAYS) is None
    assert fake() == []


def test_a_model_that_vllm_would_read_otherwise_is_left(fake, pico_pair, caplog):
    base = Base.load(pico_pair.old, device="cpu")
    base.model.config.quantization_config = {"quant_method": "mxfp4"}
    engine = generators.opened(Wanted("vllm"), pico_pair.old, base.model, 640)
    assert "quantised" in engine.failed and "quantised" in caplog.text


def test_one_that_is_not_there_is_refused_before_any_work(pico_pair):
    with pytest.raises(LoraportError, match="asked for and is not installed"):
        Base.load("nowhere", wanted=Wanted("vllm"))
    with pytest.raises(LoraportError, match="did you mean 'vllm'"):
        generators.check("vlm")
    generators.check("auto")
    generators.check("transformers")
    assert generators.names() == ("vllm",)


@pytest.mark.parametrize(("free", "share"), [(70, 0.225), (30, 0.15), (6, None)])
def test_the_memory_that_it_takes_is_bounded(free, share, monkeypatch):
    gib, weights = 1 << 30, SimpleNamespace(numel=lambda: 3 << 29, element_size=lambda: 2)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free * gib, 80 * gib))
    model = SimpleNamespace(device="cuda:0", parameters=lambda: [weights])
    if share is None:
        with pytest.raises(LoraportError, match="too little"):
            _vllm_fit.utilisation(model)
    else:
        assert _vllm_fit.utilisation(model) == pytest.approx(share, abs=1e-3)


def checked(pair, folder, golds, *more):
    """A check of an adapter against itself: its exit status, and its report's bytes."""
    rows = [{"prompt": p, "completion": gold} for p, gold in zip(PROMPTS, golds, strict=True)]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    named = [pair.old, pair.adapter, pair.old, pair.adapter, "--test", folder / "test.jsonl"]
    how = ["--max-tokens", "16", "--new-tokens", "6", "--device", "cpu", "--margin", "99", *more]
    status = main(["check", *map(str, named), "--out", str(folder / "verdict.json"), *how])
    return status, (folder / "verdict.json").read_bytes() if status in (0, 3) else b""


def test_a_check_says_who_wrote_its_answers(fake, pico_pair, tmp_path, monkeypatch, capsys):
    (_, adapted), file = recorded(pico_pair, tmp_path)
    golds = [answer.text for answer in adapted]
    monkeypatch.setattr(generators, "PAYS", 0)
    first = checked(pico_pair, tmp_path, golds, "--generator", "transformers")
    assert first[0] in (0, 3) and checked(pico_pair, tmp_path, golds) == first
    assert fake() == [] and "by vllm" not in capsys.readouterr().err
    monkeypatch.setenv("FAKE_VLLM", str(file))
    _, written = checked(pico_pair, tmp_path, golds, "--generator", "vllm")
    content, wrote = json.loads(written), {"vllm 9.9": 24}
    assert content["about"].pop("generator") == {"old": wrote, "new": wrote}
    del content["digest"]  # of all of it
    assert content.items() <= json.loads(first[1]).items()
    told = "answers of the old model: 24 by vllm 9.9; of the new: 24 by vllm 9.9"
    assert told in capsys.readouterr().err
    assert len([each for each in fake() if "made" in each]) == 2


def test_what_was_opened_is_closed_where_a_command_fails(pico_pair, tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(Base, "close", lambda base: closed.append(base))
    assert checked(pico_pair, tmp_path, ["no such answer"] * len(PROMPTS))[0] == 1
    assert len(closed) == 1  # the old model shows that the test measures nothing

    def fails(*_):
        raise LoraportError("nothing to teach")

    monkeypatch.setattr(_fleet_run, "_upgrade", fails)
    models = [pico_pair.old, pico_pair.new, pico_pair.adapter, tmp_path / "out"]
    how = ["--prompts", tmp_path / "test.jsonl", "--start", "nothing", "--device", "cpu"]
    assert main(["upgrade", *map(str, [*models, *how])]) == 1
    assert len(closed) == 3
    section = {**vars(LIMITS), "dtype": "auto", "device": "cpu", "device_map": ""}
    about = {side: {"remote_code": False} for side in ("old", "new")}
    wanted = {side: Wanted() for side in about}
    with (
        pytest.raises(LoraportError, match="nothing to teach"),
        rule.loaded([pico_pair.old, pico_pair.new], section, about, wanted) as bases,
    ):
        fails()
    assert closed[3:] == bases


def test_a_fleet_counts_what_its_models_are_to_write(pico_pair):
    records = [Record(f"the word {n} is") for n in range(40)]
    test = [Record(f"the other {n} is", " a") for n in range(50)]
    labelled, bare = (
        _fleet_jobs.Job("a", pico_pair.adapter, Path("out"), records, each, [])
        for each in (test, [])
    )
    wanted = _fleet_jobs.wanted_of([labelled, bare], "auto", Settings())
    assert wanted["old"] == Wanted("auto", 40 + 2 * 50 + 30 + 4 * 10, (pico_pair.adapter,) * 2)
    assert wanted["new"].answers == 2 * 50 + 2 * 10


def test_a_check_refuses_one_that_is_not_there(pico_pair, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(vllm, "installed", lambda: False)
    assert checked(pico_pair, tmp_path, PROMPTS, "--generator", "vllm")[0] == 1
    assert "not installed" in capsys.readouterr().err


def test_tasks_are_not_written_by_vllm(fake, pico_pair, capsys):
    named = [pico_pair.old, pico_pair.adapter, pico_pair.new, pico_pair.adapter]
    assert main(["check", *map(str, named), "--task", "t", "--generator", "vllm"]) == 1
    assert "lm-evaluation-harness" in capsys.readouterr().err
