"""The workflow through a real Slurm: `make test-cluster`; to the report with FULL=1.

The embedded pair, with fewer calibration texts so that it takes minutes, runs in two working
directories: on this machine alone, and through Slurm by profiles/slurm. Both must hold the same.
"""

import csv
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import slurm
from toy import Toy

from loraport.models.families import Dimensions
from loraport.planning import needs, times
from loraport.runtime.job import last_record

PROJECT = Path(__file__).parents[2]
FULL = os.environ.get("FULL") == "1"
PAIR = "artifacts/nano_v1_to_v2"
ADAPTERS = [f"{PAIR}/{app}/lora_transferred" for app in ("math", "mcq")]
TARGETS = [*ADAPTERS, *([f"{PAIR}/run.html"] if FULL else [])]
SMALL = ["calibration={examples: 64}", "mapping={minibatch: 16}"]
SMALL += [
    "evaluation={limit: 20}",
    "finetune={max_steps: 6, start: chosen}",
    "report={apps: [math]}",
]
CARRIED = "rule_transferred_wildcards_batch"
RULES = {"spec", "activations", "embedding", "cka", "heads", "maps"}
# a private Slurm has no accounting, and answers at once
PROFILE = ["--workflow-profile", str(PROJECT / "profiles/slurm"), "--max-threads", "2"]
PROFILE += ["--slurm-batched-status-command", "squeue", "--slurm-batched-longest-wait", "1"]
PROFILE += ["--slurm-batched-init-seconds-before-status-checks", "1", "--latency-wait", "5"]
PROFILE += ["--seconds-between-status-checks", "1"]


@dataclass
class Run:
    """A finished run: its working directory, what snakemake said, and its jobs in Slurm."""

    root: Path
    output: str
    jobs: dict[str, dict[str, str]]
    seconds: float


def snakemake(root: Path, *arguments: str, env: dict[str, str], ok: bool = True) -> str:
    """Run snakemake in a working directory with the project's own configuration."""
    root.mkdir(exist_ok=True)
    for name in ("config", "resources"):
        if not (root / name).exists():
            (root / name).symlink_to(PROJECT / name)
    command = [sys.executable, "-m", "snakemake", "-s", str(PROJECT / "Snakefile"), *arguments]
    command += ["--config", *SMALL, "--", *TARGETS]
    done = subprocess.run(
        command, cwd=root, env=env, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert (done.returncode == 0) == ok, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A Slurm of this machine alone, stopped afterwards."""
    if lacking := slurm.missing():
        pytest.skip(f"Slurm is not installed: no {', '.join(lacking)}")
    running = slurm.Slurm(tmp_path_factory.mktemp("slurm") / "here")
    try:
        running.start()
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        running.stop()
        if os.environ.get("CI") != "true":
            raise
        pytest.skip(f"Slurm does not start here: {error}")
    yield running
    running.stop()
    pids = [int(file.read_text()) for file in (running.folder / "run").glob("*.pid")]
    assert not [pid for pid in pids if slurm.is_alive(pid)]


@pytest.fixture(scope="module")
def local(cluster, tmp_path_factory) -> Run:
    """The run on this machine; none where there is no cluster to compare it with."""
    root = tmp_path_factory.mktemp("runs") / "local"
    start = time.monotonic()
    output = snakemake(root, "--cores", "2", env=slurm.own_processes())
    return Run(root, output, {}, time.monotonic() - start)


@pytest.fixture(scope="module")
def through_slurm(cluster, tmp_path_factory) -> Run:
    """The run through Slurm."""
    root = tmp_path_factory.mktemp("runs") / "slurm"
    start = time.monotonic()
    output = snakemake(root, *PROFILE, env=cluster.env)
    return Run(root, output, cluster.jobs(), time.monotonic() - start)


def test_every_job_went_through_slurm_and_completed(through_slurm):
    submitted = re.findall(r"has been submitted with SLURM jobid (\d+)", through_slurm.output)
    assert set(submitted) == set(through_slurm.jobs)
    assert not any("layers" in job["Comment"] for job in through_slurm.jobs.values())  # local
    assert {job["State"] for job in through_slurm.jobs.values()} == {"COMPLETED"}
    comments = [job["Comment"] for job in through_slurm.jobs.values()]
    for rule in RULES:
        assert any(comment.startswith(f"rule_{rule}") for comment in comments), rule


def test_adapters_share_a_job_that_starts_no_snakemake(through_slurm):
    comments = [job["Comment"] for job in through_slurm.jobs.values()]
    gains = [comment for comment in comments if comment.startswith("rule_gain_")]
    assert gains == ["rule_gain_wildcards_batch_of_2"]
    # an adapter is carried as soon as its gain is known
    carried = [job for job in through_slurm.jobs.values() if "transferred" in job["Comment"]]
    sizes = [int(job["Comment"].removeprefix(f"{CARRIED}_of_")) for job in carried]
    assert sum(sizes) == len(ADAPTERS)
    assert {job["NumCPUs"] for job in carried} == {"1"}  # one after another
    for rule in ("gain", "transferred"):
        for adapter in ADAPTERS:
            log = through_slurm.root / PAIR / "logs" / adapter.split("/")[2] / f"{rule}.log"
            assert last_record(log)["status"] == "done"


def test_memory_time_cores_and_gpus_are_the_rules_own(through_slurm):
    models = [
        Dimensions(**json.loads(path.read_text())["dimensions"])
        for path in (
            through_slurm.root / f"artifacts/models/nano_{version}/spec.json"
            for version in ("v1", "v2")
        )
    ]
    memory, seconds, *_ = needs.need("maps", *models)
    minutes = times.limit_minutes(seconds, cores=2)
    (job,) = (job for job in through_slurm.jobs.values() if "rule_maps" in job["Comment"])
    assert job["MinMemory"] == f"{memory}M"
    assert job["TimeLimit"] in (f"{minutes}:00", f"0:{minutes:02}:00")
    assert job["NumCPUs"] == "2"
    asked = {
        job["Comment"].split("_")[1]: job["tres-per-job"] for job in through_slurm.jobs.values()
    }
    assert "gpu" in asked["activations"]
    assert "gpu" not in asked["cka"]


def contents(run: Run) -> dict[str, bytes]:
    """What must not depend on where it was made."""
    maps = (run.root / PAIR / "maps").glob("*.h5")
    carried = (path for each in ADAPTERS for path in (run.root / each).glob("[!.]*"))
    models = (run.root / "artifacts/models").glob("*/*.*")
    parts = (run.root / PAIR / name for name in ("embedding.h5", "cka.h5", "heads.h5"))
    paths = [*maps, *carried, *models, *parts, run.root / PAIR / "layers.json"]
    return {str(path.relative_to(run.root)): path.read_bytes() for path in paths}


def test_maps_and_adapters_equal_the_local_ones_byte_for_byte(local, through_slurm):
    ours, theirs = contents(local), contents(through_slurm)
    assert sorted(ours) == sorted(theirs)
    assert len(ours) >= 15
    assert [name for name in ours if ours[name] != theirs[name]] == []
    print(f"local {local.seconds:.0f} s, through Slurm {through_slurm.seconds:.0f} s")


def run_toy(toy: Toy, cluster: slurm.Slurm, names: str, *options: str) -> tuple[str, list[dict]]:
    """What snakemake said, and the jobs that it gave to Slurm."""
    before = set(cluster.jobs())
    command = [sys.executable, "-m", "snakemake", *PROFILE, *options, "--config", f"names={names}"]
    done = subprocess.run(
        command, cwd=toy.root, env=cluster.env, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    said = f"{done.stdout}\nends with {done.returncode}"
    return said, [job for number, job in cluster.jobs().items() if number not in before]


def test_in_a_batch_one_fails_alone_and_is_tried_again_with_more_memory(cluster, tmp_path):
    toy = Toy(tmp_path / "toy", broken="c")
    said, jobs = run_toy(toy, cluster, "a b c d", "--retries", "1")
    assert "ends with 1" in said
    made = toy.made()
    assert set(made) == {"a", "b", "d"}
    assert len({parent for _, parent in made.values()}) == 1
    comments = {job["Comment"]: job for job in jobs}
    assert {name: job["State"] for name, job in comments.items()} == {
        "rule_light_wildcards_batch_of_4": "FAILED",
        "rule_light_wildcards_batch_of_1": "FAILED",
    }
    first, again = (comments[f"rule_light_wildcards_batch_of_{size}"] for size in (4, 1))
    assert (first["MinMemory"], again["MinMemory"]) == ("50M", "100M")
    assert (first["TimeLimit"], again["TimeLimit"]) == ("8:00", "2:00")
    assert "logs/c.log" in said
    (toy.root / "broken/c").unlink()
    said, jobs = run_toy(toy, cluster, "a b c d e")
    assert "ends with 0" in said, said
    assert [job["Comment"] for job in jobs] == ["rule_light_wildcards_batch_of_2"]
    assert {name for name, ids in toy.made().items() if ids != made.get(name)} == {"c", "e"}


@pytest.mark.skipif(not FULL, reason="to the report with FULL=1")
def test_tables_equal_the_local_ones(local, through_slurm):
    rows = [
        list(csv.DictReader((run.root / PAIR / "tables/math.csv").open()))
        for run in (local, through_slurm)
    ]
    apart = {name for name in rows[0][0] if re.search("_s$|second|time|memory|mib", name, re.I)}
    kept = [[{k: v for k, v in row.items() if k not in apart} for row in each] for each in rows]
    assert kept[0] == kept[1]
    assert (through_slurm.root / PAIR / "run.html").is_file()
