"""Every path of an artifact and of a log is said once, and rules, scripts and logs agree."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from loraport.commands import _one_run
from loraport.planning import layout

PROJECT = Path(__file__).parents[3]
PACKAGE = PROJECT / "src" / "loraport"
RULES = sorted((PROJECT / "rules").glob("*.smk"))
LINES = [line for path in (*RULES, PROJECT / "Snakefile") for line in path.read_text().split("\n")]
STARTS = re.compile(r"\s*(?:use )?rule (\w+)(?: as (\w+) with)?:(?:  #.*)?$")
PATH = re.compile(r"artifacts/(?!\s)")  # "artifacts/ that this user may write" is no path


def rule_lines() -> dict[str, tuple[str, list[str]]]:
    """Rule -> the rule that it is made from, or empty, and its lines."""
    rules: dict[str, tuple[str, list[str]]] = {}
    name = ""
    for line in LINES:
        if match := STARTS.match(line):
            base, twin = match.groups()
            name = twin or base
            rules[name] = (base if twin else "", [])
        elif name:
            rules[name][1].append(line.strip())
    return rules


def literals(source: str) -> list[str]:
    """Text of a module's strings, but for docstrings."""
    tree = ast.parse(source)
    bodies = [getattr(node, "body", None) for node in ast.walk(tree)]
    docs = {id(body[0].value) for body in bodies
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr)}  # fmt: skip
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    ]


def test_no_path_of_an_artifact_is_said_outside_the_layout():
    found = {
        str(path.relative_to(PACKAGE)): [each for each in literals(path.read_text())
                                         if PATH.search(each)]
        for path in PACKAGE.rglob("*.py") if path.name != "layout.py"
    }  # fmt: skip
    assert {name: paths for name, paths in found.items() if paths} == {}
    assert not [line for line in LINES if PATH.search(line) and not line.lstrip().startswith("#")]
    scripts = (PROJECT / "workflow" / "scripts").glob("*.py")
    assert not [path for path in scripts if PATH.search(path.read_text())]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ('x = f"artifacts/{pair}/maps"', True),
        ('x = "artifacts/.resume/scores"', True),
        ('def f():\n    """Such as artifacts/p/maps."""', False),
        ('x = "artifacts/ that this user may write"', False),
    ],
)
def test_what_is_a_path(source, told):
    assert any(PATH.search(each) for each in literals(source)) == told


def test_every_rule_has_its_log_in_the_layout():
    rules = {name: lines for name, (_, lines) in rule_lines().items() if name != "all"}
    logs = {name: lines[lines.index("log:") + 1] for name, lines in rules.items()}
    evaluated = {f"evaluated_{side}": f'look.scores_log("{side}"),' for side in ("new",)}
    assert logs == {name: evaluated.get(name, f'layout.LOGS["{name}"],') for name in rules}
    assert set(logs) == set(layout.LOGS)


def test_a_rule_runs_the_script_of_its_name():
    scripts = {path.stem for path in (PROJECT / "workflow" / "scripts").glob("*.py")}
    rules = {name: lines for name, (base, lines) in rule_lines().items() if not base}
    run = {name: Path(lines[lines.index("script:") + 1].strip('"')).stem
           for name, lines in rules.items() if "script:" in lines}  # fmt: skip
    assert run == {name: name for name in rules if name != "all"}
    assert set(run) == scripts
    twins = {name: lines for name, (base, lines) in rule_lines().items() if base}
    assert not [name for name, lines in twins.items() if "script:" in lines]


def test_a_rule_carries_the_hash_of_the_script_that_it_runs():
    rules = rule_lines()
    for name, (_, lines) in rules.items():
        origin = name
        while rules[origin][0]:
            origin = rules[origin][0]
        told = [match[1] for line in lines if (match := re.match(r'code=look\.\w+\("(\w+)"', line))]
        assert told in ([origin], [] if rules[name][0] or name == "all" else None), name


def test_files_of_rules_hold_rules_and_are_short():
    counts = {path.name: path.read_text().count("\n") for path in RULES}
    assert counts.pop("common.smk") < 60
    assert max(counts.values()) < 150, counts


def test_no_two_rules_have_one_log():
    anonymous = [re.sub(r"\{\w+\}", "{}", pattern) for pattern in layout.LOGS.values()]
    assert max(Counter(anonymous).values()) == 1


def test_a_log_tells_its_rule():
    names = {"model": "m", "pair": "p", "app": "a", "method": "x", "seed": 3, "examples": 9}
    names |= {"name": "rank", "value": 2}
    told = {rule: layout.rule_of(layout.log(rule, **names)) for rule in layout.LOGS}
    assert told == {rule: rule for rule in layout.LOGS}
    assert layout.rule_of("elsewhere/x.log") == ""


@pytest.mark.parametrize(
    ("artifact", "log"),
    [
        ("artifacts/models/old/spec.json", "artifacts/models/old/logs/spec.log"),
        ("artifacts/p/heads.h5", "artifacts/p/logs/heads.log"),
        ("artifacts/p/variants/v/cka.h5", "artifacts/p/variants/v/logs/cka.log"),
        ("artifacts/p/output_maps/m.h5", "artifacts/p/logs/output_maps/m.log"),
    ],
)
def test_what_is_shared_has_the_log_of_its_rule(artifact, log):
    assert layout.log_of(artifact) == log


def test_what_is_not_shared_has_none():
    with pytest.raises(ValueError, match="no artifact that workflows share"):
        layout.log_of("artifacts/p/a/lora_transferred")


def test_the_readme_tells_which_names_are_reserved():
    text = (PROJECT / "config" / "README.md").read_text()
    sentence = next(line for line in text.split("\n") if line.startswith("Names match"))
    told = re.findall(r"`(\w+)`", sentence)
    assert told == [*layout.RESERVED_PAIRS, *layout.RESERVED_APPS, *layout.RESERVED_VARIANTS]


def test_no_adapter_of_one_command_takes_a_reserved_name(tmp_path):
    folders = tuple(tmp_path / name for name in layout.RESERVED_APPS)
    request = _one_run.Request("old", "new", folders, folders)
    assert request.apps == [f"{name}_2" for name in layout.RESERVED_APPS]
