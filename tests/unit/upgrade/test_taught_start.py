"""A start that is taught on the small set: what reaches the teaching, and what comes of it."""

import json
from dataclasses import replace

import kindcase
import numpy as np
import pico
import pytest
from peft import AdaLoraConfig, LoraConfig, PeftModel

from loraport.adapters.attach import attach
from loraport.errors import LoraportError
from loraport.evaluation.start import NOTHING, TAUGHT, choose_start
from loraport.models.loading import load_base
from loraport.training.chats import Turn
from loraport.training.data import Conversation, Example
from loraport.training.settings import Settings
from loraport.training.starts import fresh_like
from loraport.training.train import train_lora
from loraport.upgrade import more_prompts, taught_start
from loraport.upgrade.parts import Settings as Upgrading
from loraport.upgrade.prompts import Record
from loraport.upgrade.taught_start import Teaching, parts_of

pytestmark = pytest.mark.usefixtures("one_thread")
DATA = [Example(f"word {n} is", f" number {n % 4}") for n in range(12)]
SETTINGS = Settings(epochs=2, batch_size=6, learning_rate=1e-3, device="cpu")
SECTION = {
    "teacher": "old", "at_least": 9, "minutes": 0, "seed": 0, "soft": False, "alpha": 1.0,
    "weighted": False, "shots": 2, "rates": [0.05], "epochs": 8, "patience": 8, "match": "exact",
    "batch_size": 16, "max_tokens": 64, "new_tokens": 6,
    "dtype": "auto", "device": "cpu", "device_map": "",
}  # fmt: skip


@pytest.fixture
def make(pico_pair, monkeypatch):
    """A teaching on the pico pair; `carried` stands for what the maps would have made."""

    def build(carried, adapter=pico_pair.adapter, **section):
        monkeypatch.setattr(taught_start, "carried_candidates", lambda *_: dict(carried))
        old = {"remote_code": False}
        folder = lambda: pico_pair.old  # noqa: E731
        return Teaching({**SECTION, **section}, folder, old, adapter, {}, {}, {}, "base")

    return build


@pytest.fixture
def always_writes(monkeypatch):
    """Every list is continued by a new prompt, which the adapter is made for."""
    monkeypatch.setattr(more_prompts, "excess", lambda _, new: np.ones(len(new)))
    monkeypatch.setattr(
        more_prompts.Writer,
        "continued",
        lambda self, form, count, rng, seed: [f"word {seed} {n} is" for n in range(count)],
    )


def chosen_by(teach, new, out, like, data=DATA):
    out.mkdir()
    starts = {NOTHING: fresh_like(like)}
    chosen = choose_start(new, data, starts, SETTINGS, out, {}, "base", teach=teach)
    return chosen, json.loads((out / "start.json").read_text())


def test_what_is_held_back_is_taught_nowhere():
    repeated = [*DATA, DATA[0], Example(DATA[3].prompt, " another answer")]
    parts = parts_of(repeated[6:], DATA[:6])
    assert [each.prompt for each in parts.held] == [each.prompt for each in DATA[:6]]
    assert [each.prompt for each in parts.taught] == [each.prompt for each in DATA[6:]]
    assert all(each.gold for each in [*parts.held, *parts.taught]) and parts.test == []
    with pytest.raises(LoraportError, match="nothing to teach"):
        parts_of(DATA[:3], DATA)


def test_conversations_are_taught_as_messages():
    turns = [Turn("system", "be short"), Turn("user", "a"), Turn("assistant", "b")]
    parts = parts_of([Conversation(turns)], DATA[:1])
    assert parts.taught == [Record((("system", "be short"), ("user", "a")), "b")]


def test_the_teaching_gets_two_thirds_with_their_answers_and_writes_more(
    pico_pair, make, tmp_path, monkeypatch, always_writes
):
    given, written = [], []
    learn = taught_start.learn

    def seen(old, new, adapter, carried, parts, *args, **named):
        given.append(parts)
        done = learn(old, new, adapter, carried, parts, *args, **named)
        written.append(done.report["prompts"])
        return done

    monkeypatch.setattr(taught_start, "learn", seen)
    like = pico.make_adapter(tmp_path / "like", pico_pair.new, seed=4)
    _, told = chosen_by(make({"m": like}, at_least=12), pico_pair.new, tmp_path / "out", like)
    (parts,) = given
    held = {Record(each.prompt, each.completion) for each in DATA[::3]}
    assert set(parts.held) == held and parts.test == [] and len(parts.taught) == 8
    assert not {each.prompt for each in parts.taught} & {each.prompt for each in held}
    assert {each.gold for each in parts.taught} <= {each.completion for each in DATA}
    lesson = told["taught"]["lesson"]
    assert lesson["prompts"] == written[0] and lesson["prompts"]["labelled"] == 12
    assert lesson["prompts"]["synthetic"]["kept"] == 4 and lesson["prompts"]["taught"] == 12
    assert lesson["choice"]["teacher"] == "old" and lesson["taught"]["best"]["epoch"] >= 0
    assert told["answers"] == {NOTHING: 12, TAUGHT: 4}


@pytest.mark.parametrize("meant_for, epochs", [(320, {8}), (3, {2, 3})])
def test_more_prompts_are_taught_in_as_many_steps(
    pico_pair, make, tmp_path, monkeypatch, always_writes, meant_for, epochs
):
    """12 prompts, or the 8 that are answered whole, where the settings are meant for 3."""
    monkeypatch.setattr(taught_start, "MEANT_FOR", meant_for)
    like = pico.make_adapter(tmp_path / "like", pico_pair.new, seed=4)
    _, told = chosen_by(make({"m": like}, at_least=12), pico_pair.new, tmp_path / "out", like)
    assert len(told["taught"]["lesson"]["taught"]["epochs"]) in epochs


def test_the_same_small_set_gives_the_same_bytes(pico_pair, make, tmp_path):
    like = pico.make_adapter(tmp_path / "like", pico_pair.new, seed=4)
    made = []
    for name in "ab":
        chosen_by(make({}, adapter=like), pico_pair.new, tmp_path / name, like)
        files = ("start.json", "adapter_model.safetensors")
        made.append([(tmp_path / name / file).read_bytes() for file in files])
    assert made[0] == made[1]


CONFIGS = {
    "lora": LoraConfig(r=4, target_modules=pico.ATTENTION),
    "rslora": LoraConfig(r=4, use_rslora=True, target_modules=pico.ATTENTION),
    "dora": LoraConfig(r=4, use_dora=True, target_modules=pico.ATTENTION),
    "adalora": AdaLoraConfig(
        init_r=4, target_r=2, tfinal=1, total_step=10, target_modules=pico.ATTENTION
    ),
}


@pytest.mark.parametrize("begins", ["carried", "nothing"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_adapters_of_each_kind_are_taught_and_tuned_on(pico_pair, make, tmp_path, kind, begins):
    """Each is of the same kind at the end, and loads with no key that is missing or left over."""
    old = kindcase.make(tmp_path / "old", pico_pair.old, CONFIGS[kind])
    new = kindcase.make(tmp_path / "new", pico_pair.new, CONFIGS[kind])
    out, done = tmp_path / "out", tmp_path / "done"
    carried = {"m": new} if begins == "carried" else {}
    data = [Example(f"word {n} is", " number") for n in range(12)]
    _, told = chosen_by(make(carried, old), pico_pair.new, out, new, data)
    assert "lesson" in told["taught"] and told["start"] == TAUGHT, told
    train_lora(pico_pair.new, data, done, start=out, settings=SETTINGS)
    made, asked = (kindcase.config_of(each) for each in (done, new))
    keys = ("peft_type", "use_dora", "use_rslora", "lora_alpha")
    assert {key: made.get(key) for key in keys} == {key: asked.get(key) for key in keys}
    base, _ = load_base(pico_pair.new, device="cpu")
    assert isinstance(attach(base, done), PeftModel)


def test_a_teaching_that_fails_is_told_and_the_base_is_bare_again(pico_pair, make, tmp_path):
    like = pico.make_adapter(tmp_path / "like", pico_pair.new, seed=4)
    teach = make({"m": like}, max_tokens=24, new_tokens=1)
    data = [Example(f"word {n}", "" if n % 3 else " number") for n in range(12)]
    loaded = load_base(pico_pair.new, device="cpu")
    names = [name for name, _ in loaded[0].named_modules()]
    with pytest.raises(LoraportError, match="no training example keeps"):
        teach(lambda: loaded, data[1:3], data[:1], tmp_path / "out")
    assert [name for name, _ in loaded[0].named_modules()] == names
    _, told = chosen_by(teach, pico_pair.new, tmp_path / "chosen", like, data)
    assert told["start"] == NOTHING and "nothing to teach" in told["taught"]["left_out"]


def test_without_the_old_model_no_start_is_taught_and_it_is_told(pico_pair, make, tmp_path):
    like = pico.make_adapter(tmp_path / "like", pico_pair.new, seed=4)

    def away():
        raise LoraportError("model old is not there")

    teach = replace(make({}), old_dir=away)
    _, told = chosen_by(teach, pico_pair.new, tmp_path / "out", like)
    assert told["start"] == NOTHING and told["taught"] == {"left_out": "model old is not there"}


def test_a_small_set_that_needs_no_other_prompts_is_taught_no_start(pico_pair, make, tmp_path):
    like = pico.make_adapter(tmp_path / "like", pico_pair.new, seed=4)
    _, told = chosen_by(make({}, at_least=8), pico_pair.new, tmp_path / "out", like)
    assert told["taught"] == {"left_out": "the small set is large enough to learn from alone"}
    assert told["start"] in told["nats"] and TAUGHT not in told["nats"]


def test_prompts_that_are_held_back_too_count_as_the_plan_counts_them(make, tmp_path):
    with pytest.raises(LoraportError, match="large enough"):
        make({}, at_least=8)(None, [*DATA[4:], DATA[0]], DATA[:5], tmp_path / "out")


def test_no_more_than_some_held_back_prompts_are_asked_between_epochs():
    data = [Example(f"word {n} is", " number") for n in range(300)]
    parts = parts_of(data[:10], data[10:])
    held = [Record(each.prompt, each.completion) for each in data[10:]]
    most = Upgrading().most_held
    assert parts.held == held[:most] and len(parts.taught) == 10
    assert parts.test == held[most:]  # of which none may be written for the teaching
