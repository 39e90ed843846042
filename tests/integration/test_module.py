"""loraport as a module of another workflow: docs/module, from a path and from GitHub."""

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


def run(root: Path, where: str, *arguments: str, **environment: str) -> str:
    """Run the example with the module's snakefile at `where`."""
    text = (EXAMPLE / "Snakefile").read_text()
    edited, count = re.subn(r"github\(.*\)", where, text)
    assert count == 1
    (root / "Snakefile").write_text(edited)
    environment |= {"PYTHONPATH": str(PROJECT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", *arguments], cwd=root, text=True,
        env={**os.environ, **environment},
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


@pytest.fixture(scope="module")
def hosted(tmp_path_factory) -> dict[str, str]:
    """Environment in which git finds a bare repository on this disk at GitHub's address."""
    root = tmp_path_factory.mktemp("hosted")
    for folder in ("rules", "workflow"):
        shutil.copytree(PROJECT / folder, root / "clone" / folder)
    shutil.copy(PROJECT / "environment.yml", root / "clone")
    who = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    for words in (
        ["init", "--quiet"],
        ["add", "."],
        [*who, "commit", "--quiet", "-m", "a release"],
        ["tag", "v0.1.0"],
        ["clone", "--quiet", "--bare", ".", str(root / "OWNER/loraport")],
    ):
        alone = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull}  # no signing, no hooks
        subprocess.run(["git", *words], cwd=root / "clone", check=True, env=alone)
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{root}/.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/",
        "XDG_CACHE_HOME": str(root / "cache"),
    }


def as_written() -> str:
    """Where the example itself says that the module is."""
    return re.search(r"github\(.*\)", (EXAMPLE / "Snakefile").read_text())[0]


def new_folder(work: Path, folder: Path) -> Path:
    made = shutil.ignore_patterns("artifacts", "released", ".snakemake")
    return shutil.copytree(work, folder, ignore=made)


def test_a_module_from_github_is_planned(work, hosted, tmp_path):
    other = new_folder(work, tmp_path / "other")
    said = run(other, as_written(), "-n", **hosted)
    assert planned(said) == {**WHOLE, "all": 1, "released": 1, "total": sum(WHOLE.values()) + 2}
    assert (other / ".snakemake/loraport/workflow/scripts/spec.py").is_file()


@pytest.mark.slow
def test_a_module_from_github_carries_an_adapter(work, hosted, tmp_path):
    other = new_folder(work, tmp_path / "other")
    run(other, as_written(), **hosted)
    listed = (other / "released/math.txt").read_text().split()
    assert {"adapter_config.json", "adapter_model.safetensors", "transfer.json"} <= set(listed)
    assert "Nothing to be done" in run(other, as_written(), "-n", **hosted)
