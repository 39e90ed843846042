"""The project's door: versions agree, files are there, commands that pages name exist."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from loraport import commands

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "config/README.md")),
    *(ROOT / "benchmarks").rglob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
]
PAGES = [page for page in PAGES if page.is_file() and "built" not in page.parts]
MAKE_TARGETS = set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(), re.M))


def code_of(page: Path) -> str:
    """What a page sets as code: fenced and indented blocks and what stands between backticks."""
    text = page.read_text()
    fenced = re.findall(r"^```.*?\n(.*?)^```", text, re.M | re.S)
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return "\n".join(
        [*fenced, *re.findall(r"`([^`]+)`", text), *re.findall(r"^ {4}.+", text, re.M)]
    )


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_a_page_names_exist(page):
    code = code_of(page)
    named = re.findall(r"(?:^|[\s`(;&|])loraport ([a-z]+)\b", code, re.M)
    assert set(named) <= set(commands.names())
    made = re.findall(r"(?:^|[\s`])make ((?:[a-z][\w-]*)(?: [a-z][\w-]*)*)", code, re.M)
    assert {target for each in made for target in each.split()} <= MAKE_TARGETS
    for module in re.findall(r"python -m (loraport[\w.]*)", code):
        path = ROOT / "src" / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    for script in re.findall(r"python (?:-\w )?((?:benchmarks|resources|tests)/\S+\.py)", code):
        assert (ROOT / script).is_file(), script


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
