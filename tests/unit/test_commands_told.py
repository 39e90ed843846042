"""Commands that README and the documentation tell of exist, with their options and targets."""

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from loraport import cli, commands

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += [ROOT / "config/README.md", *(ROOT / "benchmarks").rglob("*.md")]
PAGES += [*(ROOT / "docs").rglob("*.md")]
PAGES = sorted(page for page in PAGES if "built" not in page.parts)
MAKEFILE = (ROOT / "Makefile").read_text()
NAMES = ("loraport", "snakemake", "make")
TOGETHER = re.compile(r"\s(?:&&|\|\|?|;)\s")
SHIPPED = "artifacts/nano_v1_to_v2/"  # of a pair whose models are here


def spans(page: Path) -> list[tuple[str, bool]]:
    """What a page sets as code, a line each, and whether it stands in a block."""
    text = re.sub(r"\\\n\s*", " ", page.read_text())
    blocks = re.findall(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", text, re.M | re.S)
    rest = re.sub(r"^( *)```.*?^\1```", "", text, flags=re.M | re.S)
    lines = [(line.strip(), True) for _, language, block in blocks
             if language in ("", "bash") for line in block.splitlines()]  # fmt: skip
    lines += [(line.strip(), True) for line in re.findall(r"^ {4}.+", rest, re.M)]
    return lines + [(" ".join(span.split()), False) for span in re.findall(r"`([^`]+)`", rest)]


def told(page: Path) -> list[tuple[list[str], bool]]:
    """The words of each command that is one of `NAMES`."""
    every = []
    for line, block in spans(page):
        for part in TOGETHER.split(line):
            try:
                words = shlex.split(part, comments=True)
            except ValueError:  # text with an apostrophe
                continue
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words and words[0] in NAMES:
                every.append((words, block))
    return every


@cache
def parsers():
    """`loraport`'s parser, and those of its commands."""
    whole = cli.parser()
    return whole, whole._subparsers._group_actions[0].choices


@cache
def options_of_snakemake() -> frozenset[str]:
    from snakemake.cli import get_argument_parser

    return frozenset(get_argument_parser()._option_string_actions)


def check_loraport(words: list[str], block: bool) -> None:
    whole, each = parsers()
    named = [word for word in words if re.fullmatch(r"-{1,2}[a-z][\w-]*", word.split("=")[0])]
    command = next((word for word in words if not word.startswith("-")), None)
    known = set(whole._option_string_actions)
    if command is not None and command != "COMMAND" and not command.startswith("…"):
        assert command in commands.names(), command
        known |= set(each[command]._option_string_actions)
    unknown = {word.split("=")[0] for word in named} - known
    assert not unknown, f"loraport {command} has no {unknown}"
    whole_line = block and command in each and not {"…", "COMMAND"} & set(words)
    if whole_line and "--help" not in words:
        whole.parse_args(words)  # ends the test where an argument is missing or wrong


def check_snakemake(words: list[str]) -> None:
    given = words[: words.index("--")] if "--" in words else words
    options = {word.split("=")[0] for word in given if re.match(r"--?[a-z]", word)}
    assert options <= options_of_snakemake(), options - options_of_snakemake()
    if {"-s", "--snakefile"} & set(given):  # another workflow, with settings of its own
        return
    sections = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    for setting in re.findall(r"^([a-z]+)=\{", "\n".join(given), re.M):
        assert setting in sections, setting


def check_make(words: list[str]) -> None:
    targets = set(re.findall(r"^([\w-]+):(?!=)", MAKEFILE, re.M))
    for word in words:
        if "=" in word:
            assert f"$({word.partition('=')[0]})" in MAKEFILE, word
        elif not word.startswith("-"):
            assert word in targets, word


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page_exist(page):
    for (name, *words), block in told(page):
        if name == "loraport":
            check_loraport(words, block)
        elif name == "snakemake":
            check_snakemake(words)
        else:
            check_make(words)


@pytest.mark.parametrize(
    "line",
    [
        "loraport transform OLD NEW A OUT",
        "loraport transfer OLD NEW A OUT --methods aligned",
        "loraport transfer OLD NEW",
        "make demos",
        "make compare APS=math",
        "snakemake --core 2",
        "snakemake --config 'fine={a: 1}' -- x",
    ],
)
def test_what_does_not_exist_is_noticed(line):
    name, *words = shlex.split(line)
    with pytest.raises((AssertionError, SystemExit)):
        if name == "loraport":
            check_loraport(words, True)
        elif name == "snakemake":
            check_snakemake(words)
        else:
            check_make(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_files_that_a_page_calls_are_there(page):
    code = "\n".join(line for line, _ in spans(page))
    for module in re.findall(r"python -m (loraport[\w.]*)", code):
        path = ROOT / "src" / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    for script in re.findall(r"python (?:-\w )?((?:benchmarks|resources|tests)/\S+\.py)", code):
        assert (ROOT / script).is_file(), script


def test_targets_of_the_shipped_pair_can_be_planned():
    targets = set()
    for page in PAGES:
        for (name, *words), _ in told(page):
            if name == "snakemake" and "--configfile" not in words:
                targets |= {word for word in words if word.startswith(SHIPPED)}
    # `padded` is the method that CONTRIBUTING adds
    targets = sorted(each for each in targets if not re.search(r"[…{*]|/padded/", each))
    assert len(targets) >= 4
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", "-n", "--quiet", "--forceall",
         "--workflow-profile", "none", "--nolock", "--", *targets],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
