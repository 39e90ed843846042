"""What a result was made with: package versions, and a hash of the code that a rule runs.

Snakemake sees an edit of a script but not of the package that the script imports: rules carry the
hash in their params, so that an edit redoes what used the module and nothing else.
"""

import ast
import hashlib
import platform
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).parent
# no number passes through: edits redo nothing
FRAME = (
    "errors.py",
    "runtime/job.py",
    "runtime/memory.py",
    "planning/needs.py",
    "planning/sizes.py",
    "planning/times.py",
    "planning/layout.py",
)
BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")  # of statements inside a statement
LIBRARIES = ("numpy", "scipy", "torch", "transformers", "peft", "safetensors", "h5py", "tokenizers")


def versions(*names: str) -> dict[str, str]:
    """Versions of Python and of the named packages (default: those that numbers depend on)."""
    return {
        "python": platform.python_version(),
        **{each: _version(each) for each in names or LIBRARIES},
    }


@cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def code_hash(*entries: str | Path) -> str:
    """Hash of files and of every module of this package that they import, directly or not.

    Parameters
    ----------
    entries : Python files, or names of modules of the package (`methods.lorasuite`)

    Returns
    -------
    16 hexadecimal digits, the same wherever the package lies
    """
    seen: dict[str, str] = {}
    waiting = [
        entry if isinstance(entry, Path) else PACKAGE / f"{entry.replace('.', '/')}.py"
        for entry in entries
    ]
    while waiting:
        path = waiting.pop()
        name = _name(path)
        if name in seen or name in FRAME:
            continue
        seen[name], imported = _scan(path)
        waiting += imported
    return hashlib.sha256(repr(sorted(seen.items())).encode()).hexdigest()[:16]


@cache
def _name(path: Path) -> str:
    """A file's path below the package; of another file its own name."""
    if path.is_relative_to(PACKAGE):
        return str(path.relative_to(PACKAGE))
    return f"script {path.name}"


@cache
def _scan(path: Path) -> tuple[str, tuple[Path, ...]]:
    """Hash of a file, with the data beside a package's __init__, and the modules it imports."""
    source = path.read_bytes()
    data = path.parent.glob("*.json") if path.name == "__init__.py" else ()
    digest = hashlib.sha256(source + b"".join(each.read_bytes() for each in sorted(data)))
    imported: set[Path] = set()
    for statement in import_statements(source):
        for module in _modules(statement, path):
            for candidate in (PACKAGE / f"{module}.py", PACKAGE / module / "__init__.py"):
                if candidate.is_file():
                    imported.add(candidate)
    return digest.hexdigest(), tuple(sorted(imported))


def import_statements(source: bytes) -> Iterator[ast.Import | ast.ImportFrom]:
    """All import statements of a file, also those inside functions; expressions are passed over.

    Raises
    ------
    SyntaxError, ValueError
        If the file is no Python.
    """
    nodes: list[ast.AST] = [ast.parse(source)]
    for node in nodes:  # which grows meanwhile
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        for block in BLOCKS:
            inner = getattr(node, block, ())
            nodes += inner if isinstance(inner, list) else ()  # a lambda's body is one expression


def _modules(statement: ast.Import | ast.ImportFrom, path: Path) -> list[str]:
    """Modules of this package that an import statement may name, as paths without .py."""
    if isinstance(statement, ast.Import):
        names = [alias.name for alias in statement.names]
    else:
        if statement.level:
            here = path.parent
            for _ in range(statement.level - 1):
                here = here.parent
            if not here.is_relative_to(PACKAGE):
                return []
            parts = ["loraport", *here.relative_to(PACKAGE).parts]
        else:
            parts = []
        base = ".".join([*parts, *([statement.module] if statement.module else [])])
        names = [base, *(f"{base}.{alias.name}" for alias in statement.names)]
    inside = [name.split(".")[1:] for name in names if name.split(".")[0] == PACKAGE.name]
    return ["/".join(parts) for parts in inside if parts]
