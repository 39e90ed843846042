"""The report on a pico pair, by the users' commands: tables, plots, a failed method, a sweep."""

import json
import re

import pico
import pytest
from workdir import PROJECT, Workdir

from loraport.planning.sweeps import POINTS
from loraport.report.render import read_csv

pytestmark = pytest.mark.slow
PAGE = "artifacts/p/run.html"
SHOW = ("--config", "report={failures: show}")
FAILING = "simplecopy"  # wants models of one shape


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Workdir:
    """A pico pair with a task of sums, short trainings, and a method that cannot serve the pair."""
    work = Workdir(tmp_path_factory.mktemp("report"), shared=True)
    sums = [(a, b) for a in range(1, 7) for b in range(1, 5)]
    lines = [
        json.dumps({"prompt": f"{a} + {b} =", "completion": f" {a + b}", "answer": str(a + b)})
        for a, b in sums
    ]
    (work.root / "sums.jsonl").write_text("\n".join(lines) + "\n")
    (work.root / "sums.yaml").write_text(
        f"include: {PROJECT}/resources/tasks/nano_math.yaml\ntask: sums\n"
        f"dataset_kwargs: {{file: {work.root}/sums.jsonl}}\n"
        'generation_kwargs: {do_sample: false, max_gen_toks: 4, until: ["\\n"]}\n'
    )
    pico.make_adapter(work.root / "other", work.root / "old", seed=4)
    (work.root / "adapters.tsv").write_text(
        "app\tmodel\tsource\ttask\na\told\tadapter\tsums\nb\told\tother\tsums\n"
    )
    work.configure(
        tasks={"sums": {"train": "sums.jsonl", "template": "plain", "eval": ["sums.yaml"]}},
        finetune={"examples": 16, "start": "chosen", "epochs": 1, "full": {"max_steps": 3}},
        evaluation={"limit": 6, "resamples": 100, "empty": "score"},
        report={"methods": [FAILING], "apps": ["a"]},
        compare={"methods": ["lorasuite", "norm", FAILING]},
        merges={"both": {"apps": ["a", "b"]}},
        sweeps={"rank": [2, 64], "epochs": [1, 3], "examples": [8, 1000]},
    )
    return work


@pytest.fixture(scope="module")
def reported(work) -> Workdir:
    """The same after the two runs that `make report` starts."""
    work.run("--keep-going", PAGE, ok=False)
    work.run(*SHOW, "--", PAGE)
    return work


def test_own_answers_are_written_once_for_all_that_train_on_the_small_set(work):
    own = ("--config", "finetune={examples: 16, answers: own, small: {examples: 8}}", "--")
    trained = ("lora_finetuned", "lora_small_matched", "lora_small", "norm/seed0/lora_finetuned")
    sweep = "artifacts/p/a/sweeps/examples/8/lora_finetuned"
    planned = work.planned(*own, *(f"artifacts/p/a/{each}" for each in trained), sweep)
    assert planned["own_answers"] == 2  # of 16 prompts, and of 8
    assert planned["lora_finetuned"] == planned["sweep_finetuned"] == planned["lora_small"] == 1


def test_a_failed_method_stands_in_the_table(reported):
    table = read_csv(reported.root / "artifacts/p/tables/a.csv")
    assert len(table) == 10
    failed = [row for row in table if row["average"] is None]
    assert {row["method"] for row in failed} == {FAILING}
    assert all(row["note"].startswith("failed: maps: ") for row in failed)
    assert (reported.root / "artifacts/p/tables/all.md").is_file()


def test_the_page_of_the_pair_shows_the_tables_numbers(reported):
    reported.run(*SHOW, "--", "artifacts/p/report.html")
    page = (reported.root / "artifacts/p/report.html").read_text()
    rows = read_csv(reported.root / "artifacts/p/tables/a.csv")
    table = {row["stage"]: row for row in reversed(rows)}  # the first row of each stage is shown
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page.partition("<tbody>")[2].partition("</tr>")[0])
    shown = ["old_lora", "new", "transferred", "finetuned", "lora_small_matched", "lora_full"]
    assert cells[2:8] == [f"{100 * table[stage]['average']:.1f}" for stage in shown]
    assert "data:image/svg+xml;base64," in page and "http" not in re.sub('data:[^"]*', "", page)


def test_sweeps_run_what_can_be_run(reported):
    tables = [f"artifacts/p/a/sweeps/{name}.csv" for name in ("rank", "examples")]
    reported.run(*tables)
    rank, examples = (read_csv(reported.root / path) for path in tables)
    kept = {row["row"]: row["energy_kept"] for row in rank if row["value"] == 2}
    assert set(kept) == set(POINTS.values())
    assert 0 < kept[POINTS["lora_finetuned"]] < 1
    assert kept[POINTS["lora_small_matched"]] is None  # a fresh LoRA is not cut from anything
    assert rank[-1]["note"].startswith("the source adapter has rank")
    assert examples[-1]["note"] == "the task has 24 training examples"
    assert (reported.root / "artifacts/p/a/sweeps/rank.svg").is_file()


def test_a_sweep_of_epochs_trains_both_starts_for_the_same_steps(reported):
    table = "artifacts/p/a/sweeps/epochs.csv"
    refused = reported.run("--config", "finetune={max_steps: 3}", "--", table, ok=False)
    assert "finetune.max_steps: 3, which takes the place of epochs" in refused.stdout
    reported.run(table)
    rows = [row for row in read_csv(reported.root / table) if row["value"] is not None]
    trained = {(row["row"], row["value"]): row["steps"] for row in rows}
    assert trained == {(label, n): n for label in POINTS.values() for n in (1, 3)}
    assert all(row["nll"] > 0 for row in rows)
    assert (reported.root / "artifacts/p/a/sweeps/epochs.svg").is_file()


def test_the_report_is_one_file_without_this_host(reported):
    import platform

    reported.run(*SHOW, "--report", "artifacts/p/workflow.html", "--", PAGE)
    page = (reported.root / "artifacts/p/run.html").read_text()
    assert "Machine" in page and "torch" in page
    assert platform.node() not in page
    report = (reported.root / "artifacts/p/workflow.html").read_text()
    assert 'src="http' not in report
    assert "What was run" in report


def test_all_methods_side_by_side(reported):
    """Every seed of the methods and of the baseline; what can't serve the pair is known at once."""
    seeds = ("--config", "finetune={examples: 16, epochs: 1, seeds: [0, 1]}")
    tables = ["artifacts/p/tables/a.methods.csv", "artifacts/p/a/plots/methods.svg"]
    planned = reported.planned(*seeds, "--", *tables)
    assert planned["maps"] == 1  # of the variant: lorasuite's are there
    assert planned["lora_small_matched_by_seed"] == 2
    assert planned["lora_finetuned_by_method"] == 4
    reported.run(*seeds, "--", *tables)
    table = read_csv(reported.root / tables[0])
    over = {row["row"]: row for row in table if row["seed"] is None}
    assert list(over)[:3] == ["new model", "new LoRA on 16 examples", "new LoRA on all data"]
    assert list(over)[3:5] == ["lorasuite, carried", "lorasuite, fine-tuned on 16 examples"]
    assert over["lorasuite, fine-tuned on 16 examples"]["seeds"] == 2
    assert over[FAILING]["note"].startswith("not served")
    assert over["norm, carried"]["nll"] != over["lorasuite, carried"]["nll"]
    assert (reported.root / tables[1]).is_file()


def test_merged_before_and_after_the_transfer(reported):
    reported.run("artifacts/p/tables/both.merged.csv")
    rows = read_csv(reported.root / "artifacts/p/tables/both.merged.csv")
    assert [row["stage"] for row in rows] == ["old_lora", "new", "before", "after"]
    merged = reported.root / "artifacts/models/old/both/lora_merged"
    assert json.loads((merged / "merge.json").read_text())["weights"] == [0.5, 0.5]


def test_advice_says_that_nothing_alike_was_measured_or_on_what_it_rests(reported):
    advised = json.loads((reported.root / "artifacts/p/a/advice.json").read_text())
    assert advised["facts"]["same_shapes"] is False and advised["limits"]
    assert (reported.root / "artifacts/p/advice.html").is_file()


def test_where_failures_are_shown_a_stage_waits_for_no_other(reported):
    bare = "artifacts/p/a/eval/new.json"
    assert "lora_finetuned" in reported.planned("--forceall", "--", bare)
    assert "lora_finetuned" not in reported.planned("--forceall", *SHOW, "--", bare)
