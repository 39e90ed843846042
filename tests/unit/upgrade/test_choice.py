"""Which teacher is taken: by labels, or by whether it keeps to its answers."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from loraport.errors import LoraportError
from loraport.training.own_answers import Answer
from loraport.upgrade import choice
from loraport.upgrade.prompts import Record
from loraport.upgrade.teachers import Classroom, Target
from loraport.upgrade.teachers import Settings as TeacherSettings

pytestmark = pytest.mark.usefixtures("one_thread")
RECORDS = [Record(f"the word {n} is") for n in range(40)]


def fixed(answers):
    """A teacher that always says the same."""
    return type(
        "t", (), {"targets": lambda _, room, prompts: [Target(p, answers) for p in prompts]}
    )()


def test_labels_choose_the_teacher_that_is_clearly_right(room, monkeypatch):
    said = {"old": " wrong", "context": " right", "delta": " wrong"}
    monkeypatch.setattr(choice, "teacher", lambda name: fixed(said[name]))
    known = [Record(each.prompt, " right") for each in RECORDS]
    chosen = choice.choose_teacher("auto", room, known)
    assert chosen.name == "context" and "context 100 %" in chosen.why
    said.update(old=" right")
    assert choice.choose_teacher("auto", room, known).name == "old"
    few = choice.choose_teacher("auto", room, known[:19])
    assert few.name == "old" and few.measured == {}  # and no prompt that is new to it


@pytest.mark.parametrize(("more", "taken"), [(2, "old"), (3, "context")])
def test_another_teacher_must_be_ahead_by_a_standard_error(room, monkeypatch, more, taken):
    """Of 40 answers the old one has 20 right and the other 18 of these, and 2 + `more` besides."""
    right = {"old": range(20), "context": [*range(18), *range(20, 22 + more)], "delta": ()}

    def targets(name):
        said = lambda _, room, prompts: [  # noqa: E731
            Target(p, " right" if n in right[name] else " wrong") for n, p in enumerate(prompts)
        ]
        return type("t", (), {"targets": said})()

    monkeypatch.setattr(choice, "teacher", targets)
    known = [Record(each.prompt, " right") for each in RECORDS]
    assert choice.choose_teacher("auto", room, known).name == taken


def test_items_of_a_test_choose_the_teacher_before_prompts_that_the_old_adapter_may_know(
    room, monkeypatch
):
    def targets(name):
        """The old adapter knows what it was trained on, and the new model everything."""
        known = (lambda p: p in {each.prompt for each in RECORDS}) if name == "old" else bool
        said = lambda _, room, prompts: [  # noqa: E731
            Target(p, " right" if known(p) and name != "delta" else " wrong") for p in prompts
        ]
        return type("t", (), {"targets": said})()

    monkeypatch.setattr(choice, "teacher", targets)
    known = [Record(each.prompt, " right") for each in RECORDS]
    tested = [Record(f"new {n}", " right") for n in range(choice.READ + 1)]
    assert choice.choose_teacher("auto", room, known).name == "old"
    chosen = choice.choose_teacher("auto", room, known, tested=tested)
    assert chosen.name == "context" and f"On {choice.READ} items of the test" in chosen.why
    few = choice.choose_teacher("auto", room, known, tested=tested[: choice.ENOUGH_LABELS - 1])
    assert few.name == "old" and f"On {len(known)} labelled prompts" in few.why


LETTERS = ["A", "B", "C", "D"]


def scripted(monkeypatch, drawn, halved, shown, shown_otherwise, count=40):
    """What is chosen where the old adapter says the letters in turn, and all else as given."""
    prompts = [f"p {n}" for n in range(count)]
    first = [LETTERS[n % 4] for n in range(count)]
    old = SimpleNamespace(said=first)

    def of(asked, said):
        return [said[prompts.index(each)] for each in asked]

    def write(asked, temperature=0.0, seed=0):
        said = of(asked, drawn(first) if temperature else old.said)
        return [Answer(text, True) for text in said]

    @contextmanager
    def at_strength(gain):
        assert gain == choice.STRENGTH
        old.said = halved(first)
        yield
        old.said = first

    def targets(room, asked):
        said = shown(first)
        if room.shown[0] != 0:
            said = shown_otherwise(said)
        assert len(room.shown) in (3, 4)
        return [Target(p, text) for p, text in zip(asked, of(asked, said), strict=True)]

    monkeypatch.setattr(choice.context, "targets", targets)
    monkeypatch.setattr(choice.context, "demonstrations", lambda room, _: room.shown)
    old.write, old.at_strength = write, at_strength
    room = Classroom(old, None, TeacherSettings(), list(range(10)))
    return choice.choose_teacher("auto", room, [Record(prompt) for prompt in prompts])


def guessed(said):
    """Half of the answers are others when asked again."""
    return [LETTERS[LETTERS.index(each) - n // 4 % 2] for n, each in enumerate(said)]


@pytest.mark.parametrize(("drawn", "halved"), [(guessed, list), (list, guessed)])
def test_without_labels_the_surer_teacher_is_taken_where_it_follows_the_old_one(
    monkeypatch, drawn, halved
):
    surer = scripted(monkeypatch, drawn, halved, guessed, list)
    assert surer.name == "context" and "its own again on 100 %" in surer.why
    assert surer.measured["context_agrees_with_old"] == 0.5
    assert surer.measured["by_chance"] < 0.3
    assert scripted(monkeypatch, list, list, guessed, list).name == "old"  # as sure as the other
    assert scripted(monkeypatch, drawn, halved, guessed, guessed).name == "old"
    # sure of one answer to everything: what it knows of the task is nothing
    stuck = scripted(monkeypatch, drawn, halved, lambda said: ["A"] * len(said), list)
    assert stuck.name == "old" and stuck.measured["context_shown_thrice"] == 1
    assert scripted(monkeypatch, drawn, halved, guessed, list, count=19).measured == {}


def test_few_prompts_are_asked_where_the_new_model_is_far_behind(monkeypatch):
    shown = lambda said: [f"{n}" for n, _ in enumerate(said)]  # noqa: E731
    other = lambda said: [f"{each}, or not" for each in said]  # noqa: E731
    far = scripted(monkeypatch, list, list, shown, other)
    assert far.name == "old" and f"Of {choice.FIRST} prompts" in far.why
    assert "Of 40 prompts" in scripted(monkeypatch, list, list, list, list).why


def test_an_adapter_that_does_nothing_at_half_of_its_strength_may_know_all(monkeypatch):
    nothing = lambda said: ["E"] * len(said)  # noqa: E731
    chosen = scripted(monkeypatch, list, nothing, guessed, guessed)
    assert chosen.name == "old" and chosen.measured["old_drawn_and_halved"] == 0
    assert chosen.measured["context_shown_thrice"] > 0.2
    assert scripted(monkeypatch, guessed, nothing, guessed, guessed).name == "context"


def test_an_adapter_at_half_of_its_strength_is_half_of_its_update(room):
    whole = room.old.losses(["the word 1 is"], [" yes"])
    with room.old.at_strength(0.5):
        half = room.old.losses(["the word 1 is"], [" yes"])
    with room.old.without_adapter():
        bare = room.old.losses(["the word 1 is"], [" yes"])
    assert len({float(each[0]) for each in (whole, half, bare)}) == 3
    assert np.array_equal(room.old.losses(["the word 1 is"], [" yes"]), whole)


def test_a_teacher_that_is_asked_for_is_taken(room):
    assert choice.choose_teacher("delta", room, RECORDS).name == "delta"
    with pytest.raises(LoraportError, match="unknown teacher"):
        choice.choose_teacher("nobody", room, RECORDS)
