"""Rules that compute nothing with tensors import no torch: it takes two seconds and 200 MiB."""

import ast
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "workflow" / "scripts"
LIGHT = [
    "account", "advice", "advice_page", "compared", "distance", "fleet", "layers", "lora_source",
    "magnitude", "model_merged", "plots_app", "plots_distance", "plots_methods",
    "plots_methods_of_apps", "plots_pair", "spec", "table", "tables", "transferred",
]  # fmt: skip


def imports_of(script):
    """The lines of a script that import, wherever they stand."""
    tree = ast.parse((SCRIPTS / f"{script}.py").read_text())
    kinds = (ast.Import, ast.ImportFrom)
    return [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, kinds)]


def test_light_rules_import_no_torch():
    """One process for all: the first script that brings torch is named."""
    lines = ["import sys"]
    for script in LIGHT:
        lines += [*imports_of(script), f"assert 'torch' not in sys.modules, {script!r}"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
