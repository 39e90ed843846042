"""What a result was made with: package versions, and a hash of the code that a rule runs.

Snakemake sees an edit of a script but not of the package that the script imports: rules carry the
hash in their params, so that an edit redoes what used the module and nothing else.
"""

import ast
import hashlib
import platform
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
    "planning/layout.py",
)
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
        inside = path.is_relative_to(PACKAGE)
        name = str(path.relative_to(PACKAGE)) if inside else f"script {path.name}"
        if name in seen or name in FRAME:
            continue
        seen[name], imported = _scan(path)
        waiting += imported
    return hashlib.sha256(repr(sorted(seen.items())).encode()).hexdigest()[:16]


@cache
def _scan(path: Path) -> tuple[str, tuple[Path, ...]]:
    """Hash of a file, with the data beside a package's __init__, and the modules it imports."""
    source = path.read_bytes()
    data = path.parent.glob("*.json") if path.name == "__init__.py" else ()
    digest = hashlib.sha256(source + b"".join(each.read_bytes() for each in sorted(data)))
    imported: set[Path] = set()
    for node in ast.walk(ast.parse(source)):
        for module in _modules(node, path):
            for candidate in (PACKAGE / f"{module}.py", PACKAGE / module / "__init__.py"):
                if candidate.is_file():
                    imported.add(candidate)
    return digest.hexdigest(), tuple(sorted(imported))


def _modules(node: ast.AST, path: Path) -> list[str]:
    """Modules of this package that an import statement may name, as paths without .py."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        if node.level:
            here = path.parent
            for _ in range(node.level - 1):
                here = here.parent
            if not here.is_relative_to(PACKAGE):
                return []
            parts = ["loraport", *here.relative_to(PACKAGE).parts]
        else:
            parts = []
        base = ".".join([*parts, *([node.module] if node.module else [])])
        names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
    else:
        return []
    inside = [name.split(".")[1:] for name in names if name.split(".")[0] == PACKAGE.name]
    return ["/".join(parts) for parts in inside if parts]
