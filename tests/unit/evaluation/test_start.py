"""The start of a light fine-tuning: which one is chosen, and that trials ask what they left out."""

import json
from pathlib import Path

import numpy as np
import pico
import pytest
import torch

from loraport.errors import LoraportError
from loraport.evaluation.start import (
    NOTHING,
    TAUGHT,
    choose,
    choose_start,
    choose_taught,
    trained_losses,
)
from loraport.training.data import Example
from loraport.training.settings import Settings
from loraport.training.starts import Fresh
from loraport.training.train import load_for, train_lora
from loraport.training.trainer import Diverged

pytestmark = pytest.mark.usefixtures("one_thread")
DATA = [Example(f"word {n % 6} is", f" number {n % 6}") for n in range(18)]
FRESH = Fresh(rank=4, alpha=4, target_modules=tuple(pico.ATTENTION))
SETTINGS = Settings(epochs=2, batch_size=6, learning_rate=1e-3, device="cpu")


def losses(mean, spread=1.0, count=50):
    return mean + spread * np.random.default_rng(3).standard_normal(count)


def test_a_carried_start_is_taken_where_it_is_ahead_of_nothing():
    chosen = choose({NOTHING: losses(10), "carried": losses(8, 1.2), "half": losses(9)})
    assert chosen.start == "carried"
    assert chosen.improvement == pytest.approx(2, abs=0.3) and chosen.examples == 50


def test_a_start_that_is_behind_or_level_gives_way_to_nothing():
    assert choose({NOTHING: losses(10), "carried": losses(11)}).start == NOTHING
    noise = np.random.default_rng(0).standard_normal(50)
    assert choose({NOTHING: losses(10), "carried": losses(10) + noise - noise.mean()}).start == (
        NOTHING
    )


def test_a_start_that_destroys_the_model_is_left_out():
    chosen = choose({NOTHING: losses(10), "carried": np.full(50, np.inf)})
    assert chosen.start == NOTHING and set(chosen.nats) == {NOTHING}
    with pytest.raises(LoraportError, match=r"finetune\.start"):
        choose({NOTHING: np.full(5, np.nan)})


HELD = np.arange(50) % 3 == 0


def test_a_taught_start_is_taken_where_it_is_ahead_of_the_best_on_what_was_held_back():
    others = {NOTHING: losses(10), "carried": losses(8, 1.2)}
    first = choose(others)
    chosen = choose_taught(first, others, others["carried"][HELD] - 1 - losses(0, 0.1)[HELD], HELD)
    assert chosen.start == TAUGHT and chosen.taught["over"] == "carried"
    assert chosen.answers == {NOTHING: 50, "carried": 50, TAUGHT: 17}
    assert chosen.taught["improvement"] == pytest.approx(1, abs=0.1)
    assert 0 < chosen.taught["standard_error"] < 0.1
    assert chosen.nats[TAUGHT] == chosen.taught["nats"][TAUGHT]
    assert chosen.taught["nats"]["carried"] == others["carried"][HELD].mean() != first.nats
    assert chosen.improvement == first.improvement  # of what was carried over nothing


def test_a_taught_start_that_is_behind_or_level_gives_way_to_the_others():
    others = {NOTHING: losses(10), "carried": losses(8, 1.2)}
    first = choose(others)
    noise = np.random.default_rng(0).standard_normal(HELD.sum())
    for more in (0.5, noise - noise.mean(), noise - noise.mean() - 0.1):
        chosen = choose_taught(first, others, others["carried"][HELD] + more, HELD)
        assert chosen.start == "carried" and TAUGHT in chosen.nats
    level = {**others, "carried": losses(10) + np.where(HELD, -2.0, 1.0)}  # ahead there alone
    first = choose(level)
    chosen = choose_taught(first, level, losses(9)[HELD], HELD)
    assert first.start == chosen.start == NOTHING and chosen.taught["over"] == "carried"


def test_a_taught_start_that_destroys_the_model_is_left_out():
    others = {NOTHING: losses(10), "carried": np.full(50, np.inf)}
    chosen = choose_taught(choose(others), others, np.full(17, np.inf), HELD)
    assert chosen.start == NOTHING and set(chosen.nats) == set(chosen.answers) == {NOTHING}
    assert "NaN or Inf" in chosen.taught["left_out"]
    beside = choose_taught(choose(others), others, losses(9)[HELD], HELD)
    assert set(beside.taught["nats"]) == {NOTHING, TAUGHT} and beside.start == TAUGHT


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    sizes = {"hidden": 32, "intermediate": 56, "layers": 2, "heads": 4, "kv_heads": 2}
    return Path(pico.make_model(folder / "base", seed=1, **sizes))


def test_an_adapter_that_knows_the_answers_is_chosen_and_written(base, tmp_path):
    knows = tmp_path / "knows"
    longer = Settings(epochs=30, batch_size=6, learning_rate=1e-2, device="cpu")
    train_lora(base, DATA, knows, start=FRESH, settings=longer)
    out = tmp_path / "out"
    out.mkdir()
    count = []
    starts = {NOTHING: FRESH, "carried": knows}
    chosen = choose_start(
        base, DATA, starts, SETTINGS, out, {}, "base", done=lambda: count.append(1)
    )
    assert chosen.start == "carried" and len(count) == 6
    assert chosen.nats["carried"] < chosen.nats[NOTHING]
    told = json.loads((out / "start.json").read_text())
    assert told["start"] == "carried" and told["examples"] == 18
    weights = (out / "adapter_model.safetensors").read_bytes()
    assert weights == (knows / "adapter_model.safetensors").read_bytes()


def begun(base, tmp_path, name, teach=None, data=DATA, starts=None):
    """What is chosen, with its start.json."""
    out = tmp_path / name
    out.mkdir()
    count = []
    more = {"done": lambda: count.append(1), "teach": teach}
    chosen = choose_start(base, data, starts or {NOTHING: FRESH}, SETTINGS, out, {}, "base", **more)
    return chosen, json.loads((out / "start.json").read_text()), len(count)


def test_a_start_is_taught_on_two_thirds_and_compared_on_the_third_that_it_did_not_see(
    base, tmp_path
):
    longer, seen = Settings(epochs=30, batch_size=6, learning_rate=1e-2, device="cpu"), []

    def teach(load, learned, held, out):
        seen.append((learned, held))
        train_lora(base, DATA, out, start=FRESH, settings=longer, loaded=load())
        return {"choice": {"teacher": "old"}}

    bare, before, _ = begun(base, tmp_path, "bare")
    assert before["taught"] is None and before["answers"] == {NOTHING: 18}
    chosen, told, count = begun(base, tmp_path, "taught", teach)
    assert seen == [([each for n, each in enumerate(DATA) if n % 3], DATA[::3])]
    assert chosen.start == told["start"] == TAUGHT and count == 3 + 1
    assert told["answers"] == {NOTHING: 18, TAUGHT: 6} and told["examples"] == 18
    assert told["nats"][NOTHING] == bare.nats[NOTHING]  # which the teaching leaves as it is
    assert told["taught"]["lesson"] == {"choice": {"teacher": "old"}}
    assert told["taught"]["over"] == NOTHING and told["taught"]["improvement"] > 0
    begun(base, tmp_path, "again", teach)
    for name in ("start.json", "adapter_model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "taught" / name).read_bytes()


def counting(monkeypatch):
    """A list with an entry for each load of a base from here on."""
    loads = []
    monkeypatch.setattr(
        "loraport.evaluation.start.load_for",
        lambda *args: (loads.append(1), load_for(*args))[1],
    )
    return loads


def test_a_teaching_that_is_refused_before_it_begins_loads_no_base_of_its_own(
    base, tmp_path, monkeypatch
):
    loads = counting(monkeypatch)

    def refuses(load, learned, held, out):
        raise LoraportError("there is nothing to teach")

    _, told, _ = begun(base, tmp_path, "refused", refuses)
    assert told["taught"] == {"left_out": "there is nothing to teach"} and len(loads) == 1


@pytest.mark.parametrize(
    ("failure", "why"),
    [
        (LoraportError("there is nothing to teach"), "there is nothing to teach"),
        (RuntimeError("CUDA out of memory."), "memory ran out"),
    ],
)
def test_a_teaching_that_fails_is_told_and_the_choice_goes_on_without_it(
    base, tmp_path, monkeypatch, caplog, failure, why
):
    loads = counting(monkeypatch)

    def fails(load, learned, held, out):
        load()
        out.mkdir()
        (out / "half").write_text("")
        raise failure

    _, before, _ = begun(base, tmp_path, "bare")
    with caplog.at_level("WARNING"):
        chosen, told, count = begun(base, tmp_path, "failed", fails)
    assert f"no start is taught: {why}" in caplog.text
    assert chosen.start == NOTHING and count == 3 and len(loads) == 3
    assert told["taught"] == {"left_out": why}
    assert {**told, "taught": None, "digest": before["digest"]} == before
    weights = [
        (tmp_path / n / "adapter_model.safetensors").read_bytes() for n in ("bare", "failed")
    ]
    assert weights[0] == weights[1]


def test_a_fault_of_a_teaching_is_no_reason_to_go_on(base, tmp_path):
    def faulty(load, learned, held, out):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        begun(base, tmp_path, "faulty", faulty)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_small_set_of_which_nothing_can_be_held_back_teaches_nothing(
    base, tmp_path, caplog, count
):
    def never(*_):
        raise AssertionError("taught")

    with caplog.at_level("WARNING"):
        chosen, told, _ = begun(base, tmp_path, "few", never, DATA[:count])
    assert chosen.start == NOTHING and "too few to hold some back" in caplog.text
    assert "too small" in told["taught"]["left_out"]


def test_a_training_that_diverges_is_no_start_and_another_fault_is_told(
    base, tmp_path, monkeypatch
):
    def fails(error):
        def train(*args, **kwargs):
            raise error

        monkeypatch.setattr("loraport.evaluation.start.train_lora", train)

    fails(Diverged("the training loss is nan"))
    assert np.isinf(trained_losses(base, (None, None), FRESH, DATA, SETTINGS, tmp_path)).all()
    fails(LoraportError("the adapter does not fit"))
    with pytest.raises(LoraportError, match="does not fit"):
        trained_losses(base, (None, None), FRESH, DATA, SETTINGS, tmp_path)


def test_trials_share_a_base_and_end_as_if_each_had_loaded_its_own(base, tmp_path):
    model, tokenizer = load_for(base, SETTINGS)
    before = [values.clone() for values in model.parameters()]
    names = [name for name, _ in model.named_modules()]
    for name, loaded in (("own", None), ("one", (model, tokenizer)), ("two", (model, tokenizer))):
        train_lora(base, DATA, tmp_path / name, start=FRESH, settings=SETTINGS, loaded=loaded)
        assert [name for name, _ in model.named_modules()] == names
    assert all(map(torch.equal, before, model.parameters()))
    own, one, two = (
        (tmp_path / name / "adapter_model.safetensors").read_bytes()
        for name in ("own", "one", "two")
    )
    assert own == one == two


def test_nothing_is_a_fresh_adapter_with_the_same_bytes_each_time(base, tmp_path):
    made = []
    for name in "ab":
        out = tmp_path / name
        out.mkdir()
        chosen = choose_start(base, DATA, {NOTHING: FRESH}, SETTINGS, out, {}, "base")
        assert chosen.start == NOTHING
        made.append((out / "adapter_model.safetensors").read_bytes())
    assert made[0] == made[1]


def test_no_trial_is_asked_what_it_was_trained_on(base, tmp_path, monkeypatch):
    trained, asked = [], []
    monkeypatch.setattr(
        "loraport.evaluation.start.train_lora",
        lambda model, data, out, **_: (trained.append(set(data)), Path(out).mkdir()),
    )

    class Adapted:
        def eval(self):
            return self

    monkeypatch.setattr("loraport.evaluation.start.attach", lambda *_: Adapted())
    monkeypatch.setattr("loraport.evaluation.start.detach", lambda _: None)

    def told(model, tokenizer, examples, cutoff, batch):
        asked.append(set(examples))
        return np.zeros(len(examples))

    monkeypatch.setattr("loraport.evaluation.start.answer_losses", told)
    data = [Example(f"p{n}", f"a{n}") for n in range(10)]
    assert not trained_losses(base, (None, None), FRESH, data, SETTINGS, tmp_path).any()
    assert len(asked) == 3 and set.union(*asked) == set(data)
    assert all(
        not seen & left and seen | left == set(data)
        for seen, left in zip(trained, asked, strict=True)
    )
