"""The comparison of methods, from hand-made score files: known answers, refusals, failures."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_tables import RUN, SCHEMAS

from loraport import methods
from loraport.artifacts import write_json
from loraport.errors import LoraportError
from loraport.planning import contenders
from loraport.planning.checks import load
from loraport.report import compare, plots, plots_compared, render

N = 40
# stage of a score file -> items that are right, from the first one on; nats of every item's answer
BASELINES = {
    "new": (4, 10.0),
    "lora_full": (36, 2.0),
    "lora_small_matched_seed0": (18, 6.0),
    "lora_small_matched_seed1": (22, 8.0),
}
METHOD = {"transferred": (8, 8.0), "finetuned_seed0": (26, 4.0), "finetuned_seed1": (22, 6.0)}


def score_file(path, right, nats):
    """A score file with one task; of the items the first `right` ones are right."""
    items = [int(i < right) for i in range(N)]
    task = {"metric": "acc", "value": right / N, "low": 0.0, "high": 1.0, "n": N, "items": items}
    task |= {"items_sha256": "same", "nll": nats, "item_nll": [nats] * N}
    run = {"seconds": 2.0, "peak_mib": 500.0, "tasks": {"t": RUN}}
    content = {"stage": Path(path).stem, "tasks": {"t": task}, "versions": {}, "run": run}
    write_json(path, "eval", {}, content)


def spec(model, hidden):
    sizes = {"layers": 2, "hidden": hidden, "intermediate": 2 * hidden, "heads": 4, "kv_heads": 4}
    dimensions = {**sizes, "head_dim": hidden // 4, "vocabulary": 100}
    path = Path(f"artifacts/models/{model}/spec.json")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"dimensions": dimensions}))


@pytest.fixture
def config(tmp_path, monkeypatch):
    """One pair of unequal width with one app, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    Path("adapters.tsv").write_text("app\tmodel\tsource\ttask\nsums\told\tgiven\tt\n")
    spec("old", 16)
    spec("new", 32)
    content = {
        "models": {"old": {"source": "old"}, "new": {"source": "new"}},
        "pairs": {"p": {"old": "old", "new": "new"}},
        "adapters": "adapters.tsv",
        "calibration": {"texts": "texts.txt"},
        "tasks": {"t": {"eval": ["t"]}},
        "finetune": {"seeds": [0, 1]},
        "variants": {"left_out": {"method": "lorasuite", "mapping": {"wh": "identity"}}},
    }
    return load(content, SCHEMAS)


@pytest.fixture
def chosen(config):
    """Only a method that serves the pair, one that does not, and a variant that does not."""
    config.content["compare"]["methods"] = ["lorasuite", "simplecopy", "left_out"]
    return config


def logs_of(every):
    """Logs that a comparison reads costs from."""
    own = (run[key] for run in contenders.runs_of(every) for key in ("transfer_log", "maps_log")
           if run.get(key))  # fmt: skip
    return {*own, *(log for entry in every for log in entry["shared"])}


def scored(config):
    """All score files of the comparison, written, and logs as of what was made elsewhere."""
    every = contenders.entries(config, "p", "sums")
    for log in map(Path, logs_of(every)):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
    for run in contenders.runs_of(every):
        stage = Path(run["scores"]).stem
        score_file(run["scores"], *{**BASELINES, **METHOD}[stage])
    reference = contenders.reference(config, "p", "sums")
    score_file(reference[0]["scores"], 30, 1.0)
    return every, reference


def by_row(table):
    return {
        (row["method"] or row["stage"], row["stage"], row.get("seed", "")): row for row in table
    }


def test_methods_and_variants_are_found_by_listing(config):
    every = contenders.entries(config, "p", "sums")
    assert {e["method"] for e in every} == {"", *methods.offered(), "left_out"}
    assert {e["variant_of"] for e in every if e["method"] == "left_out"} == {"lorasuite"}


def test_a_method_that_is_not_offered_is_compared_where_it_is_named_alone(config):
    name = "aligned_sequential"
    assert name not in contenders.names(config)
    assert name not in {entry["method"] for entry in contenders.entries(config, "p", "sums")}
    config.content["compare"]["methods"] = [name]
    assert contenders.names(config) == [name]
    assert name in {entry["method"] for entry in contenders.entries(config, "p", "sums")}


def test_what_the_maps_take_is_the_sum_of_their_logs_and_each_must_be_there(chosen):
    every, reference = scored(chosen)
    entry = next(e for e in every if e["method"] == "lorasuite")
    assert [Path(log).stem for log in entry["shared"]] == [
        *("embedding", "cka", "layers", "heads", "lorasuite"),
    ]
    for seconds, log in enumerate(entry["shared"], 1):
        Path(log).write_text(json.dumps({"seconds": seconds, "peak_mib": 1.0}) + "\n")
    row = by_row(compare.comparison("sums", every, reference, {}))["lorasuite", "transferred", ""]
    assert row["pair_s"] == 15
    Path("artifacts/p/logs/cka.log").unlink()
    with pytest.raises(LoraportError, match="log of rule cka is missing"):
        compare.comparison("sums", every, reference, {})


def test_maps_of_one_adapter_are_none_of_a_pair(config):
    config.content["compare"]["methods"] = ["aligned_sequential"]
    every = [e for e in contenders.entries(config, "p", "sums") if e["method"]]
    own = {run["maps_log"] for run in contenders.runs_of(every)}
    assert own == {"artifacts/p/logs/sums/maps/aligned_sequential.log"}
    assert not [log for entry in every for log in entry["shared"] if "/logs/maps/" in log]


def test_what_can_not_serve_the_pair_says_so_and_nothing_of_it_runs(config):
    every = contenders.entries(config, "p", "sums")
    refused = {e["method"]: e for e in every if e["refused"]}
    assert {"simplecopy", "prolora", "left_out"} <= set(refused)
    assert not {"lorasuite", "crosslora", "aligned"} & set(refused)
    assert all(not e["runs"] for e in refused.values())
    assert "equal hidden sizes" in refused["left_out"]["refused"]


def test_a_model_that_only_the_hub_knows_refuses_nothing_yet(config):
    Path("artifacts/models/new/spec.json").unlink()
    config.content["models"]["new"]["source"] = "someone/model"
    assert contenders.refusal(config, "p", "simplecopy") == ""


def test_known_numbers_over_seeds(chosen):
    every, reference = scored(chosen)
    table = by_row(compare.comparison("sums", every, reference, {}))
    tuned = table["lorasuite", "finetuned", ""]
    assert tuned["seeds"] == 2
    assert tuned["average"] == pytest.approx(24 / N)
    assert tuned["average_spread"] == pytest.approx(np.std([26 / N, 22 / N], ddof=1))
    assert tuned["retention"] == pytest.approx((24 - 4) / (36 - 4))
    assert tuned["nll"] == pytest.approx(5) and tuned["nll_spread"] == pytest.approx(2**0.5)
    assert tuned["nll_retention"] == pytest.approx((10 - 5) / (10 - 2))
    assert tuned["difference"] == pytest.approx((24 - 20) / N)
    assert tuned["nll_difference"] == pytest.approx(5 - 7)
    assert tuned["negative_flips"] == pytest.approx(((30 - 26) + (30 - 22)) / 2)
    # seed 0: eight items one way; seed 1: none at all
    assert (tuned["p_low"], tuned["p_high"]) == pytest.approx((2 / 2**8, 1))
    assert tuned["low"] < tuned["average"] < tuned["high"]


def test_each_seed_has_a_row_and_is_compared_with_its_own(chosen):
    every, reference = scored(chosen)
    table = by_row(compare.comparison("sums", every, reference, {}))
    first = table["lorasuite", "finetuned", 0]
    assert first["difference"] == pytest.approx((26 - 18) / N)
    assert first["p_low"] == first["p_high"] == pytest.approx(2 / 2**8)
    assert table["lora_small_matched", "lora_small_matched", 1]["average"] == pytest.approx(22 / N)
    start = table["lorasuite", "transferred", ""]
    assert start["seeds"] == 1 and "average_spread" not in start
    assert start["difference"] == pytest.approx((8 - 20) / N)


def test_refusals_and_failures_are_rows_and_hide_nothing(chosen):
    chosen.content["compare"]["methods"] = ["lorasuite", "crosslora", "simplecopy"]
    every, reference = scored(chosen)
    missing = {
        run["scores"]: "maps: broken"
        for entry in every
        for run in entry["runs"]
        if entry["method"] == "crosslora"
    }
    table = compare.comparison("sums", every, reference, missing)
    notes = {row["row"]: row["note"] for row in table if row.get("note")}
    assert (
        notes["crosslora, carried"]
        == notes["crosslora, fine-tuned on 100 examples"]
        == "failed: maps: broken"
    )
    assert notes["simplecopy"].startswith("not served: simplecopy can't serve this pair")
    assert by_row(table)["lorasuite", "finetuned", ""]["retention"] > 0


def test_without_baselines_scores_are_still_told(chosen):
    every, reference = scored(chosen)
    missing = {run["scores"]: "failed" for e in every if not e["method"] for run in e["runs"]} | {
        reference[0]["scores"]: "failed"
    }
    row = by_row(compare.comparison("sums", every, reference, missing))[
        "lorasuite", "finetuned", ""
    ]
    assert row["average"] == pytest.approx(24 / N)
    assert not {"retention", "difference", "negative_flips"} & set(row)


def test_as_transferred_alone(chosen):
    chosen.content["compare"]["finetuned"] = False
    every = contenders.entries(chosen, "p", "sums")
    assert {e["stage"] for e in every if e["method"]} == {"transferred"}


def test_tables_show_seeds_together_and_keep_them_apart(chosen, tmp_path):
    every, reference = scored(chosen)
    table = compare.comparison("sums", every, reference, {})
    names = {kind: str(tmp_path / f"sums.methods.{kind}") for kind in ("csv", "md", "html")}
    compare.write_comparison(table, "sums", names)
    again = render.read_csv(names["csv"])
    assert len(again) == len(table) == 3 + 2 + 1 + 1 + 2 + 2  # rows; seeds of baseline and LFT
    shown = render.text(compare.over_seeds(again))
    assert shown == render.text(compare.over_seeds(table))
    assert "60.0 ± 7.1" in shown and "not served" in shown
    assert Path(names["md"]).read_text().count("\n| ") == 2 + 7
    for figure in (plots_compared.methods, plots_compared.method_costs):
        plots.save(figure(compare.over_seeds(again)), tmp_path / "x.svg")
    assert "http" not in Path(names["html"]).read_text()
