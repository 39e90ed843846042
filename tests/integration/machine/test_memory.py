"""Rules that run out of memory or are killed are told, and two runs at once do no harm."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pico
import pytest
import torch
from faults import Run
from faults.damage import told
from workdir import PROJECT

from loraport.runtime.faults import told_of_killed
from loraport.runtime.job import job, last_record


def fake(folder: Path, rule: str) -> SimpleNamespace:
    """What Snakemake gives a script, as far as the frame reads it."""
    return SimpleNamespace(
        log=[str(folder / "logs" / f"{rule}.log")],
        rule=rule,
        wildcards={"model": "m"},
        threads=1,
        resources=type("Resources", (dict,), {"mem_mb": 1234})(),
    )


LIMITED = """
import re, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from inprocess import PairRun
root = Path(sys.argv[2])
run = PairRun(root / "artifacts", root / "large", root / "new", root / "texts.txt")
run.resources = {"mem_mb": 1234}
run.spec("old")
run.activations("new")  # all that a rule imports is there now
size = int(re.search(r"VmSize:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + (60 << 20),) * 2)
run.activations("old")
"""


def test_a_rule_that_the_system_denies_memory_says_so(template, tmp_path):
    """A model of matrices of 75 MiB each, and 60 MiB left: a small model would use up all, and then
    a thread that starts has none for itself, on which the C library ends the process.
    """
    if not Path("/proc/self/status").is_file():
        pytest.skip("no /proc to read a process's size from")
    shutil.copytree(template.root / "new", tmp_path / "new")
    pico.make_model(
        tmp_path / "large", seed=1, hidden=64, intermediate=307200, layers=1, heads=4, kv_heads=2
    )
    pico.make_texts(tmp_path / "texts.txt", 200)
    command = [sys.executable, "-c", LIMITED, str(PROJECT / "tests"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    said = done.stderr.rpartition("[activations] ")[2]
    assert said.startswith("rule activations ran out of memory. Got: "), done.stderr
    assert "Expected: at most 1234 MiB, by the plan. What to do: lower calibration.batch" in said
    assert "Traceback" not in done.stderr
    left = {path.name for path in (tmp_path / "artifacts").iterdir() if "old_act" in path.name}
    assert left == {"old_activations.h5.log"}


TOO_MUCH = {
    "numpy": lambda: np.empty(2**50),
    "torch": lambda: torch.empty(2**50),
    "python": lambda: bytearray(2**62),
}


@pytest.mark.parametrize("what", TOO_MUCH)
@pytest.mark.parametrize(
    ("rule", "setting"),
    [
        ("activations", "calibration.batch_size"),
        ("adapter_maps", "calibration.examples"),
        ("lora_trained", "finetune.micro_batch"),
    ],
)
def test_out_of_memory_tells_rule_estimate_and_setting(tmp_path, capsys, what, rule, setting):
    def step():
        with job(fake(tmp_path, rule)):
            TOO_MUCH[what]()

    said = told(capsys, step)
    assert f"rule {rule} ran out of memory" in said
    assert "at most 1234 MiB, by the plan" in said
    assert setting in said
    assert "Traceback" in (tmp_path / "logs" / f"{rule}.log").read_text()


def test_a_job_that_was_killed_is_told_of_once_and_others_are_not(tmp_path):
    for rule in ("moments", "cka"):
        with job(fake(tmp_path, rule)) as log:
            log.info("hello")
    killed = tmp_path / "logs" / "moments.log"
    killed.write_text("".join(killed.read_text().splitlines(keepends=True)[:2]))
    assert last_record(killed) == {}
    assert not told_of_killed(tmp_path, time.time() + 60)
    (error,) = told_of_killed(tmp_path, 0)
    assert "moments m was killed" in str(error)
    assert "at most 1234 MiB" in str(error) and "calibration.batch_size" in str(error)
    assert last_record(killed)["status"] == "failed"
    assert str(error) in killed.read_text()
    assert not told_of_killed(tmp_path, 0)


def test_two_runs_at_once_are_told_or_do_no_harm(template, tmp_path):
    work = template.copy(tmp_path / "work")
    target, folder = "artifacts/models/old/spec.json", tmp_path / "marks"
    with Run(work, folder, "--cores", "1", "--", target) as first:
        assert first.wait()
        refused = work.run(target, ok=False).stdout
        assert "Directory cannot be locked" in refused and "--unlock" in refused
        assert "Traceback" not in refused
        work.run("--nolock", target)
        whole = (work.root / target).read_bytes()
        (folder / "go").touch()
        first.process.wait(timeout=60)
    assert first.process.returncode == 0, first.text()
    assert (work.root / target).read_bytes() == whole
    assert json.loads(whole)["kind"] == "spec"
    assert not list(work.root.rglob("*.tmp"))
