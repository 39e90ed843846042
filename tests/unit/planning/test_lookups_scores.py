"""Look-ups of trainings, scores, reports, sweeps and merges."""

from pathlib import Path

import pytest
from lookupcase import APP, PAIR, Wildcards

from loraport.errors import LoraportError
from loraport.planning import layout


def test_a_seed_in_a_target_is_the_trainings_own(made):
    look = made(finetune={"seeds": [5, 6], "examples": 8})
    assert look.training("lft")(APP)["seed"] == 5
    assert look.training("lft")(Wildcards(pair="p", app="a", seed="6"))["seed"] == 6
    assert look.small_settings("small")(APP)["warmup_steps"] == 100


def test_a_training_on_more_examples_than_there_are_is_refused_before_anything_runs(made):
    look = made(finetune={"examples": 21, "small": {"examples": 20}, "full": {"examples": 30}})
    assert look.small_files("small")(APP) == ["sums.jsonl"]
    with pytest.raises(LoraportError, match=r"21 asked, 20 in sums\.jsonl"):
        look.small_files("lft")(APP)
    with pytest.raises(LoraportError, match="30 asked"):
        look.full_files(Wildcards(model="new", app="a"))
    assert made().full_files(Wildcards(model="new", app="a")) == [("given", "sums.jsonl")]


def test_stages_of_the_new_model_are_scored_one_by_one_where_failures_are_shown(made):
    look, shown = made(), made(report={"failures": "show"})
    assert look.score_files("new")[0] == "artifacts/{pair}/{app}/eval/new.json"
    assert look.scores_log("new") == layout.LOGS["evaluated_new"]
    assert shown.score_files("new") == layout.SCORES
    assert shown.scores_log("new") == layout.STAGE_LOG
    assert shown.score_files("old") == look.score_files("old")
    one = Wildcards(pair="p", app="b", stage="transferred")
    assert shown.pair_adapters("new")(one) == {"transferred": "artifacts/p/b/lora_transferred"}


def test_what_the_run_page_tells_of_is_what_was_needed_once(made):
    logs = made(report={"methods": ["aligned"]}).account_logs(PAIR)
    assert "artifacts/p/logs/moments.log" in logs and "artifacts/p/logs/maps/aligned.log" in logs
    assert "artifacts/p/logs/moments.log" not in made().account_logs(PAIR)
    own = made(transfer={"method": "aligned_sequential"}).account_logs(PAIR)
    assert "artifacts/p/logs/output_maps/aligned_sequential.log" in own
    assert "artifacts/p/logs/maps/aligned_sequential.log" not in own


def test_apps_with_a_task_are_reported(made):
    look = made()
    assert look.reported_apps(PAIR) == ["a", "b"]
    assert look.of_apps(f"{layout.TABLE}.csv")(PAIR)[1] == "artifacts/p/tables/b.csv"
    assert look.comparisons(PAIR) == []
    shown = made(report={"comparison": True, "apps": ["b"]}).comparisons(PAIR)
    assert shown == [
        "artifacts/p/tables/b.methods.html",
        "artifacts/p/b/plots/methods.svg",
        "artifacts/p/plots/methods.svg",
    ]
    Path("adapters.tsv").write_text("app\tmodel\tsource\ttask\na\told\tgiven\t\n")
    with pytest.raises(LoraportError, match="no app of old has a task"):
        made().reported_apps(PAIR)


def test_points_of_a_sweep_start_from_the_cut_adapter_or_the_carried_one(made):
    look = made(sweeps={"rank": [2], "examples": [8]})
    rank = Wildcards(pair="p", app="b", name="rank", value="2")
    examples = Wildcards(pair="p", app="b", name="examples", value="8")
    assert look.point_start(rank) == "artifacts/p/b/sweeps/rank/2/lora_transferred"
    assert look.point_start(examples) == "artifacts/p/b/lora_transferred"
    assert look.point(rank) == {"rank": 2}
    assert look.point_settings()(examples)["examples"] == 8
    assert look.point_transfer(rank)["adapter"] == "artifacts/p/b/sweeps/rank/2/lora_source"
    fitted = made(transfer={"method": "aligned_sequential"}, sweeps={"rank": [2]})
    with pytest.raises(LoraportError, match="fits maps to a whole one"):
        fitted.point_transfer(rank)
    points = look.sweep_points(examples)
    assert [point["value"] for point in points] == ["", "", "8", "8"]
    assert points[-1]["adapter"] == "artifacts/p/b/sweeps/examples/8/lora_small_matched"


def test_points_of_a_sweep_of_epochs_differ_in_epochs_alone(made):
    look = made(sweeps={"epochs": [1, 2.5]})
    few, more = (
        Wildcards(pair="p", app="b", name="epochs", value=value)
        for value in look.sweep_values(Wildcards(name="epochs"))
    )
    settings = [look.point_settings()(point) for point in (few, more)]
    assert [each.pop("epochs") for each in settings] == [1, 2.5]
    assert settings[0] == settings[1]
    assert look.point_start(few) == look.point_start(more) == "artifacts/p/b/lora_transferred"
    assert len(look.sweep_points(few)) == 2 + 2 * 2
    with pytest.raises(LoraportError, match="the same number of steps"):
        made(finetune={"max_steps": 3}).point_files()(few)


def test_merges_are_of_a_models_adapters_or_of_carried_ones(made):
    look = made(merges={"both": {"apps": ["a", "b"]}})
    assert look.merges() == "both"
    own = look.merged_folders(Wildcards(model="old", app="both"))
    assert own == ["given", "artifacts/models/old/b/lora_trained"]
    after = Wildcards(pair="p", app="both", method="v")
    assert look.merged_folders(after)[1] == "artifacts/p/b/v/lora_transferred"
    assert look.merge_stages(Wildcards(pair="p", app="both")) == {
        "new": "",
        "before": "artifacts/p/both/lora_transferred",
        "after": "artifacts/p/both/after/lora_transferred",
    }
