"""Fixtures that all tests share; makes `import literal` and `import pico` work from any test."""

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # also of what tests start
sys.path.insert(0, str(Path(__file__).parent))

import forks
import pico
import pytest
import torch
from transformers.utils import logging as hf_logging

if "LORAPORT_TEST_CACHE" not in os.environ:  # the workers of a run share that of its first process
    forks.offer(Path(tempfile.mkdtemp(prefix="loraport_tests_")))
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)  # workers share the cores
hf_logging.disable_progress_bar()


@dataclass(frozen=True)
class Pair:
    """A pico model pair on disk with an adapter of the old model and calibration texts."""

    old: Path
    new: Path
    adapter: Path
    texts: Path


@pytest.fixture(scope="session")
def pico_pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A pair that differs in width, depth, heads and attention kind; an adapter on all modules."""
    root = tmp_path_factory.mktemp("pico")
    sizes = {"hidden": 32, "intermediate": 56, "layers": 3, "heads": 4, "kv_heads": 2}
    old = pico.make_model(root / "old", seed=1, vocab_words=220, **sizes)
    sizes = {"hidden": 48, "intermediate": 80, "layers": 4, "heads": 6, "kv_heads": 6}
    new = pico.make_model(root / "new", seed=2, vocab_words=240, **sizes)
    adapter = pico.make_adapter(root / "adapter", old, seed=3)
    return Pair(old, new, adapter, pico.make_texts(root / "texts.txt", 40))


@pytest.fixture
def own_processes(monkeypatch):
    """What a test starts begins as it does for a user, and not as a fork; see forks."""
    monkeypatch.delenv("LORAPORT_TEST_DOOR", raising=False)


@pytest.fixture
def one_thread():
    """Pico models are too small to share: on a busy machine threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
