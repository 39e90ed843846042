"""The project's door: versions agree, files are there, commands that pages name exist."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
MAKE_TARGETS = set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(), re.M))


def test_versions_agree():
    released = re.findall(r"^## \[(.+?)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert released[0][0] == PROJECT["version"] == CITATION["version"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d|unreleased", day) for _, day in released)


def test_the_licence_is_said_alike_everywhere():
    assert PROJECT["license"] == CITATION["license"] == "Apache-2.0"
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License" in licence and "Copyright 2026 The loraport authors" in licence
    assert "Apache-2.0" in (ROOT / "README.md").read_text()
    assert "Apache-2.0" in (ROOT / "resources/nano/README.md").read_text()


def test_one_address_of_the_repository():
    addresses = {PROJECT["urls"]["Repository"], CITATION["repository-code"]}
    assert len(addresses) == 1
    site = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader=yaml.BaseLoader)
    assert addresses == {site["repo_url"]}
    named = re.search(r'github\("(.+?)"', (ROOT / "docs/module/Snakefile").read_text())[1]
    assert addresses.pop().endswith(named)


def test_make_targets_are_listed_and_phony():
    phony = re.search(r"^\.PHONY: (.+)", (ROOT / "Makefile").read_text(), re.M)[1].split()
    assert set(phony) == MAKE_TARGETS


def test_ci_runs_the_pythons_that_the_package_promises():
    named = "Programming Language :: Python :: 3."
    promised = {each.rpartition(" ")[2] for each in PROJECT["classifiers"] if named in each}
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    for job in ("test", "wheel"):
        assert set(jobs[job]["strategy"]["matrix"]["python-version"]) == promised
    assert min(promised) == PROJECT["requires-python"].removeprefix(">=")
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    made = {target for each in commands for target in re.findall(r"^make (\S+)$", each, re.M)}
    assert made == {"lint", "docs", "test"}


def test_hooks_are_tools_that_the_lock_installs():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    lock = (ROOT / "requirements.lock").read_text()
    tools = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in local["hooks"]}
    assert tools == {"ruff", "snakefmt", "codespell"}
    assert all(f"\n{tool}==" in lock for tool in tools)
