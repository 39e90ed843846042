"""Each job takes GPUs of its own: tried with pretended ones, by processes that run at once."""

import os
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from loraport.errors import LoraportError
from loraport.runtime import gpus

HOLDER = """
import sys, time
from loraport.runtime import gpus
with gpus.held(int(sys.argv[1])) as mine:
    print(",".join(mine), __import__("os").environ["CUDA_VISIBLE_DEVICES"], flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def own_locks(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv(gpus.SHARED_BY, raising=False)


@pytest.fixture
def holder():
    """Start processes that hold GPUs until their input is closed; all are ended afterwards."""
    started = []

    def start(count: int, names: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(count)],
            env={**os.environ, gpus.VISIBLE: names},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_jobs_that_run_at_once_hold_different_gpus(holder):
    told = [holder(1, "0,1,2").stdout.readline().split() for _ in range(3)]
    assert sorted(mine for mine, _ in told) == ["0", "1", "2"]
    assert all(mine == shown for mine, shown in told)


def test_small_jobs_share_a_gpu_when_each_has_one(holder, monkeypatch):
    monkeypatch.setenv(gpus.SHARED_BY, "2")
    jobs, held = [], []
    for _ in range(4):
        jobs.append(holder(1, "0,1"))
        held.append(jobs[-1].stdout.readline().split()[0])
    assert held == ["0", "1", "0", "1"]
    waits = holder(1, "0,1")
    time.sleep(1.5)
    assert waits.poll() is None
    jobs[1].kill()
    assert waits.stdout.readline().split()[0] == "1"


def test_a_job_of_two_gpus_takes_two_different_ones(holder, monkeypatch):
    monkeypatch.setenv(gpus.SHARED_BY, "2")
    told = [holder(2, "0,1,2").stdout.readline().split()[0] for _ in range(3)]
    assert told == ["0,1", "2,0", "1,2"]


SMI = """#!/bin/sh
printf '0, GPU-aaaa, %s\\n1, GPU-bbbb, %s\\n' {0} {1}
"""


def pretend_smi(folder, monkeypatch, *free: int) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "nvidia-smi").write_text(SMI.format(*free))
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.parametrize("names", ["0,1", "GPU-aaaa,GPU-bb"])
def test_jobs_that_share_go_where_most_memory_is_free(holder, monkeypatch, tmp_path, names):
    monkeypatch.setenv(gpus.SHARED_BY, "4")
    first, second = names.split(",")
    pretend_smi(tmp_path / "bin", monkeypatch, 20_000, 70_000)
    # 70, then 35 with one that has just come, 23 with two; then 20 are more than 17
    told = [holder(1, names).stdout.readline().split()[0] for _ in range(4)]
    assert told == [second, second, second, first]
    for path in tmp_path.glob("*.lock"):
        os.utime(path, (0, 0))  # all have what they need by now
    pretend_smi(tmp_path / "bin", monkeypatch, 30_000, 40_000)
    assert holder(1, names).stdout.readline().split()[0] == second  # its last place
    assert holder(1, names).stdout.readline().split()[0] == first


def test_memory_that_nvidia_smi_does_not_tell_of_every_gpu_counts_for_none(monkeypatch, tmp_path):
    pretend_smi(tmp_path / "bin", monkeypatch, 10, 20)
    assert gpus.free_memory(["1", "0"]) == {"1": 20.0, "0": 10.0}
    assert gpus.free_memory(["0", "MIG-cccc"]) == {}
    (tmp_path / "bin/nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert gpus.free_memory(["0", "1"]) == {}


@pytest.mark.parametrize("wrong", ["0", "-1", "two", "", "1.5"])
def test_a_wrong_number_of_jobs_per_gpu_is_refused(wrong, monkeypatch):
    monkeypatch.setenv(gpus.SHARED_BY, wrong)
    with pytest.raises(LoraportError, match=gpus.SHARED_BY):
        gpus.shared_by()


def test_a_job_waits_for_a_gpu_and_gets_it_when_its_holder_is_killed(holder):
    first, second = holder(2, "0,1,2"), None
    assert first.stdout.readline().split()[0] == "0,1"
    second = holder(2, "0,1,2")
    time.sleep(1.5)
    assert second.poll() is None
    first.send_signal(signal.SIGKILL)
    assert second.stdout.readline().split()[0] == "0,1"


def test_two_that_each_want_most_of_them_do_not_block_each_other(holder):
    processes = [holder(2, "0,1,2") for _ in range(3)]
    done = set()
    end = time.monotonic() + 60
    while len(done) < 3 and time.monotonic() < end:
        for process in processes:
            os.set_blocking(process.stdout.fileno(), False)
            if process not in done and process.stdout.readline():
                done.add(process)
                process.stdin.close()
        time.sleep(0.05)
    assert len(done) == 3


@pytest.mark.parametrize(
    ("count", "names", "mine"),
    [(0, "0,1", ["0", "1"]), (1, "3", ["3"]), (2, "0,1", ["0", "1"]), (1, "-1", []), (1, "", [])],
)
def test_nothing_is_chosen_where_there_is_no_choice(monkeypatch, tmp_path, count, names, mine):
    monkeypatch.setenv(gpus.VISIBLE, names)
    with gpus.held(count) as found:
        assert found == mine
        assert os.environ[gpus.VISIBLE] == names
    assert not list(tmp_path.glob("*.lock"))


def test_names_need_not_be_numbers_and_the_environment_is_restored(monkeypatch, tmp_path):
    monkeypatch.setenv(gpus.VISIBLE, "GPU-5a/1,GPU-6b/2")
    with gpus.held(1) as mine:
        assert mine == ["GPU-5a/1"]
        assert os.environ[gpus.VISIBLE] == "GPU-5a/1"
        with gpus.held(1) as same:  # one is left to be seen, and it is this job's
            assert same == mine
    assert os.environ[gpus.VISIBLE] == "GPU-5a/1,GPU-6b/2"


def test_a_process_without_torch_sees_no_gpu(monkeypatch):
    monkeypatch.delenv(gpus.VISIBLE, raising=False)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert gpus.visible() == []


SETTINGS_READ = """
import torch
from loraport.runtime import gpus
with gpus.one_piece():
    print(torch._C._accelerator_getAllocatorSettings())
"""


@pytest.mark.parametrize(
    ("own", "read"),
    [
        ({}, gpus.GROWING),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:200"}, "max_split_size_mb:200"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:100"}, "max_split_size_mb:100"),
    ],
)
def test_torch_reads_how_it_holds_memory_after_its_import_and_a_users_setting_wins(own, read):
    environment = {name: each for name, each in os.environ.items() if name not in gpus.ALLOCATOR}
    command = [sys.executable, "-c", SETTINGS_READ]
    told = subprocess.run(
        command, env={**environment, **own}, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == read


@pytest.mark.parametrize("name", gpus.ALLOCATOR)
def test_any_setting_of_the_users_stays_as_it_is(monkeypatch, name):
    for each in gpus.ALLOCATOR:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "")
    with gpus.one_piece():
        assert {each: os.environ[each] for each in gpus.ALLOCATOR if each in os.environ} == {
            name: ""
        }
    assert os.environ[name] == ""
