"""What `make test-cluster` does before it installs anything: with pretended programs."""

import os
import subprocess
from pathlib import Path

import pytest

INSTALL = Path(__file__).parents[1] / "cluster" / "install.sh"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")


@pytest.fixture
def programs(tmp_path):
    """A folder of programs, the only ones in PATH; each call of apt-get is written to calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "id").symlink_to("/usr/bin/id")
    return folder


def add(folder: Path, name: str, text: str = "exit 0") -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def run(folder: Path, ci: str) -> tuple[int, str]:
    done = subprocess.run(
        ["/bin/sh", str(INSTALL)], env={"PATH": str(folder), "CI": ci}, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def record(folder: Path, name: str, status: int) -> Path:
    """A program that writes its arguments down and ends with a status."""
    calls = folder.parent / "calls"
    add(folder, name, f'printf "%s\\n" "$*" >> {calls}\nexit {status}')
    return calls


def test_nothing_is_installed_without_a_yes(programs):
    calls = record(programs, "apt-get", 0)
    status, said = run(programs, "")
    assert status == 1
    assert "nobody to ask" in said
    assert not calls.exists()


def test_ci_is_a_yes(programs):
    if os.getuid() != 0:
        record(programs, "sudo", 0)
    calls = record(programs, "apt-get", 0)
    status, _ = run(programs, "true")
    assert status == 0
    lines = calls.read_text().splitlines()
    assert [("update" in line, "slurmd" in line) for line in lines] == [
        (True, False),
        (False, True),
    ]


def test_where_it_cannot_be_installed_ci_goes_on_and_says_why(programs):
    status, said = run(programs, "true")
    assert (status, "no apt-get" in said) == (0, True)
    record(programs, "apt-get", 100)
    if os.getuid() != 0:
        record(programs, "sudo", 100)
    status, said = run(programs, "true")
    assert (status, "could not install" in said) == (0, True)


def test_in_ci_no_password_is_asked_for(programs):
    (programs / "id").unlink()
    add(programs, "id", "echo 1000")
    record(programs, "apt-get", 0)
    calls = record(programs, "sudo", 1)
    status, said = run(programs, "true")
    assert (status, "could not install" in said) == (0, True)
    assert calls.read_text().startswith("-n apt-get update")


def test_where_it_is_installed_nobody_is_asked(programs):
    calls = record(programs, "apt-get", 0)
    for name in PROGRAMS:
        add(programs, name)
    assert run(programs, "") == (0, "")
    assert not calls.exists()
