"""Light jobs that share a Python: each keeps its target, its log, its failure and its process."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import snakemake_executor_plugin_slurm as slurm
from snakemake.iocontainers import ResourceList
from toy import Toy

import snakemake_executor_plugin_batched as batched
from snakemake_executor_plugin_slurm_batched.executor import Batch, Executor

pytestmark = pytest.mark.usefixtures("own_processes")
ENDS = {
    "import os; open('ids', 'a').write(f'{os.getppid()} ')": 0,
    "raise SystemExit(3)": 3,
    "raise SystemExit('said')": 1,
    "raise ValueError('oops')": 1,
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": 137,
    "import os; open('ids', 'a').write(str(os.getppid()))": 0,
}


def test_a_script_that_fails_or_is_killed_stops_no_other(tmp_path):
    scripts = [tmp_path / f"{number}.py" for number in range(len(ENDS))]
    for script, text in zip(scripts, ENDS, strict=True):
        script.write_text(text)
    tasks, done = tmp_path / "tasks", tmp_path / "done"
    tasks.write_text("".join(f"{script}\n" for script in scripts))
    command = [sys.executable, "-m", "loraport.runtime.batch", str(tasks), str(done)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "ValueError: oops" in ran.stderr
    assert "said" in ran.stderr
    jobs = [fake_job(script.stem, 1, 1) for script in scripts]
    together = Batch(jobs, tmp_path)
    assert [code for _, code in together.ended()] == list(ENDS.values())
    assert together.ended() == []
    first, last = (tmp_path / "ids").read_text().split()
    assert first == last
    # the cluster starts the job again: what went well is not done twice
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert len((tmp_path / "ids").read_text().split()) == 2
    assert Batch(jobs, tmp_path).statuses() == together.statuses()


def test_a_folder_of_the_users_hides_no_module_from_a_batch(tmp_path):
    (tmp_path / "tqdm.py").write_text("raise SystemExit('not this one')")
    (tmp_path / "one.py").write_text("print('ran')")
    command = [sys.executable, *batched.COMMAND, "-", "-"]
    asked = f"{tmp_path / 'one.py'}\n"
    ran = subprocess.run(command, cwd=tmp_path, input=asked, capture_output=True, text=True)
    assert ran.stdout == f"0 {tmp_path / 'one.py'}\n", ran.stderr


def test_what_a_fork_has_checked_later_forks_know(tmp_path):
    head = f"from loraport.runtime import checked; p = checked.part(open({__file__!r}, 'rb'), 'x');"
    texts = (
        "raise SystemExit(checked.is_known(p))",
        "checked.remember(p); raise SystemExit(checked.is_known(p))",
        "raise SystemExit(checked.is_known(p))",
    )
    scripts = [tmp_path / f"{number}.py" for number in range(len(texts))]
    for script, text in zip(scripts, texts, strict=True):
        script.write_text(head + text)
    (tmp_path / "tasks").write_text("".join(f"{script}\n" for script in scripts))
    command = [sys.executable, *batched.COMMAND, str(tmp_path / "tasks"), str(tmp_path / "done")]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    ends = (tmp_path / "done").read_text().splitlines()
    assert [line.partition(" ")[0] for line in ends] == ["0", "1", "1"]


def test_scripts_are_taken_one_by_one_from_a_pipe(tmp_path):
    script = tmp_path / "one.py"
    script.write_text("print('no answer')")
    with subprocess.Popen(
        [sys.executable, "-m", "loraport.runtime.batch", "-", "-"], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as worker:  # fmt: skip
        for _ in range(2):
            print(script, file=worker.stdin, flush=True)
            assert worker.stdout.readline() == f"0 {script}\n"
        _, said = worker.communicate()
    assert worker.returncode == 0
    assert said.count("no answer") == 2


def test_what_a_script_imports_of_loraport_is_imported_once_before_the_fork(tmp_path):
    script = tmp_path / "one.py"
    script.write_text(
        "import sys\n"
        "print('early' if 'loraport.numerics.lowrank' in sys.modules else 'late')\n"
        "from loraport.numerics.lowrank import balance\n"
    )
    broken = tmp_path / "two.py"
    broken.write_text("from loraport.nowhere import nothing\n")
    command = [sys.executable, *batched.COMMAND, "-", "-"]
    asked = f"{script}\n{broken}\n"
    ran = subprocess.run(command, cwd=tmp_path, input=asked, capture_output=True, text=True)
    assert ran.stdout == f"0 {script}\n1 {broken}\n"
    assert "early" in ran.stderr
    assert "No module named 'loraport.nowhere'" in ran.stderr


def snakemake(toy: Toy, names: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--executor", "batched"]
    command += ["--keep-going", *arguments, "--config", f"names={names}"]
    return subprocess.run(
        command, cwd=toy.root, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def test_light_jobs_of_a_core_share_a_python_and_fail_alone(tmp_path):
    toy = Toy(tmp_path / "toy", broken="c")
    done = snakemake(toy, "a b c d")
    assert done.returncode == 1
    assert "c is broken" in done.stdout
    assert "Error in rule light" in done.stdout
    made = toy.made()
    assert set(made) == {"a", "b", "d"}
    assert toy.began() == {"a", "b", "c", "d"}
    assert len({own for own, _ in made.values()}) == 3
    assert len({parent for _, parent in made.values()}) == 1
    (toy.root / "broken/c").unlink()
    done = snakemake(toy, "a b c d e")
    assert done.returncode == 0, done.stdout
    again = toy.made()
    assert {name for name in again if again[name] != made.get(name)} == {"c", "e"}
    assert not list((toy.root / ".snakemake").glob("batched.*"))


def fake_job(name: str, mem_mb: int, runtime: int) -> SimpleNamespace:
    needs = {"mem_mb": mem_mb, "runtime": runtime, "batch": 3}
    return SimpleNamespace(
        rule=SimpleNamespace(name="light"), jobid=name, threads=1,
        resources=ResourceList(fromdict=needs),
    )  # fmt: skip


def test_a_batch_asks_for_the_largest_memory_and_the_sum_of_times(tmp_path):
    together = Batch([fake_job("a", 100, 2), fake_job("b", 300, 3)], tmp_path)
    assert together.resources.mem_mb == 300
    assert together.resources.runtime == 5
    assert together.threads == 1


def test_of_a_batch_that_was_killed_what_ended_well_is_kept(tmp_path, monkeypatch):
    told = []

    def note(end):
        def report(_, info, msg=None):
            told.append((info.job.jobid, end, info.external_jobid, msg))

        return report

    monkeypatch.setattr(slurm.Executor, "report_job_success", note("success"))
    monkeypatch.setattr(slurm.Executor, "report_job_error", note("error"))
    together = Batch([fake_job(name, 1, 1) for name in "abc"], tmp_path)
    (tmp_path / "done").write_text("0 /x/a.py\n2 /x/b.py\n0 /x/c")
    info = SimpleNamespace(job=together, external_jobid="17", aux={})
    executor = object.__new__(Executor)
    executor.workflow = SimpleNamespace(execution_settings=SimpleNamespace(latency_wait=0))
    executor.report_job_error(info, msg="TIMEOUT")
    assert told == [
        ("a", "success", "17", None),
        ("b", "error", "17", "TIMEOUT"),
        ("c", "error", "17", "TIMEOUT"),
    ]
