"""A room of the package imports only from rooms below it, and no two modules import each other."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "loraport"
GROUND = ("__init__", "errors", "_entry", "_packaging", "artifacts", "provenance")
ROOMS = (
    "numerics",
    "runtime",
    "models",
    "adapters",
    "export",
    "transfer",
    "training",
    "calibration",
    "mapping",
    "methods",
    "evaluation",
    "upgrade",
    "planning",
    "report",
    "commands",
)
ENTRIES = ("api", "api_verdicts", "cli", "summary", "tables", "advice", "data", "oneoff")  # by name
ORDER = {name: floor for floor, name in enumerate((*GROUND, *ROOMS, *ENTRIES))}


def modules(package: Path) -> dict[str, Path]:
    """Dotted name below the package -> file."""
    paths = sorted(package.rglob("*.py"))
    names = [path.relative_to(package).with_suffix("").parts for path in paths]
    dotted = [".".join(n[:-1] if n[-1] == "__init__" and n[1:] else n) for n in names]
    return dict(zip(dotted, paths, strict=True))


def imports(package: Path, name: str, known: dict[str, Path]) -> Iterator[str]:
    """Modules of the package that one of them imports, those for type checking alone as well."""
    path = known[name]
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not (node.level or node.module):
            continue
        if node.level:
            base = path.relative_to(package).parts[: -node.level]
        elif node.module == "loraport" or node.module.startswith("loraport."):
            base, node.module = (), node.module.removeprefix("loraport").removeprefix(".")
        else:
            continue
        base = ".".join([*base, *filter(None, [node.module])])
        for alias in node.names:
            whole = f"{base}.{alias.name}" if base else alias.name
            target = next((each for each in (whole, base or "__init__") if each in known), None)
            if target and target != name:
                yield target


def arrows(package: Path) -> dict[str, list[str]]:
    known = modules(package)
    return {name: sorted(set(imports(package, name, known))) for name in known}


def upward(found: dict[str, list[str]]) -> list[str]:
    """Arrows from a room to one that is above it."""

    def floor(name: str) -> int:
        return ORDER[name.split(".")[0]]

    return [
        f"{name} -> {target}"
        for name, targets in found.items()
        for target in targets
        if floor(target) > floor(name)
    ]


def circles(found: dict[str, list[str]]) -> list[str]:
    """Modules that reach themselves, each circle once, as a path."""
    told, seen = [], set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            told.append(" -> ".join([*path[path.index(name) :], name]))
        elif name not in seen:
            for target in found[name]:
                walk(target, (*path, name))
            seen.add(name)

    for name in found:
        walk(name, ())
    return told


def test_every_room_has_its_floor():
    there = {path.stem for path in PACKAGE.glob("*.py")}
    there |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert there == set(ORDER)


def test_no_arrow_runs_up():
    assert upward(arrows(PACKAGE)) == []


def test_no_circle():
    assert circles(arrows(PACKAGE)) == []


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("from ..methods import Pair\n", (["numerics.linalg -> methods"], [])),
        ("def f():\n    from ..methods import Pair\n", (["numerics.linalg -> methods"], [])),
        (
            "from . import lowrank\n",
            ([], ["numerics.linalg -> numerics.lowrank -> numerics.linalg"]),
        ),
        ("from ..errors import LoraportError\n", ([], [])),
    ],
)
def test_what_is_told(tmp_path, source, told):
    for room in ("numerics", "methods"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("")
    (tmp_path / "errors.py").write_text("")
    (tmp_path / "numerics" / "lowrank.py").write_text("from .linalg import pinv\n")
    (tmp_path / "numerics" / "linalg.py").write_text(source)
    found = arrows(tmp_path)
    assert (upward(found), circles(found)) == told
