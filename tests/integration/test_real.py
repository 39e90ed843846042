"""The benchmark of real pairs: its sets, scores and starts, and the harness on pico models."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pico
import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.real import extract, gauge, model, results, run, scoring, sets, upgrade_results
from benchmarks.real.learn import Learner, Schedule, _drawn

from loraport.errors import LoraportError
from loraport.training.data import Example
from loraport.training.settings import Settings
from loraport.training.train import train_lora

pytestmark = pytest.mark.usefixtures("one_thread")
DATA = os.environ.get("LORAPORT_DATA", "")
STARTS = ("m:balanced", "m:fresh", "m:fresh,c=4", "m:fresh,rs=5", "m:fresh,plus=4")


# ---- sets and scores


def check_disjoint(parts):
    prompts = {part: {row["prompt"] for row in rows} for part, rows in parts.items()}
    for part in ("train", "held"):
        assert len(prompts[part]) == len(parts[part])
        assert not prompts[part] & (prompts["test"] | prompts["worked"])
    assert not prompts["train"] & prompts["held"]
    assert len(parts["held"]) == sets.HELD and len(parts["test"]) >= sets.TESTED


@pytest.mark.parametrize("app", ["command", "extract"])
def test_sets_made_here_share_no_prompt(app):
    check_disjoint(sets.APPS[app](Path()))


@pytest.mark.skipif(not DATA, reason="LORAPORT_DATA names no published sets")
@pytest.mark.parametrize("app", ["arc", "math"])
def test_published_sets_share_no_prompt(app):
    check_disjoint(sets.APPS[app](Path(DATA)))


def test_records_of_extract_are_the_same_at_every_call_and_say_what_is_in_the_text():
    rows = extract.records(300)
    assert rows == extract.records(300) and rows[:20] == extract.records(20)
    for row in rows:
        answer = json.loads(row["answer"])
        assert tuple(answer) == extract.KEYS
        last, first = answer["who"].split()
        assert last.title() in row["prompt"] and f"{first}" in row["prompt"]
        assert answer["where"].title() in row["prompt"]
        assert answer["when"][:4] in row["prompt"]


def test_answers_are_scored_by_their_app():
    answer = '{"who": "PORTER A", "sum": "EUR 1.00"}'
    same = 'Sure: {"sum":"EUR 1.00","who":"PORTER A"} and so on'
    assert scoring.json_object(same, {"answer": answer}) == 1
    assert scoring.json_object(same.replace("1.00", "1"), {"answer": answer}) == 0
    more = '{"who": "PORTER A", "sum": "EUR 1.00", "x": 1}'
    assert scoring.json_object(more, {"answer": answer}) == 0
    assert extract.right_fields('{"who": "PORTER A"', answer) == [0, 0]
    assert extract.right_fields('{"who": "PORTER A"}', answer) == [1, 0]
    assert scoring.number("so 3 and\nThe answer is 1,200.\nQuestion: 7", {"answer": "1200.0"}) == 1
    assert scoring.number("none", {"answer": "0"}) == 0
    assert scoring.choice("gas: answer2 not answer1", {"answer": "answer2"}) == 1
    assert scoring.line(" go(x)\nmore", {"answer": "go(x)"}) == 1
    assert scoring.line(" go(x) more", {"answer": "go(x)"}) == 0


def test_a_tokenizer_that_spells_is_refused():
    model.check(lambda text: {"input_ids": text.split()})
    with pytest.raises(LoraportError, match="not understood"):
        model.check(lambda text: {"input_ids": list(text)})


# ---- starts


@pytest.fixture
def factors():
    rng = np.random.default_rng(0)
    return gauge.Factors(rng.normal(size=(12, 4)), rng.normal(size=(4, 10)))


@pytest.mark.parametrize("name", STARTS)
def test_transforms_keep_the_update(factors, name):
    start = gauge.parse(name)
    made = gauge.transformed(gauge.thin(factors), start, 6, (12, 10), 0, "x")
    assert made.a.shape == (6, 10)
    assert np.allclose(start.number("rs") * made.b @ made.a, factors.b @ factors.a, atol=1e-6)
    half = gauge.parse(f"{name},g=0.5")
    made = gauge.transformed(gauge.thin(factors), half, 6, (12, 10), 0, "x")
    assert np.allclose(half.number("rs") * made.b @ made.a, factors.b @ factors.a / 2, atol=1e-6)


def test_fresh_rows_have_the_length_of_a_fresh_loras(factors):
    made = gauge.transformed(gauge.thin(factors), gauge.parse("m:fresh,c=2"), 6, (12, 10), 0, "x")
    assert np.allclose(np.linalg.norm(made.a[:4], axis=1), 2 / np.sqrt(3))
    assert not made.b[:, 4:].any() and (np.abs(made.a[4:]) <= 1 / np.sqrt(10)).all()
    alone = gauge.transformed(gauge.thin(factors), gauge.parse("m:a_only"), 6, (12, 10), 0, "x")
    assert not alone.b.any() and np.allclose(alone.a[:4], made.a[:4] / 2)


def test_a_name_that_is_no_start_is_refused():
    for name in ("m", "m:other", "m:fresh,q=1"):
        with pytest.raises(ValueError, match="no start"):
            gauge.parse(name)
    assert gauge.parse("nothing:plus=4").number("plus") == 4


# ---- training, and the whole on pico models


def records(count):
    texts = pico.texts(count, seed=3)
    return [{"prompt": f"{n} {text}", "completion": " ba 3"} for n, text in enumerate(texts)]


def test_training_is_that_of_the_package(pico_pair, tmp_path):
    """Same order, schedule, loss and optimiser: the same losses from the same start."""
    rows = records(21)
    learner = Learner(str(pico_pair.new), rank=4, device="cpu")
    nothing = gauge.parse("nothing")
    gauge.place(learner.model, {}, nothing, 4, seed=0)
    learner.model.save_pretrained(str(tmp_path / "start"))
    losses = learner.train(learner.encoded(rows), Schedule(1e-2, epochs=3, batch_size=8), seed=1)
    told = train_lora(
        pico_pair.new,
        [Example(row["prompt"], row["completion"]) for row in rows],
        tmp_path / "trained",
        start=tmp_path / "start",
        settings=Settings(
            seed=1, learning_rate=1e-2, batch_size=8, epochs=3, device="cpu", dtype="float32"
        ),
    )
    lines = (tmp_path / "trained" / "loss.csv").read_text().split("\n")[1:-1]
    theirs = [float(line.split(",")[2]) for line in lines]
    assert told["steps"] == len(losses) == 9
    assert losses == pytest.approx(theirs, abs=1e-4)
    assert losses[-1] < losses[0]


def test_batches_are_one_permutation_an_epoch():
    rows = [{"input_ids": [n], "labels": [n]} for n in range(5)]
    drawn = [[row["labels"][0] for row in batch] for batch in _drawn(rows, 2, 6, seed=3)]
    assert [len(batch) for batch in drawn] == [2, 2, 1] * 2
    epochs = [sorted(n for batch in part for n in batch) for part in (drawn[:3], drawn[3:])]
    assert epochs == [list(range(5))] * 2
    assert drawn[:3] != drawn[3:]


def test_nats_and_answers_do_not_depend_on_the_batch(pico_pair):
    learner = Learner(str(pico_pair.new), rank=4, device="cpu")
    rows = learner.encoded(records(5))
    together = learner.nats(rows)
    assert together == pytest.approx([learner.nats([row])[0] for row in rows], rel=1e-4)
    core = learner.model.get_base_model()
    ids, labels = (torch.tensor([rows[0][key]]) for key in ("input_ids", "labels"))
    count = int((labels[:, 1:] != -100).sum())
    with torch.no_grad():
        whole = core(input_ids=ids, labels=labels).loss.item() * count
    assert together[0] == pytest.approx(whole, rel=1e-4)
    prompts = [row["prompt"] for row in records(4)]
    assert learner.answers(prompts, 5) == [learner.answers([p], 5)[0] for p in prompts]


def test_answers_in_bfloat16_leave_the_adapter_in_float32(pico_pair):
    learner = Learner(str(pico_pair.new), rank=4, device="cpu", dtype="bfloat16")
    rows = learner.encoded(records(6))
    gauge.place(learner.model, {}, gauge.parse("nothing"), 4, seed=0)
    learner.train(rows, Schedule(1e-2, epochs=1), seed=0)
    worn, before = learner.worn(), learner.nats(rows)
    assert len(learner.answers(["ba 3", "ba"], 3)) == 2
    assert all(torch.equal(a, b) for a, b in zip(worn, learner.weights, strict=True))
    assert {weight.dtype for weight in learner.weights} == {torch.float32}
    assert learner.nats(rows) == before
    learner.train(rows, Schedule(1e-2, epochs=1), seed=0)
    assert learner.nats(rows) != before
    learner.wear(worn)
    assert learner.nats(rows) == before


@pytest.fixture
def bench(pico_pair, tmp_path, monkeypatch):
    """One pair, one app, two steps a training; `m` is carried: an adapter of the new model."""
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["src", os.environ.get("PYTHONPATH", "")]))
    (tmp_path / "sets").mkdir()
    rows = records(40)
    tests = [row | {"answer": "ba 3"} for row in rows[30:]]
    parts = {"train": rows[:20], "held": rows[20:30], "test": tests, "worked": tests}
    for part, each in parts.items():
        sets.write(tmp_path / "sets" / f"a.{part}.jsonl", each)
    pico.make_adapter(
        tmp_path / "artifacts" / "p" / "a" / "m" / "lora_transferred",
        pico_pair.new, seed=3, targets=pico.ATTENTION,
    )  # fmt: skip
    content = yaml.safe_load(run.BENCH.read_text()) | {
        "built": str(tmp_path), "carried": str(tmp_path / "artifacts"), "rank": 4, "steps": 2,
        "models": {"old": str(pico_pair.old), "new": str(pico_pair.new)},
        "pairs": {"p": ["old", "new"]}, "gains": [0, 1],
        "apps": {"a": {"score": "line", "tokens": 4, "epochs": 1}},
    }  # fmt: skip
    path = tmp_path / "bench.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_harness_runs_from_adapters_to_tables(bench, tmp_path, monkeypatch):
    common = ["--bench", str(bench)]
    assert run.main(["full", *common, "--per-gpu", "2"]) == 0
    assert (tmp_path / "adapters" / "old" / "a" / "adapter_model.safetensors").exists()
    starts = ["--starts", "nothing", "m:fresh", "m:fresh,g=auto,qkv=auto"]
    assert run.main(["starts", *common, *starts, "--examples", "6", "0"]) == 0
    assert run.main(["gain", *common, *starts]) == 0
    assert run.main(["answers", *common]) == 0
    assert run.main(["taught", *common, *starts, "--examples", "6"]) == 0
    rows = {row["cell"]: row for row in run.lines(tmp_path / "cells")}
    assert len(rows) == 2 + 5 + 2 + 2 + 3 and not any("error" in row for row in rows.values())
    asked = {"stage": "starts", "pair": "p", "app": "a", "start": "m:fresh", "examples": 6}
    light = rows[json.dumps(asked, sort_keys=True)]
    assert set(light["rates"]) == set(light["rate"]) == set(light["seeds"])
    for seed, tried in light["rates"].items():  # each seed has its own best rate
        assert set(tried) == {"0.0003", "0.001", "0.003"}
        held = {float(rate): told["held"] for rate, told in tried.items()}
        assert held[light["rate"][seed]] == min(held.values()) == light["seeds"][seed]["held"]
    assert {len(seed["right"]) for seed in light["seeds"].values()} == {10}
    out = tmp_path / "real"
    monkeypatch.setattr("sys.argv", ["results", *common, "--out", str(out)])
    results.main()
    content = json.loads(out.with_suffix(".json").read_text())
    assert set(content["models"]) == {"old", "new"} and not content["failed"]
    assert {row["start"]: row["cells"] for row in content["verdicts"]} == {
        "m:fresh": 1,
        "m:fresh,g=auto,qkv=auto": 1,
        "chosen": 1,
        "m:fresh taught": 1,
        "m:fresh,g=auto,qkv=auto taught": 1,
    }
    assert "| m:fresh | 6 |" in out.with_suffix(".md").read_text()
    # what is done is not done again
    before = sum(1 for _ in run.lines(tmp_path / "cells"))
    assert run.main(["gain", *common, *starts]) == 0
    assert sum(1 for _ in run.lines(tmp_path / "cells")) == before


def test_differences_are_paired_by_item_and_seed():
    rng = np.random.default_rng(0)
    items = rng.random(200) < 0.5
    better = items | (rng.random((3, 200)) < 0.2)
    row = results.paired(better.astype(float) - items)
    assert row["low"] < row["mean"] < row["high"] and row["low"] > 0 and row["p"] < 0.001
    same = results.paired(np.zeros((3, 200)))
    assert same == {"mean": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
    # seeds that differ widen the interval
    apart = results.paired(np.repeat([[-0.3], [0.0], [0.6]], 200, axis=1))
    assert apart["low"] < 0 < apart["high"]


def test_holm_corrects_in_the_order_given():
    assert results.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_a_cell_that_fails_is_told_and_the_others_go_on(bench, tmp_path):
    given = ["--bench", str(bench), "--starts", "missing:fresh", "m:fresh", "--examples", "0"]
    assert run.main(["starts", *given]) == 1
    told = {row["start"]: row for row in run.lines(tmp_path / "cells")}
    assert "FileNotFoundError" in told["missing:fresh"]["error"]
    assert len(told["m:fresh"]["seeds"][""]["right"]) == 10


@pytest.fixture
def upgrades(bench, pico_pair, tmp_path):
    """Adapters of both models that have learned to say one thing, and another of the new one."""
    rows = [row | {"answer": "ba 3"} for row in records(160)]
    sets.write(tmp_path / "sets" / "a.train.jsonl", rows[:120])
    sets.write(tmp_path / "sets" / "a.test.jsonl", rows[120:])
    pairs = [Example(row["prompt"], row["completion"]) for row in rows[:60]]
    how = Settings(learning_rate=3e-2, batch_size=8, epochs=6, device="cpu", dtype="float32")
    for side in ("old", "new"):
        base, home = getattr(pico_pair, side), tmp_path / "adapters" / side
        pico.make_adapter(home / "b", base, seed=3, targets=pico.ATTENTION)
        train_lora(base, pairs, home / "a", start=home / "b", settings=how)
    content = yaml.safe_load(bench.read_text()) | {
        "apps": {app: {"score": "line", "match": "exact", "tokens": 8} for app in "ab"},
        "only": {"p": ["a"]}, "prompts": 110,
        "at_once": {"answers": 8, "targets": 8},
        "upgrades": [{"starts": ["m"], "teachers": ["old"], "labels": [0, 4], "seeds": [0]}],
    }  # fmt: skip
    bench.write_text(yaml.safe_dump(content))
    return bench


def test_upgrades_and_planted_failures_are_cells_too(upgrades, tmp_path, monkeypatch):
    common = ["--bench", str(upgrades)]
    assert run.main(["upgraded", *common]) == 0
    assert run.main(["planted", *common]) == 0
    done = run.lines(tmp_path / "cells", "upgraded")
    assert {row["labels"] for row in done} == {0, 4}
    for row in done:
        assert row["report"]["prompts"]["labelled"] == row["labels"]
        assert row["scores"]["old"]["score"] > row["scores"]["old_bare"]["score"]
        assert {len(each["right"]) for each in row["scores"].values()} == {40}
    (planted,) = run.lines(tmp_path / "cells", "planted")
    bad = {name: row for name, row in planted["adapters"].items() if name != "good"}
    assert len(bad) == 5
    assert bad["zero"]["labels"] == bad["zero"]["agreement"] == "RETRAIN"
    assert run.main(["certainty", *common]) == 0
    (asked,) = run.lines(tmp_path / "cells", "certainty")
    for part in ("held", "trained"):
        assert asked[part]["teacher"] in ("old", "context") and 0 <= asked[part]["old"] <= 1
    monkeypatch.setattr("sys.argv", ["results", *common, "--out", str(tmp_path / "upgrades")])
    upgrade_results.main()
    content = json.loads((tmp_path / "upgrades.json").read_text())
    assert [row["labels"] for row in content["upgraded"]] == [0, 4]
    for row, cell in zip(content["upgraded"], sorted(done, key=lambda r: r["labels"]), strict=True):
        gap = cell["scores"]["upgraded"]["score"] - cell["scores"]["old"]["score"]
        assert row["against"]["old"]["mean"] == pytest.approx(gap)
    told = (tmp_path / "upgrades.md").read_text()
    for row in ("| p | a | 110 | 4 | old | m", "| p | a | zero | 0.0 | RETRAIN | RETRAIN |"):
        assert row in told


def test_a_start_can_be_taught_on_a_small_set_and_fine_tuned_on_it(upgrades, tmp_path, monkeypatch):
    common = ["--bench", str(upgrades), "--apps", "a", "--examples", "12"]
    assert run.main(["lessons", *common, "--prompts", "20"]) == 0
    lessons = run.lines(tmp_path / "cells", "lessons")
    assert [row["seed"] for row in lessons] == [0, 1, 2]
    for row in lessons:
        told = row["report"]["prompts"]
        assert (told["given"], told["labelled"]) == (12, 12)
        assert told["synthetic"]["kept"] > 0
        adapter = tmp_path / "taught" / "p" / "a" / f"12.20.{row['seed']}"
        assert (adapter / "adapter_model.safetensors").exists()
    starts = ["--starts", "nothing", "nothing:epochs=2", "taught:as_is,prompts=20"]
    assert run.main(["starts", *common, *starts]) == 0
    rows = {row["start"]: row for row in run.lines(tmp_path / "cells", "starts")}
    for name in ("nothing", "taught:as_is,prompts=20"):
        assert {len(each["left_out"]) for each in rows[name]["seeds"].values()} == {4}
    monkeypatch.setattr("sys.argv", ["results", *common[:2], "--out", str(tmp_path / "real")])
    results.main()
    (told,) = json.loads((tmp_path / "real.json").read_text())["pairs"]["p"].values()
    named = {row["start"]: row for row in told["starts"]}
    mixed = named[f"{results.DEFAULT},prompts=20"]
    taught = {"nothing": "nothing", "taught:as_is": "taught:as_is,prompts=20"}
    picked = [taught[mixed["from"][seed]] for seed in "012"]
    scores = [rows[name]["seeds"][seed]["score"] for name, seed in zip(picked, "012", strict=True)]
    assert mixed["score"] == pytest.approx(np.mean(scores))
    assert mixed["less"]["score"]["low"] <= mixed["less"]["score"]["mean"]


def test_a_taught_start_is_taken_where_records_left_out_say_so():
    nothing = {"0": {"left_out": [2.0, 2.1, 1.9]}, "1": {"left_out": [2.0, 1.0, 3.0]}}
    taught = {"0": {"left_out": [1.0, 1.2, 0.9]}, "1": {"left_out": [3.0, 0.5, 2.9]}}
    assert results.taught_where_ahead(nothing, taught) == {"0": "taught:as_is", "1": "nothing"}
    taught["0"]["left_out"] = []  # its training ended in NaN
    assert results.taught_where_ahead(nothing, taught)["0"] == "nothing"
