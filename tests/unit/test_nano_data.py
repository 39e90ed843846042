"""The embedded pair: generators, splits, tokenizers, models and adapters as shipped."""

import json
import re
import sys
from pathlib import Path

import pytest

NANO = Path(__file__).resolve().parents[2] / "resources" / "nano"
sys.path.insert(0, str(NANO))

from make_data import jsonl  # noqa: E402
from nanopair.apps import COUNTS, MAKERS, examples, keyed_examples  # noqa: E402
from nanopair.corpus import calibration_lines, documents  # noqa: E402
from nanopair.draw import is_test_key  # noqa: E402
from nanopair.world import TEST_ITEMS, TEST_NAMES, TRAIN_ITEMS, TRAIN_NAMES  # noqa: E402
from results_table import table  # noqa: E402
from score import arithmetic_prompts, complete, interval, is_right, load, score_app  # noqa: E402

APPS = sorted(MAKERS)
VERSIONS = ("v1", "v2")
# What only an app says, by app.
APP_FORMATS = {
    "math": r"\. [Tt]he answer is",
    "mcq": r"\nA\. .*(?:\n[B-E]\. .*)*\n\S+ It is ",
    "command": r"\w+_\w+\(\w+=",
}


def shipped(app: str, split: str) -> list[dict[str, str]]:
    """The rows of a data file."""
    text = (NANO / "data" / f"{app}.{split}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("app", APPS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_generators_give_the_shipped_files(app, split):
    text = (NANO / "data" / f"{app}.{split}.jsonl").read_text()
    assert jsonl(examples(app, split)) == text
    assert text.count("\n") == COUNTS[split]
    assert len(text) <= 2_000_000


def test_calibration_is_reproduced():
    lines = calibration_lines()
    assert len(lines) >= 640
    assert (NANO / "calibration.txt").read_text() == "\n".join(lines) + "\n"


@pytest.mark.parametrize("app", APPS)
def test_no_key_and_no_prompt_on_both_sides(app):
    train, test = keyed_examples(app, "train"), keyed_examples(app, "test")
    train_keys, test_keys = ({key for key, _ in rows} for rows in (train, test))
    assert not train_keys & test_keys
    assert all(is_test_key(key) for key in test_keys)
    train_prompts, test_prompts = ({e["prompt"] for _, e in rows} for rows in (train, test))
    assert not train_prompts & test_prompts
    assert len(test_prompts) == COUNTS["test"]


def test_math_people_and_things_differ_between_sides():
    for split, names, items in (
        ("train", TEST_NAMES, TEST_ITEMS),
        ("test", TRAIN_NAMES, TRAIN_ITEMS),
    ):
        words = {w for e in shipped("math", split) for w in re.findall(r"\w+", e["prompt"])}
        assert not words & {*names, *items}


@pytest.mark.parametrize("app", APPS)
def test_convention(app):
    for row in shipped(app, "test") + shipped(app, "train")[:500]:
        assert row["prompt"].endswith(":")
        assert re.fullmatch(r" \S[^\n]*", row["completion"])
        assert is_right(app, row["completion"], row["answer"])


@pytest.mark.parametrize("app", APPS)
def test_base_corpora_lack_the_apps_formats_and_templates(app):
    own = re.compile(APP_FORMATS[app])
    row = shipped(app, "test")[0]
    assert own.search(row["prompt"] + row["completion"])
    for version in VERSIONS:
        assert not any(own.search(text) for text in documents(version, 7, 10_000))
    assert not own.search((NANO / "calibration.txt").read_text())


def test_worked_steps_are_true():
    for row in shipped("math", "train")[:2000] + shipped("math", "test"):
        steps = re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)\.", row["completion"])
        assert len(steps) == 2
        for a, op, b, result in steps:
            assert {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[op] == int(
                result
            )


@pytest.mark.parametrize(
    ("app", "completion", "answer", "right"),
    [
        ("math", " 1 + 2 = 3. The answer is 3.", "3", True),
        ("math", " it is 3\n 4", "3", True),
        ("math", "", "3", False),
        ("math", " 3 then 4", "3", False),
        ("mcq", " It is hive.", "It is hive.", True),
        ("mcq", " B. hive", "It is hive.", False),
        ("command", " f(a=1) ", "f(a=1)", True),
        ("command", " f(a=2)", "f(a=1)", False),
    ],
)
def test_scoring(app, completion, answer, right):
    assert is_right(app, completion, answer) is right


def test_card_shows_the_recorded_results():
    assert table(NANO / "results.json") in (NANO / "README.md").read_text()


def test_interval_known_values():
    low, high = interval(50, 100)
    assert low == pytest.approx(0.4038, abs=1e-3)
    assert high == pytest.approx(0.5962, abs=1e-3)
    assert interval(0, 10)[0] == 0.0


def tokenizer_of(version: str):
    """The shipped tokenizer as users load it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(NANO / version)


@pytest.mark.parametrize("version", VERSIONS)
def test_tokenizer_digits_and_boundaries(version):
    tokenizer = tokenizer_of(version)
    for token in tokenizer.get_vocab():
        assert not re.search(r"\d", token) or len(token) == 1
    text = 'Tom has 12 pens. call("x y")\n3:05'
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    for row in shipped("command", "test")[:50]:
        prompt, completion = (tokenizer(row[k])["input_ids"] for k in ("prompt", "completion"))
        assert tokenizer(row["prompt"] + row["completion"])["input_ids"] == prompt + completion


def test_tokenizers_share_most_but_not_all():
    old, new = (set(tokenizer_of(version).get_vocab()) for version in VERSIONS)
    assert len(old & new) >= 300
    assert old - new
    assert new - old


def test_models_differ_in_all_six_ways():
    old, new = (json.loads((NANO / v / "config.json").read_text()) for v in VERSIONS)
    for field in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"):
        assert old[field] < new[field]
    assert old["num_attention_heads"] != new["num_attention_heads"]
    assert old["num_key_value_heads"] < old["num_attention_heads"]
    assert new["num_key_value_heads"] == new["num_attention_heads"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("suffix", ["", "_all"])
@pytest.mark.parametrize("app", APPS)
def test_adapter_holds_exactly_the_modules_of_its_base(version, app, suffix):
    from safetensors import safe_open

    folder = NANO / "adapters" / version / f"{app}{suffix}"
    assert {p.name for p in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "SHA256SUMS",
    }
    settings = json.loads((folder / "adapter_config.json").read_text())
    config = json.loads((NANO / version / "config.json").read_text())
    targets = settings["target_modules"]
    assert targets == sorted(targets)
    assert settings["base_model_name_or_path"] == f"nano_{version}"
    assert (settings["r"], settings["lora_alpha"]) == (32, 32)
    expected = {
        f"base_model.model.model.layers.{i}.{'self_attn' if t[0] in 'kqvo' else 'mlp'}.{t}"
        f".lora_{side}.weight"
        for i in range(config["num_hidden_layers"])
        for t in targets
        for side in "AB"
    }
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        assert set(file.keys()) == expected
        assert all(file.get_slice(key).get_dtype() == "BF16" for key in expected)


@pytest.mark.parametrize("version", VERSIONS)
def test_adapter_loads_without_missing_or_unexpected_keys(version):
    import torch
    from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(NANO / version, dtype=torch.float32)
    folder = NANO / "adapters" / version / "math_all"
    adapted = PeftModel.from_pretrained(model, folder)
    result = set_peft_model_state_dict(adapted, load_peft_weights(str(folder), device="cpu"))
    assert not result.unexpected_keys
    assert not [key for key in result.missing_keys if "lora_" in key]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.usefixtures("one_thread")
def test_bare_models_calculate(version):
    model, tokenizer = load(NANO / version, None, "cpu")
    rows = arithmetic_prompts(8)
    said = complete(model, tokenizer, [row["prompt"] for row in rows])
    right = sum(s.strip() == row["answer"] for s, row in zip(said, rows, strict=True))
    assert right >= 7


@pytest.mark.usefixtures("one_thread")
def test_v1_math_adapter_solves_test_items():
    model, tokenizer = load(NANO / "v1", NANO / "adapters" / "v1" / "math", "cpu")
    assert score_app(model, tokenizer, "math", limit=20)["accuracy"] >= 0.9
