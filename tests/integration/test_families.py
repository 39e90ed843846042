"""Whole transfers on pico pairs of every family, and across families, against the oracle."""

import json
import re
from dataclasses import replace
from pathlib import Path

import families
import literal
import numpy as np
import pico
import pytest
import torch
from families import FAMILIES
from inprocess import PairRun
from peft import AdaLoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from loraport.adapters.attach import attach
from loraport.adapters.files import read_adapter

pytestmark = pytest.mark.usefixtures("one_thread")

ACROSS = [
    ("llama", "qwen2"),
    ("mistral", "llama"),
    ("llama", "phi3"),  # separate into fused
    ("phi3", "llama"),  # and back
    ("llama", "gpt_neox"),  # gate has no home there
    ("bloom", "qwen3"),  # fused, and without a gate
    ("arcee", "glm4"),  # without a gate into gate and up as one
    ("llama", "gpt_oss"),  # one feed-forward network into a mixture of experts
    ("qwen3_moe", "phi3"),  # and back
    ("qwen3", "qwen3_5_text"),  # into layers some of which have linear attention
    ("qwen3_5", "qwen3"),  # and back
    ("gemma3", "gemma4"),  # into layers of which some have no values of their own
    ("gemma4_multimodal", "gemma3"),  # from layers that read others' keys and values
]
SLOW = (
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "gemma3_multimodal",
    "olmo",
    "olmo2",
    "ministral3",
    "olmo3",
    "smollm3",
    "exaone4",
    "hunyuan_v1_dense",
    "ernie4_5",
    "seed_oss",
    "nemotron",
    "apertus",
    "cohere2",
    "qwen2_5_vl",
    "qwen3_vl",
    "mistral3",
    *(name for name in families.MIXTURES if name not in ("qwen3_moe", "gpt_oss")),
)  # alike to others
PAIRS = [
    pytest.param((name, name), marks=[pytest.mark.slow] * (name in SLOW)) for name in FAMILIES
] + [pytest.param(names, marks=[pytest.mark.slow] * ("mistral" in names)) for names in ACROSS]


def make_adapter(directory: Path, name: str, model: Path, **kwargs) -> Path:
    targets = families.targets(name)
    return pico.make_adapter(directory, model, seed=3, targets=targets, **kwargs)


def literal_updates(names, run, adapter, wi="code"):
    """The adapter carried by the literal algorithm on unfused weights."""
    old, new = (
        families.load_layers(name, run.models[side])
        for name, side in zip(names, ("old", "new"), strict=True)
    )
    tables = []
    for name, side in zip(names, ("old", "new"), strict=True):
        table = families.read_tensors(run.models[side])[f"{FAMILIES[name].embedding}.weight"]
        vocabulary = json.loads((run.models[side] / "tokenizer.json").read_text())["model"]["vocab"]
        tables.append((table, vocabulary))
    shared = sorted(set(tables[0][1]) & set(tables[1][1]))
    E_old, E_new = (table[[vocabulary[t] for t in shared]] for table, vocabulary in tables)
    W_h = literal.hidden_map(E_old, E_new)
    before = families.load_updates(names[0], run.models["old"], adapter)
    served = dict(run.path())
    wanted = {
        (layer, role): update
        for (layer, role), update in before.items()
        if layer in served and role in families.roles(names[1], served[layer])
    }
    published = {place: each for place, each in wanted.items() if place[1] in literal.ROLES}
    carried = literal.transfer(old, new, W_h, run.path(), published, wi)
    sides = zip(names, ("old", "new"), strict=True)
    others = [families.load_others(name, run.models[side]) for name, side in sides]
    for (i, role), (B, A, s) in wanted.items():
        if role not in literal.ROLES and (j := served[i], role) in others[1]:
            weights = others[0][i, role], others[1][j, role]
            delta = as_published(role, old[i], new[j], weights, W_h, s * (B @ A), wi)
            carried[j, role] = literal.truncate(delta, len(A))
    return carried


def as_published(role, old, new, weights, W_h, delta, wi):
    """A role that the paper does not name, by the formula of one that it does: the gate of
    attention as q, by the heads that are matched; linear attention as up and down.
    """
    like = {"q_gate": "q", "linear_o": "down"}.get(role, "up")
    pairs = literal.assign(literal.head_similarity(old, new, W_h)) if like == "q" else []
    old, new = (replace(each, **{like: w}) for each, w in zip((old, new), weights, strict=True))
    return literal.transfer_module(like, old, new, W_h, pairs, delta, wi)


def check_equal(got, expected):
    assert {place for place, (B, A, s) in got.items() if (s * B @ A).any()} == set(expected)
    for place, (B_lit, A_lit) in expected.items():
        B, A, s = got[place]
        size = np.linalg.norm(B_lit @ A_lit)
        assert np.linalg.norm(s * B @ A - B_lit @ A_lit) <= 2e-5 * size, place


# layer 0 has linear attention, or keys are values in layer 1
INTO_LAYERS_WITHOUT_VALUES = ("qwen3", "qwen3_5_text"), ("gemma3", "gemma4")


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
    served = {layer for layer, _ in run.path()}  # a layer that serves none is told elsewhere
    gates = [
        path
        for path in report["left_behind"]
        if "gate" in path and int(re.search(r"\.(\d+)\.", path)[1]) in served
    ]
    assert bool(gates) == (names in (("llama", "gpt_neox"), ("llama", "gpt_oss")))
    told = [line for line in report["warnings"] if "left behind" in line]
    borrowed = [line for line in report["warnings"] if "get no update" in line]
    assert bool(borrowed) == (names == ("gemma4_multimodal", "gemma3"))
    if names == ("qwen3_5", "qwen3"):
        assert len(told) == 2 and "linear_attn" in told[0] and "rows of q_gate" in told[1]
    elif names in INTO_LAYERS_WITHOUT_VALUES:
        assert "self_attn.v_proj of 1 layers will be left behind" in told[0] and len(told) == 1
    else:
        assert len(told) == bool(gates)


@pytest.fixture(scope="module")
def into_fused(tmp_path_factory):
    """Separate modules into fused ones: Llama → Phi-3."""
    root = tmp_path_factory.mktemp("into_fused")
    old = families.make_model(root / "old", "llama", seed=1)
    new = families.make_model(root / "new", "phi3", seed=2, wider=True)
    return PairRun(root, old, new, pico.make_texts(root / "texts.txt", 24))


def norms(updates, layer, roles):
    return np.sqrt(
        sum(np.linalg.norm(s * B @ A) ** 2 for B, A, s in (updates[layer, r] for r in roles))
    )


def test_ranks_and_scales_that_differ_are_kept_when_modules_are_fused(tmp_path, into_fused):
    adapter = make_adapter(
        tmp_path / "uneven",
        "llama",
        into_fused.models["old"],
        rank_pattern={"q_proj": 2, "k_proj": 5, "up_proj": 1},
        alpha_pattern={"v_proj": 40, "gate_proj": 1},
    )
    carried = into_fused.transferred(adapter)
    names = "llama", "phi3"
    expected = literal_updates(names, into_fused, adapter)
    check_equal(families.load_updates("phi3", into_fused.models["new"], carried), expected)
    config = json.loads((carried / "adapter_config.json").read_text())
    ranks = {config["r"], *config["rank_pattern"].values()}
    assert ranks == {2 + 5 + 4, 1 + 4, 4}  # q, k and v; gate and up; o and down


def test_roles_that_an_adapter_leaves_alone_stay_alone(tmp_path, into_fused):
    """Only v, and only in layer 1: no update in other rows, no module in other mapped layers."""
    adapter = pico.make_adapter(
        tmp_path / "few",
        into_fused.models["old"],
        seed=3,
        targets=["v_proj"],
        layers_to_transform=[1],
    )
    carried = into_fused.transferred(adapter)
    got = families.load_updates("phi3", into_fused.models["new"], carried)
    check_equal(got, literal_updates(("llama", "phi3"), into_fused, adapter))
    served = dict(into_fused.path())
    assert served[0] not in {layer for layer, _ in got}


def test_relative_norms_are_kept_role_by_role(tmp_path, into_fused):
    adapter = make_adapter(tmp_path / "normed", "llama", into_fused.models["old"])
    carried = into_fused.transferred(adapter, scale="norm")
    after = families.load_updates("phi3", into_fused.models["new"], carried)
    before = families.load_updates("llama", into_fused.models["old"], adapter)
    old = families.load_layers("llama", into_fused.models["old"])
    new = families.load_layers("phi3", into_fused.models["new"])
    for i, j in into_fused.path():
        for roles in (("q", "k", "v"), ("gate", "up"), ("o",), ("down",)):
            sizes = [
                np.sqrt(sum(np.linalg.norm(getattr(layer, role)) ** 2 for role in roles))
                for layer in (old[i], new[j])
            ]
            left, right = norms(before, i, roles) / sizes[0], norms(after, j, roles) / sizes[1]
            assert right == pytest.approx(left, rel=1e-4)


KINDS = {
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "lora_bias": {"lora_bias": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_are_carried_through_real_maps(tmp_path, into_fused, kind):
    """The update is the literal one; DoRA's magnitudes are positive and start from the new rows."""
    adapter = make_adapter(tmp_path / kind, "llama", into_fused.models["old"], **KINDS[kind])
    carried = into_fused.transferred(adapter)
    config = json.loads((carried / "adapter_config.json").read_text())
    assert all(config[key] for key in KINDS[kind])
    got = families.load_updates("phi3", into_fused.models["new"], carried)
    check_equal(got, literal_updates(("llama", "phi3"), into_fused, adapter))
    if kind == "dora":
        tensors = pico.read_tensors(carried)
        weights = pico.read_tensors(into_fused.models["new"])
        found = 0
        for name, values in tensors.items():
            if name.endswith("lora_magnitude_vector"):
                base = name.removeprefix("base_model.model.")
                base = base.replace("lora_magnitude_vector", "weight")
                stretch = values / np.linalg.norm(weights[base], axis=1)
                assert (abs(np.log(stretch)) < 0.2).all()  # m was ‖W‖
                found += 1
        assert found == 4 * len(into_fused.path())


def test_adalora_is_carried_through_real_maps(tmp_path, into_fused):
    adapter = make_adalora(tmp_path / "adalora", into_fused.models["old"])
    carried = into_fused.transferred(adapter)
    model = AutoModelForCausalLM.from_pretrained(into_fused.models["new"])
    modules = dict(attach(model, carried).base_model.model.named_modules())
    before = read_adapter(adapter).modules
    old, new = (
        families.load_layers(name, into_fused.models[side])
        for name, side in (("llama", "old"), ("phi3", "new"))
    )
    W_h = literal.hidden_map(*pico.load_shared_embeddings(*into_fused.models.values()))
    for i, j in into_fused.path():
        weights = before[f"model.layers.{i}.mlp.down_proj"]
        delta = weights.scale * weights.b.astype(float) @ weights.a.astype(float)
        expected = literal.transfer_module("down", old[i], new[j], W_h, [], delta, "code")
        module = modules[f"model.layers.{j}.mlp.down_proj"]
        got = module.get_delta_weight("default").detach().double().numpy()
        assert np.linalg.norm(got - expected) <= 2e-5 * np.linalg.norm(expected)


def make_adalora(directory: Path, base: Path) -> Path:
    config = AdaLoraConfig(
        init_r=4, target_r=2, lora_alpha=6, total_step=10, target_modules=pico.ALL_LINEAR
    )
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, values in adapted.named_parameters():
            if "lora_" in name:
                values.copy_(0.1 * torch.randn(values.shape, generator=generator))
    adapted.save_pretrained(directory)
    return directory
