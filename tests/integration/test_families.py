"""Whole transfers on pico pairs of every family, and across families, against the oracle."""

import json
from pathlib import Path

import families
import literal
import numpy as np
import pico
import pytest
import torch
from families import FAMILIES
from inprocess import PairRun

ACROSS = [
    ("llama", "qwen2"),
    ("mistral", "llama"),
    ("llama", "phi3"),  # separate into fused
    ("phi3", "llama"),  # and back
    ("llama", "gpt_neox"),  # gate has no home there
    ("bloom", "qwen3"),  # fused, and without a gate
]
SLOW = ("mistral", "qwen2", "qwen3", "gemma2", "gemma3", "olmo", "olmo2")  # alike to others
PAIRS = [
    pytest.param((name, name), marks=[pytest.mark.slow] * (name in SLOW)) for name in FAMILIES
] + [pytest.param(names, marks=[pytest.mark.slow] * ("mistral" in names)) for names in ACROSS]


@pytest.fixture(autouse=True)
def one_thread():
    """Pico models are too small to share: on a busy machine threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_adapter(directory: Path, name: str, model: Path, **kwargs) -> Path:
    modules = sorted({path.rpartition(".")[2] for path in FAMILIES[name].paths.values()})
    return pico.make_adapter(directory, model, seed=3, targets=modules, **kwargs)


def literal_updates(names, run, adapter, wi="code"):
    """The adapter carried by the literal algorithm on unfused weights."""
    old, new = (
        families.load_layers(name, run.models[side])
        for name, side in zip(names, ("old", "new"), strict=True)
    )
    tables = []
    for name, side in zip(names, ("old", "new"), strict=True):
        table = pico.read_tensors(run.models[side])[f"{FAMILIES[name].embedding}.weight"]
        vocabulary = json.loads((run.models[side] / "tokenizer.json").read_text())["model"]["vocab"]
        tables.append((table, vocabulary))
    shared = sorted(set(tables[0][1]) & set(tables[1][1]))
    E_old, E_new = (table[[vocabulary[t] for t in shared]] for table, vocabulary in tables)
    W_h = literal.hidden_map(E_old, E_new)
    before = families.load_updates(names[0], run.models["old"], adapter)
    roles = FAMILIES[names[1]].paths
    wanted = {place: update for place, update in before.items() if place[1] in roles}
    return literal.transfer(old, new, W_h, run.path(), wanted, wi)


def check_equal(got, expected):
    assert {place for place, (B, A, s) in got.items() if (s * B @ A).any()} == set(expected)
    for place, (B_lit, A_lit) in expected.items():
        B, A, s = got[place]
        size = np.linalg.norm(B_lit @ A_lit)
        assert np.linalg.norm(s * B @ A - B_lit @ A_lit) <= 2e-5 * size, place


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_transfer_equals_the_literal_algorithm(tmp_path, names):
    """Loaded by peft with no key missing or left over, and the same update in every role."""
    old = families.make_model(tmp_path / "old", names[0], seed=1)
    new = families.make_model(tmp_path / "new", names[1], seed=2, wider=True)
    adapter = make_adapter(tmp_path / "adapter", names[0], old)
    run = PairRun(tmp_path, old, new, pico.make_texts(tmp_path / "texts.txt", 24))
    carried = run.transferred(adapter)
    expected = literal_updates(names, run, adapter)
    check_equal(families.load_updates(names[1], new, carried), expected)
    report = json.loads((carried / "transfer.json").read_text())
    gates = [path for path in report["left_behind"] if "gate" in path]
    assert bool(gates) == (names == ("llama", "gpt_neox"))
