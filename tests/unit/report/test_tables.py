"""Tables from hand-made score files: known answers, what is shown where there is no number."""

import json
from pathlib import Path

import pytest

from loraport.artifacts import write_json
from loraport.errors import LoraportError
from loraport.planning import rows
from loraport.planning.checks import load
from loraport.report import render, tables

SCHEMAS = Path(__file__).parents[3] / "workflow" / "schemas"
N = 40
RIGHT = {  # stage -> items that are right, from the first one on
    "old": 2,
    "old_lora": 30,
    "new": 4,
    "transferred": 4,
    "lora_small": 10,
    "lora_small_matched": 20,
    "finetuned": 22,
    "lora_full": 36,
}
RUN = {"seconds": 2.5, "peak_mib": 700.0, "device": "x86_64", "threads": 2}


def score_file(path, stage, tasks, metric="acc", sha="s"):
    """Write a score file; `tasks` maps names to items."""
    content = {
        "stage": stage,
        "tasks": {
            name: {
                "metric": metric,
                "value": sum(items) / len(items),
                "low": 0.1,
                "high": 0.9,
                "n": len(items),
                "items": items,
                "items_sha256": sha + name,
                "nll": 1.5,
            }
            for name, items in tasks.items()
        },
        "versions": {"python": "3.11"},
        "run": {"seconds": 2.5, "peak_mib": 700.0, "tasks": dict.fromkeys(tasks, RUN)},
    }
    if len(tasks) > 1:
        mean = sum(sum(items) / len(items) for items in tasks.values()) / len(tasks)
        content["average"] = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}
    write_json(path, "eval", {}, content)


DONE = {"rule": "transferred", "status": "done", "seconds": 0.5, "peak_mib": 5.0}


def write_log(path, reason, **record):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(f"{reason}\n{json.dumps(record)}\n")


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A configuration with one pair and one app, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    Path("adapters.tsv").write_text("app\tmodel\tsource\ttask\nsums\told\tgiven\tt\n")
    content = {
        "models": {"old": {"source": "old"}, "new": {"source": "new"}},
        "pairs": {"p": {"old": "old", "new": "new"}},
        "adapters": "adapters.tsv",
        "calibration": {"texts": "texts.txt"},
        "tasks": {"t": {"eval": ["t"]}},
        "report": {"methods": ["aligned"]},
        "finetune": {"seeds": [0, 1]},
    }
    return load(content, SCHEMAS)


@pytest.fixture
def found(config):
    """The app's rows, the score files of all stages written, those of the method missing."""
    listed = rows.rows(config, "p", "sums")
    for row in listed[:8]:
        items = [int(i < RIGHT[row["stage"]]) for i in range(N)]
        score_file(row["scores"], row["stage"], {"t": items})
    for log in {row.get(key) for row in listed for key in ("transfer_log", "start_log")} - {
        "",
        None,
    }:
        write_log(log, "done", **DONE)
    return listed


def build(found, **missing):
    missing |= {row["scores"]: "maps: shapes differ" for row in found[8:]}
    return tables.make_table("sums", found, missing)


def test_rows_are_the_published_ones_then_the_methods(found):
    labels = [row["label"] for row in found]
    assert labels == [
        "old model",
        "old model + adapter",
        "new model",
        "carried by lorasuite",
        "new LoRA on 100 examples, as published",
        "new LoRA on 100 examples",
        "fine-tuned on 100 examples from the best start",
        "new LoRA on all data",
        "aligned, carried",
        "aligned, fine-tuned on 100 examples, seed 0",
        "aligned, fine-tuned on 100 examples, seed 1",
    ]


def test_known_numbers(found):
    table = {row["stage"]: row for row in reversed(build(found)[:8])}
    tuned = table["finetuned"]
    assert tuned["average"] == tuned["score t"] == pytest.approx(22 / N)
    assert tuned["retention"] == pytest.approx((22 - 4) / (36 - 4))
    assert (tuned["negative_flips"], tuned["positive_flips"]) == (8, 0)
    assert tuned["p_matched"] == pytest.approx(0.5)  # two discordant items, both one way
    assert table["new"]["retention"] == 0
    assert table["lora_full"]["retention"] == 1
    assert table["lora_full"]["positive_flips"] == 6
    assert table["lora_small_matched"].get("p_matched") is None
    assert table["old_lora"].get("retention") is None


def test_only_the_same_seed_is_tested_against_the_baseline(found):
    for row in found[8:]:
        score_file(row["scores"], row["stage"], {"t": [int(i < 22) for i in range(N)]})
    table = tables.make_table("sums", found, {})
    tested = {row["row"]: row.get("p_matched") for row in table[8:]}
    assert (
        tested["aligned, fine-tuned on 100 examples, seed 0"]
        == tested["aligned, carried"]
        == pytest.approx(0.5)
    )
    assert tested["aligned, fine-tuned on 100 examples, seed 1"] is None


def test_retention_is_undefined_where_there_is_little_to_gain(found):
    full = next(row for row in found if row["stage"] == "lora_full")
    score_file(full["scores"], "lora_full", {"t": [int(i < 6) for i in range(N)]})
    table = build(found)
    assert {row["retention"] for row in table if row.get("retention") is not None} == {"undefined"}
    assert sum("retention undefined" in row.get("note", "") for row in table) == 1
    assert "undefined" in render.text(table)


def test_a_failure_is_shown_with_its_reason(found):
    table = build(found)
    assert [row["note"] for row in table[8:]] == ["failed: maps: shapes differ"] * 3
    for shown in (render.text(table), render.markdown("x", table), render.page("x", table)):
        assert shown.count("maps: shapes differ") == 3
        assert "aligned, fine-tuned on 100 examples, seed 1" in shown


def test_only_failures_are_left_out_and_only_where_asked(config, found):
    wanted = [row["scores"] for row in found]
    assert rows.split(found, show=False) == (wanted, {})
    assert rows.split(found, show=True) == (wanted, {})  # not made yet: no log tells of a failure
    log = Path("artifacts/p/logs/maps/aligned.log")
    log.parent.mkdir(parents=True)
    record = {"rule": "maps", "status": "failed"}
    log.write_text(f"reading\nshapes differ. Got: 3.\n{json.dumps(record)}\n")
    left, missing = rows.split(found, show=True)
    assert left == wanted[:8]
    assert set(missing.values()) == {"maps: shapes differ. Got: 3."}
    assert rows.split(found, show=False) == (wanted, {})


@pytest.fixture
def own_maps(config) -> list:
    """Rows of a configured method whose maps are an adapter's own; no score is there."""
    config.content["transfer"]["method"] = "aligned_sequential"
    config.content["report"]["methods"] = ["aligned_sequential"]
    return rows.rows(config, "p", "sums")


def test_failed_maps_of_an_adapter_are_the_reason_of_all_that_is_made_by_them(own_maps):
    log = "artifacts/p/logs/sums/maps/aligned_sequential.log"
    write_log(log, "too few texts", rule="adapter_maps", status="failed")
    _, missing = rows.split(own_maps, show=True)
    told = {row["label"] for row in own_maps if row["scores"] in missing}
    bare = {"old model", "old model + adapter", "new model", "new LoRA on all data"}
    assert told == {row["label"] for row in own_maps} - bare
    assert set(missing.values()) == {"adapter_maps: too few texts"}


def test_answers_that_could_not_be_written_are_the_reason_of_what_is_trained_on_them(config):
    log = "artifacts/p/logs/sums/own_answers/100.log"
    write_log(log, "none of the prompts", rule="own_answers", status="failed")
    config.content["finetune"]["small"]["examples"] = 50  # answers of its own
    told = {}
    for answers in ("given", "own"):
        config.content["finetune"]["answers"] = answers
        found = rows.rows(config, "p", "sums")
        _, missing = rows.split(found, show=True)
        told[answers] = [row["stage"] for row in found[:8] if row["scores"] in missing]
    assert told == {"given": [], "own": ["lora_small_matched", "finetuned"]}
    assert set(missing.values()) == {"own_answers: none of the prompts"}
    assert log in rows.baseline_logs(config, "p", "sums")


def test_maps_of_an_adapter_count_as_its_transfer(own_maps):
    for name, seconds in (("transferred", 0.5), ("maps/aligned_sequential", 40.0)):
        log = f"artifacts/p/logs/sums/{name}.log"
        write_log(log, "done", status="ok", seconds=seconds, peak_mib=10 * seconds,
                  gpu_peak_mib=600 * seconds)  # fmt: skip
    row = next(row for row in own_maps if row["stage"] == "transferred")
    cost = tables.costs(row, {"run": {"seconds": 1.0, "peak_mib": 5.0, "tasks": {}}})
    assert (cost["transfer_s"], cost["peak_mib"]) == (40.5, 400.0)
    assert cost["gpu_peak_mib"] == 24_000.0


def test_a_missing_log_is_an_error_and_an_empty_one_was_made_elsewhere(found):
    row = next(row for row in found if row["stage"] == "transferred")
    score = {"run": {"seconds": 1.0, "peak_mib": 5.0, "tasks": {}}}
    log = Path(row["transfer_log"])
    log.write_text("")
    assert tables.costs(row, score)["transfer_s"] is None
    log.unlink()
    with pytest.raises(LoraportError, match=rf"rule transferred is missing.*no file {log}.*touch"):
        tables.costs(row, score)
    with pytest.raises(LoraportError, match="rule transferred is missing"):
        build(found)
    bare = next(row for row in found if row["stage"] == "lora_full")  # a given adapter: none
    assert tables.costs(bare, score)["transfer_s"] is None


def test_an_unexpected_failure_is_told_by_its_message(tmp_path):
    log = tmp_path / "x.log"
    lines = ["unexpected KeyError: 'q' (traceback in a.log)", "Traceback", "  line 1", "KeyError"]
    log.write_text("\n".join([*lines, json.dumps({"rule": "maps", "status": "failed"})]) + "\n")
    assert rows.failure([str(log)]) == "maps: unexpected KeyError: 'q'"


def test_average_over_tasks_is_unweighted(found):
    for row in found[:8]:
        right = RIGHT[row["stage"]]
        items = {
            "a": [int(i < right) for i in range(N)],
            "b": [int(i < right // 4) for i in range(10)],
        }
        score_file(row["scores"], row["stage"], items)
    table = {row["stage"]: row for row in reversed(build(found)[:8])}
    mean = {stage: (RIGHT[stage] / N + RIGHT[stage] // 4 / 10) / 2 for stage in RIGHT}
    expected = (mean["finetuned"] - mean["new"]) / (mean["lora_full"] - mean["new"])
    assert table["finetuned"]["average"] == pytest.approx(mean["finetuned"])
    assert table["finetuned"]["retention"] == pytest.approx(expected)
    assert render.header(list(table.values()))[1:3] == ["a", "b"]


def test_translations_have_no_flips(found):
    for row in found[:8]:
        items = [RIGHT[row["stage"]] + 0.5 * i for i in range(N)]
        score_file(row["scores"], row["stage"], {"t": items}, metric="chrf")
    table = build(found)
    assert all(row.get("negative_flips") is None for row in table)
    assert table[6]["retention"] == pytest.approx((22 - 4) / (36 - 4))


def test_other_items_are_refused(found):
    path = next(row["scores"] for row in found if row["stage"] == "old_lora")
    score_file(path, "old_lora", {"t": [1] * N}, sha="other")
    with pytest.raises(LoraportError, match="were scored on other items"):
        build(found)


def test_costs_come_from_training_and_logs(found):
    tuned = next(row for row in found if row["stage"] == "finetuned")
    folder = Path(tuned["adapter"])
    folder.mkdir(parents=True)
    (folder / "training.json").write_text(json.dumps({"run": {"seconds": 9.5, "peak_mib": 900.0}}))
    log = Path(tuned["transfer_log"])
    log.write_text(json.dumps({"seconds": 1.5, "peak_mib": 100.0}) + "\n")
    start = {"seconds": 60.0, "peak_mib": 1000.0, "gpu_peak_mib": 70.0}  # trials and a teaching
    Path(tuned["start_log"]).write_text(json.dumps(start) + "\n")
    row = next(row for row in build(found) if row["stage"] == "finetuned")
    assert (row["transfer_s"], row["train_s"], row["eval_s"]) == (1.5, 69.5, 2.5)
    assert (row["peak_mib"], row["gpu_peak_mib"]) == (1000, 70)
    assert next(r for r in build(found) if r["stage"] == "new")["train_s"] is None


def test_the_row_of_the_best_start_says_which_it_is(found, tmp_path):
    tuned = next(row for row in found if row["stage"] == "finetuned")
    assert all(not row["start"] for row in build(found))  # made elsewhere: nothing is known
    write_json(f"{tuned['start']}/start.json", "start", {}, {"start": "taught"})
    names = {kind: str(tmp_path / f"sums.{kind}") for kind in ("csv", "md", "html")}
    tables.write_table(build(found), "sums", names)
    rows = render.read_csv(names["csv"])
    assert {row["stage"]: row["start"] for row in rows if row["start"]} == {"finetuned": "taught"}
    told = "fine-tuned on 100 examples from the best start: taught"
    for kind, before, after in (("md", "| ", " |"), ("html", "<td>", "</td>")):
        assert before + told + after in Path(names[kind]).read_text()
    terminal = render.text(rows)
    assert terminal.count("best start: taught") == 1
    assert max(map(len, terminal.splitlines())) <= 100


def test_csv_keeps_what_is_shown(found, tmp_path):
    table = build(found)
    names = {kind: str(tmp_path / f"sums.{kind}") for kind in ("csv", "md", "html")}
    tables.write_table(table, "sums", names)
    again = render.read_csv(names["csv"])
    assert render.text(again) == render.text(table)
    assert Path(names["md"]).read_text().count("\n| ") == 2 + len(table)
    assert "http" not in Path(names["html"]).read_text()


def test_terminal_table(found, tmp_path, capsys):
    names = {kind: str(tmp_path / f"sums.{kind}") for kind in ("csv", "md", "html")}
    tables.write_table(build(found), "sums", names)
    assert tables.main([names["csv"]]) == 0
    shown = capsys.readouterr().out
    assert "fine-tuned on 100" in shown and "sums.md" in shown
    lines = shown.partition("With times")[0].splitlines()
    assert max(map(len, lines)) <= 100
    assert tables.main([str(tmp_path / "none.csv")]) == 2
    assert "cannot be read" in capsys.readouterr().err
