"""A pair whose artifacts are all there, for faults to be put under."""

import shutil

import pytest
from inprocess import PairRun
from workdir import Workdir


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Workdir:
    return Workdir(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def finished(template, tmp_path_factory) -> PairRun:
    """A pair whose artifacts are all there."""
    root = template.root
    run = PairRun(
        tmp_path_factory.mktemp("made") / "artifacts", root / "old", root / "new",
        root / "texts.txt", minibatch=8,
    )  # fmt: skip
    run.transferred(root / "adapter")
    return run


@pytest.fixture
def run(finished, template, tmp_path) -> PairRun:
    """A copy of it, of its models and of its adapter."""
    work = template.copy(tmp_path / "work")
    shutil.copytree(finished.folder, tmp_path / "artifacts")
    models = work.root / "old", work.root / "new", work.root / "texts.txt"
    return PairRun(tmp_path / "artifacts", *models, minibatch=8)
