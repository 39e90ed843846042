"""loraport as a module of another workflow: docs/module, from a path and out of a repository."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pico
import pytest
from workdir import PROJECT, SIZES

MODULE = str(PROJECT / "rules" / "module.smk")
EXAMPLE = PROJECT / "docs" / "module"
RULES = {"spec": 2, "activations": 2, "embedding": 1, "cka": 1, "layers": 1, "heads": 1, "maps": 1}


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """The example's working directory, with pico models."""
    root = tmp_path_factory.mktemp("other")
    shutil.copy(EXAMPLE / "config.yaml", root)
    for seed, (name, sizes) in enumerate(SIZES.items(), 1):
        pico.make_model(root / "models" / name, seed=seed, vocab_words=200 + 20 * seed, **sizes)
    pico.make_adapter(root / "adapter", root / "models/old", seed=3)
    pico.make_texts(root / "texts.txt", 40)
    (root / "adapters.tsv").write_text("app\tmodel\tsource\ttask\nmath\told\tadapter\t\n")
    return root


def run(root: Path, where: str, *arguments: str) -> str:
    """Run the example with the module's snakefile at `where`."""
    text = (EXAMPLE / "Snakefile").read_text()
    edited, count = re.subn(r"github\(.*\)", where, text)
    assert count == 1
    (root / "Snakefile").write_text(edited)
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", *arguments], cwd=root, text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def planned(said: str) -> dict[str, int]:
    table = said.partition("Job stats:")[2].partition("\n\n")[0]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.M)}


WHOLE = {f"loraport_{name}": count for name, count in {**RULES, "transferred": 1}.items()}


def test_the_module_holds_the_rules_of_the_snakefile():
    found = [re.findall(r'^include: "(.*)"$', file.read_text(), re.M) for file in (
        PROJECT / "Snakefile", Path(MODULE))]  # fmt: skip
    assert found[0] == [f"rules/{name}" for name in found[1]]


@pytest.mark.slow
def test_a_local_module_carries_an_adapter(work):
    said = run(work, repr(MODULE))
    assert planned(said) == {**WHOLE, "all": 1, "released": 1, "total": sum(WHOLE.values()) + 2}
    listed = (work / "released/math.txt").read_text().split()
    assert {"adapter_config.json", "adapter_model.safetensors", "transfer.json"} <= set(listed)
    assert not (work / "config").exists()
    again = run(work, repr(MODULE), "-n")
    assert "Nothing to be done" in again


def test_out_of_a_repository_all_rules_are_read(work, tmp_path):
    """As far as Snakemake 9.27 goes with a `gitfile`: its plan fails there at any script."""
    if not (PROJECT / ".git").exists():
        pytest.skip("the project lies in no git repository")
    other = tmp_path / "other"
    shutil.copytree(work, other, ignore=shutil.ignore_patterns("artifacts", ".snakemake"))
    where = f'gitfile({str(PROJECT)!r}, path="rules/module.smk", ref="HEAD")'
    listed = run(other, where, "--list-rules").split()
    assert set(WHOLE) <= set(listed)
    assert (other / ".snakemake/loraport/workflow/scripts/spec.py").is_file()
