"""A wheel: what it holds, and that what is installed from it runs away from the checkout."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest
from workdir import PROJECT

LEFT_OUT = (
    ".git",
    ".venv",
    "artifacts",
    ".snakemake",
    "built",
    "*.egg-info",
    "__pycache__",
    "build",
)


def built_wheel(root: Path) -> Path:
    """A wheel, built in a folder from a copy, so that nothing is left in the checkout."""
    root.mkdir(exist_ok=True)
    shutil.copytree(PROJECT, root / "copy", ignore=shutil.ignore_patterns(*LEFT_OUT))
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", root]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *map(str, options), str(root / "copy")], check=True
    )
    (built,) = root.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """One for all tests."""
    return built_wheel(tmp_path_factory.mktemp("wheel"))


def test_it_holds_the_package_the_workflow_and_the_licence(wheel):
    names = set(ZipFile(wheel).namelist())
    package = PROJECT / "src" / "loraport"
    files = [path for path in package.rglob("*") if path.is_file()]
    for path in files:
        if "__pycache__" not in path.parts:
            assert f"loraport/{path.relative_to(package)}" in names
    assert "loraport/py.typed" in names
    assert any(name.startswith("loraport/models/families/") for name in names)
    for part in ("rules", "workflow/scripts", "workflow/schemas", "workflow/report"):
        for path in (PROJECT / part).iterdir():
            if path.is_file():
                assert f"loraport/_workflow/{part}/{path.name}" in names
    assert any(re.fullmatch(r"loraport-.+\.dist-info/licenses/LICENSE", name) for name in names)


def test_its_metadata_says_version_and_licence(wheel):
    archive = ZipFile(wheel)
    (name,) = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
    metadata = archive.read(name).decode()
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nVersion: {version}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata


def test_what_is_installed_inspects_and_plans_away_from_the_checkout(wheel, pico_pair, tmp_path):
    ZipFile(wheel).extractall(tmp_path / "site")
    shown = "import loraport, sys; from loraport.cli import main; print(loraport.__file__); "
    command = [sys.executable, "-c", shown + "sys.exit(main())"]

    def call(*arguments) -> str:
        done = subprocess.run(
            [*command, *map(str, arguments)], cwd=tmp_path, capture_output=True, text=True,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path / "site")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert str(tmp_path / "site") in done.stdout.splitlines()[0]
        return done.stdout

    assert "k_proj" in call("inspect", pico_pair.adapter)
    assert "maps" in call("plan", pico_pair.old, pico_pair.new)
