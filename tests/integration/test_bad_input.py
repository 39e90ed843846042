"""Bad input, by the command that users type: one paragraph, no work done, nothing half-written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pico
import pytest
from safetensors.numpy import load_file, save_file
from workdir import CONFIG, SIZES, Workdir

ADAPTER = "artifacts/p/a/lora_transferred"
WEIGHTS = "adapter/adapter_model.safetensors"
Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Workdir:
    """A sound working directory in which nothing has run."""
    return Workdir(tmp_path_factory.mktemp("sound"))


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(path: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def other_shape(root: Path) -> None:
    pico.make_model(root / "wide", seed=5, vocab_words=220, **SIZES["new"])
    shutil.rmtree(root / "adapter")
    pico.make_adapter(root / "adapter", root / "wide", seed=3)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def pickle_only(root: Path) -> None:
    (root / "old/model.safetensors").rename(root / "old/pytorch_model.bin")


def without_tensor(root: Path) -> None:
    edit_tensors(root / WEIGHTS, lambda t: [t.pop(f"{Q}.lora_{h}.weight") for h in "AB"])


def half_a_pair(root: Path) -> None:
    edit_tensors(root / WEIGHTS, lambda t: t.pop(f"{Q}.lora_B.weight"))


def nan_in_adapter(root: Path) -> None:
    edit_tensors(root / WEIGHTS, lambda t: t[f"{Q}.lora_A.weight"].__setitem__((0, 0), np.nan))


def all_zero(root: Path) -> None:
    edit_tensors(root / WEIGHTS, lambda t: [v.fill(0) for k, v in t.items() if "lora_B" in k])


def foreign_module(root: Path) -> None:
    def rename(tensors):
        for half in "AB":
            values = tensors.pop(f"{Q}.lora_{half}.weight")
            tensors[f"{Q.replace('q_proj', 'qkv')}.lora_{half}.weight"] = values

    edit_tensors(root / WEIGHTS, rename)


CASES = {
    "adapter of other shapes": (other_shape, ["is for another base model", "48"]),
    "adapter of another base by name": (
        lambda root: edit_json(root / "adapter/adapter_config.json", base_model_name_or_path="x/y"),
        ["records another base model", "x/y", "known_as"],
    ),
    "tensor missing": (without_tensor, ["lacks tensors that its config promises", "q_proj"]),
    "half of a pair missing": (half_a_pair, ["is incomplete at", "q_proj"]),
    "NaN in the adapter": (nan_in_adapter, ["holds NaN or Inf", "q_proj"]),
    "adapter of zeros": (all_zero, ["changes nothing"]),
    "truncated adapter": (
        lambda root: truncate(root / WEIGHTS),
        ["adapter_model.safetensors is not a whole safetensors file"],
    ),
    "truncated base": (
        lambda root: truncate(root / "new/model.safetensors"),
        ["new/model.safetensors is not a whole safetensors file"],
    ),
    "pickled base": (pickle_only, ["pickled weights only", "save_pretrained"]),
    "unknown family": (
        lambda root: edit_json(root / "old/config.json", model_type="mystery"),
        ["no file in architectures/", "'mystery'"],
    ),
    "module that the family lacks": (foreign_module, ["adapts a module", "self_attn.qkv"]),
    "head counts that contradict": (
        lambda root: edit_json(root / "old/config.json", num_key_value_heads=3),
        ["contradicts itself", "4 attention heads over 3"],
    ),
    "model directory missing": (
        lambda root: shutil.rmtree(root / "old"),
        ["model directory 'old' is not there"],
    ),
    "calibration texts missing": (
        lambda root: (root / "texts.txt").unlink(),
        ["calibration texts 'texts.txt' cannot be read"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_told_before_any_work(template, tmp_path, name):
    work = template.copy(tmp_path / "work")
    spoil, phrases = CASES[name]
    spoil(work.root)
    done = work.run(ADAPTER, ok=False)
    for phrase in [*phrases, "Got:", "Expected:"]:
        assert phrase in done.stdout, done.stdout
    assert "localrule" not in done.stdout
    assert not list(work.root.glob("artifacts/**/*"))


def test_nan_in_a_base_weight_stops_at_the_first_rule(template, tmp_path):
    work = template.copy(tmp_path / "work")

    def spoil(tensors):
        tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = np.inf

    edit_tensors(work.root / "new/model.safetensors", spoil)
    done = work.run(ADAPTER, ok=False)
    assert "model.layers.1.mlp.up_proj.weight" in done.stdout
    assert "holds NaN or Inf" in done.stdout
    assert "rule activations" not in done.stdout
    made = {path.name for path in work.root.glob("artifacts/**/*") if path.is_file()}
    assert made <= {"spec.json", "spec.log"}
    assert not (work.root / "artifacts/models/new/spec.json").exists()


def test_too_few_shared_tokens_and_the_way_on(template, tmp_path):
    work = template.copy(tmp_path / "work")
    path = work.root / "new/tokenizer.json"
    content = json.loads(path.read_text())
    vocab = content["model"]["vocab"]
    content["model"]["vocab"] = {
        token if number < 20 else f"Ġx{number}": number for token, number in vocab.items()
    }
    content["model"]["merges"] = []
    path.write_text(json.dumps(content))
    target = "artifacts/p/embedding.h5"
    done = work.run(target, ok=False)
    assert "share fewer tokens than the old model's hidden size" in done.stdout
    assert "at least 32" in done.stdout
    assert not (work.root / target).exists()
    work.run("--config", "mapping={underdetermined: true}", "--", target)
    assert (work.root / target).exists()


def test_all_config_errors_are_told_at_once(template, tmp_path):
    work = template.copy(tmp_path / "work")
    work.table(("../a", "old", "adapter"), ("maps", "old", "adapter"), ("b", "nobody", "adapter"))
    mapping = {"minibatch": 2, "wi": "codex", "colour": 1}
    work.configure(pairs={"models": {"old": "old", "new": "gone"}}, mapping=mapping)
    first = work.run(ADAPTER, ok=False).stdout
    for phrase in ("minibatch", "at least 4", "'codex'", "'colour'", "has 3 error(s)"):
        assert phrase in first
    work.configure(pairs={"models": {"old": "old", "new": "gone"}}, run=["q"])
    second = work.run(ADAPTER, ok=False).stdout
    for phrase in ("reserved", "'gone'", "'../a'", "'maps'", "'nobody'", "config.run", "'q'"):
        assert phrase in second, second
    assert not (work.root / "artifacts").exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "/abs", "a b", "", ".hidden", "a\n", "ä", "a;b"])
def test_no_name_can_leave_artifacts(template, name):
    from loraport.config import load
    from loraport.errors import LoraportError

    for section in ("models", "pairs", "variants"):
        entry = {"models": {"source": "x"}, "pairs": {"old": "old", "new": "new"}}
        bad = {**CONFIG, section: {**CONFIG[section], name: entry.get(section, {"method": "x"})}}
        schemas = Path(__file__).parents[2] / "workflow" / "schemas"
        with pytest.raises(LoraportError, match="not a usable name"):
            load(bad, schemas)
