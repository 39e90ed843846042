"""The tutorial's commands, as they are written, in a fresh folder, from a wheel."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_wheel import built_wheel
from workdir import PROJECT

from loraport.artifacts import read_json
from loraport.report.render import read_csv

pytestmark = pytest.mark.slow
TEXT = (PROJECT / "docs" / "tutorial.md").read_text()


def blocks(language: str) -> list[str]:
    """The page's blocks of code in a language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.M | re.S)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, str]:
    """The folder after all commands, and what they said; the wheel stands before other installs."""
    root = tmp_path_factory.mktemp("tutorial")
    site, work = root / "site", root / "work"
    work.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target"]
    subprocess.run([*install, str(site), str(built_wheel(root / "wheel"))], check=True)
    script = "\n".join(["set -euo pipefail", *blocks("bash"), "python use.py"])
    (work / "use.py").write_text("\n".join(blocks("python")))
    paths = [site / "bin", Path(sys.executable).parent, os.environ["PATH"]]
    ran = subprocess.run(
        ["bash", "-c", script], cwd=work, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={
            **os.environ,
            "PATH": os.pathsep.join(map(str, paths)),
            "PYTHONPATH": str(site),
            "NANO": str(PROJECT / "resources/nano"),
            "TOKENIZERS_PARALLELISM": "false",
        },
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-4000:]
    return work, ran.stdout


def test_the_workflow_is_that_of_the_wheel_and_a_verdict_is_there(done):
    work, told = done
    assert "steps to do" in told and "Traceback" not in told and "UserWarning" not in told
    verdict = read_json(work / "upgraded/verdict.json", "verdict")
    assert f"quiz: {verdict['verdict']}" in told
    assert (work / "verdict.json").is_file()  # of `loraport check`
    config = (work / "loraport.yaml").read_text()
    assert "_workflow" in config and str(PROJECT) not in config


def test_scores_and_the_page_are_there(done):
    work, told = done
    rows = {row["stage"]: row for row in read_csv(work / "artifacts/old_to_new/tables/quiz.csv")}
    assert rows["old_lora"]["average"] > 0.8 and "finetuned" in rows
    assert (work / "artifacts/old_to_new/report.html").is_file()
    assert "Question: You hear a bee" in told  # by PEFT, at the end
