"""A fork that a test is given differs from a process of its own by what it has loaded alone."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
print(sys.argv[1:], os.getcwd(), os.environ["ASKED"], sys.path[0], __name__, __file__, flush=True)
print("loaded" if "snakemake.cli" in sys.modules else "new", flush=True)
exec(sys.argv[1])
"""


@pytest.fixture
def called(tmp_path):
    """Runs a script where Snakemake puts those of rules: (exit status, output)."""
    script = tmp_path / ".snakemake/scripts/one.py"
    script.parent.mkdir(parents=True)
    script.write_text(SCRIPT)

    def call(end: str) -> tuple[int, list[str]]:
        done = subprocess.run(
            [sys.executable, str(script), end], cwd=tmp_path, env={**os.environ, "ASKED": "yes"},
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return done.returncode, done.stdout.splitlines()

    return call


ENDS = {"0": 0, "sys.exit(3)": 3, "sys.exit('told')": 1, "1 / 0": 1, "os.kill(os.getpid(), 9)": -9}


@pytest.mark.skipif("LORAPORT_TEST_DOOR" not in os.environ, reason="each process begins anew")
def test_a_fork_is_given_what_a_process_is_and_ends_as_it_does(called, monkeypatch):
    forked = {end: called(end) for end in ENDS}
    monkeypatch.delenv("LORAPORT_TEST_DOOR")
    for end, status in ENDS.items():
        (code, said), (code_anew, said_anew) = forked[end], called(end)
        assert code == code_anew == status, end
        assert said[0] == said_anew[0]
        assert (said[1], said_anew[1]) == ("loaded", "new")
        assert said[2:][-1:] == said_anew[2:][-1:]  # of an error, its name and message


def test_another_package_or_hub_is_not_behind_the_door(called, monkeypatch, tmp_path):
    with monkeypatch.context() as other:
        other.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        assert called("0")[1][1] == "new"
    (tmp_path / "src/loraport").mkdir(parents=True)
    (tmp_path / "src/loraport/__init__.py").touch()
    paths = [str(tmp_path / "src"), os.environ["PYTHONPATH"]]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    assert called("0")[1][1] == "new"
