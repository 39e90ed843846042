"""The guides in CONTRIBUTING.md work as they are printed, in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from workdir import PROJECT

TEXT = (PROJECT / "CONTRIBUTING.md").read_text()
FILES = re.findall(r'^```(?:python|json) title="(.+?)"\n(.*?)^```', TEXT, re.M | re.S)
CHANGES = re.findall(r'^```diff title="(.+?)"\n(.*?)^```', TEXT, re.M | re.S)
PARTS = ("src", "tests", "rules", "workflow", "config", "profiles", "resources/tasks")
SINGLE = ("Snakefile", "environment.yml", "pyproject.toml")


def change(text: str, diff: str) -> str:
    """A file with a diff's lines in place: each run of added lines replaces what stands before."""
    for block in re.findall(r"(?:^[ -].*\n)+(?:^\+.*\n)+", diff, re.M):
        lines = block.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] != "+")
        after = "".join(line[1:] for line in lines if line[0] != "-")
        assert text.count(before) == 1, f"not in the file, or not once: {before}"
        text = text.replace(before, after)
    return text


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The project with all that the guides add."""
    root = tmp_path_factory.mktemp("guides")
    for part in PARTS:
        shutil.copytree(
            PROJECT / part, root / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    for name in SINGLE:
        shutil.copy(PROJECT / name, root)
    for name, content in FILES:
        assert not (root / name).exists()
        (root / name).write_text(content)
    for name, diff in CHANGES:
        (root / name).write_text(change((root / name).read_text(), diff))
    return root


def run(root: Path, *command: str | Path) -> str:
    """A command of the copy; its output."""
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=root, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_there_are_three_guides():
    assert len(FILES) == 5
    assert len(CHANGES) == 2
    method = dict(FILES)["src/loraport/methods/padded.py"]
    assert len(method.splitlines()) < 25


def test_the_printed_files_are_as_the_linters_want_them(copy):
    names = [name for name, _ in FILES if name.endswith(".py")]
    run(copy, "-m", "ruff", "check", *names)
    run(copy, "-m", "ruff", "format", "--check", *names)


def test_the_guides_tests_pass_and_the_new_family_is_as_transformers_has_it(copy):
    """By the printed command, in one process with the tests that the guides add."""
    (command,) = re.findall(r"^python (-m pytest .+) -k starcoder2$", TEXT, re.M)
    own = [Path(name) for name, _ in FILES if name.startswith("tests/")]
    chosen = " or ".join(["starcoder2", *(path.stem for path in own)])
    told = run(
        copy, *command.split(), *own, "-n", "0", "-rp", "-k", chosen, "-m", "slow or not slow"
    )  # fmt: skip
    passed = re.findall(r"^PASSED (\S+\.py)::(\S+)", told, re.M)
    of_guides = [each for each in passed if Path(each[0]) in own]
    assert len(of_guides) == 2
    assert sum("starcoder2" in name for _, name in passed) >= 3
    assert f"{len(passed)} passed" in told


def test_an_adapter_is_carried_by_the_new_method(copy, pico_pair, tmp_path):
    told = run(
        copy, "-m", "loraport.cli", "transfer", pico_pair.old, pico_pair.new, pico_pair.adapter,
        tmp_path / "out", "--method", "padded", "--texts", pico_pair.texts, "--work", tmp_path,
        "--set", "calibration.examples=40", "--set", "mapping.minibatch=8", "--cores", "1",
    )  # fmt: skip
    assert "by padded" in told
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
