"""Scores are made again when anything that they depend on changes, and only then."""

import json
import os
from pathlib import Path

import pytest
from workdir import Workdir

OWN, FILE = "artifacts/p/own/eval/new.json", "artifacts/p/file/eval/new.json"
FILES = {
    "conf/sums.yaml": "include: _base.yaml\ntask: sums\ndataset_kwargs: {file: sums.jsonl}\n",
    "conf/_base.yaml": (
        "output_type: generate_until\ntest_split: test\nnum_fewshot: 0\n"
        "doc_to_text: prompt\ndoc_to_target: answer\n"
        "custom_dataset: !function helpers.read\nprocess_results: !function helpers.right\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
        "generation_kwargs: {do_sample: false, max_gen_toks: 4, until: ['.']}\n"
    ),
    "conf/helpers.py": (
        "from pathlib import Path\n"
        "from loraport.evaluation.own_data import dataset\n"
        "import inner\n"
        "def read(file, **how):\n"
        "    return dataset(test=str(Path(__file__).parent / file), template='plain', score='')\n"
        "def right(item, results):\n"
        "    return {'acc': inner.value(results[0])}\n"
    ),
    "conf/inner.py": "def value(text): return float(len(text) > 1000)\n",
}


def record(answer):
    return json.dumps({"prompt": "1 + 1 =", "completion": f" {answer}", "answer": answer}) + "\n"


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> Workdir:
    """A pico pair whose new model is scored on own data and on a task file given by its path."""
    work = Workdir(tmp_path_factory.mktemp("stale"), shared=True)
    for name, text in FILES.items():
        (work.root / name).parent.mkdir(exist_ok=True)
        (work.root / name).write_text(text)
    for name in ("conf/sums.jsonl", "own.jsonl", "train.jsonl"):
        (work.root / name).write_text(record("2") * 3)
    (work.root / "adapters.tsv").write_text(
        "app\tmodel\tsource\ttask\nown\told\tadapter\town\nfile\told\tadapter\tfile\n"
    )
    work.configure(
        tasks={
            "own": {"train": "train.jsonl", "test": "own.jsonl", "score": "exact"},
            "file": {"eval": ["conf/sums.yaml"]},
        },
        evaluation={"stages": ["new"], "resamples": 100, "empty": "score"},
    )
    work.run(OWN, FILE)
    assert work.planned(OWN, FILE) == {}
    return work


def score(work, path):
    return next(iter(json.loads((work.root / path).read_text())["tasks"].values()))


def test_own_data_in_three_lines_is_scored(scored):
    own = score(scored, OWN)
    assert own["n"] == 3 and own["metric"] == "acc" and own["nll"] > 0
    assert score(scored, FILE)["value"] == 0


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        pytest.param("own.jsonl", record("3") * 3, id="label"),
        pytest.param("own.jsonl", record("2") * 2, id="items"),
        pytest.param("conf/sums.jsonl", record("3") * 3, id="data"),
        pytest.param("conf/sums.yaml", FILES["conf/sums.yaml"] + "repeats: 1\n", id="yaml"),
        pytest.param("conf/_base.yaml", FILES["conf/_base.yaml"] + "repeats: 1\n", id="include"),
        pytest.param("conf/helpers.py", FILES["conf/helpers.py"] + "ONE = 1\n", id="helper"),
        pytest.param("conf/inner.py", "def value(text): return 1.0\n", id="import"),
    ],
)
def test_a_change_redoes_the_scores_of_what_reads_it(scored, changed, text):
    """A file that is no newer than before, as one that was moved or synchronised."""
    path: Path = scored.root / changed
    before, stat = path.read_text(), path.stat()
    try:
        path.write_text(text)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert scored.planned(OWN, FILE) == {"evaluated_new": 1}
    finally:
        path.write_text(before)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_paths_are_relative_to_the_configuration(scored, tmp_path):
    work = scored.copy(tmp_path / "work")
    conf = tmp_path / "elsewhere"
    conf.mkdir()
    for name in ("config.yaml", "adapters.tsv", "own.jsonl", "train.jsonl"):
        (work.root / name).rename(conf / name)
    (conf / "own.jsonl").write_text(record("3") * 3)
    arguments = ("--configfile", str(conf / "config.yaml"), "--", OWN)
    assert work.planned(*arguments) == {"evaluated_new": 1}
    work.run(*arguments)
    assert score(work, OWN)["n"] == 3


def test_scores_that_are_kept_do_not_outlive_a_helpers_helper(scored, tmp_path):
    work = scored.copy(tmp_path / "work")
    (work.root / "conf/inner.py").write_text("def value(text): return 1.0\n")
    work.run(FILE)
    assert score(work, FILE)["value"] == 1
