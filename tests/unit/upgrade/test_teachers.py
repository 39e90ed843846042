"""Teachers, each against an answer that is known."""

from dataclasses import dataclass, field, replace
from importlib import import_module

import pico
import pytest
import torch

from loraport.errors import LoraportError
from loraport.training.own_answers import Answer
from loraport.upgrade import teachers
from loraport.upgrade.base import Base, Limits
from loraport.upgrade.spans import Span
from loraport.upgrade.teachers import Classroom, Settings, context, delta, old, on_policy

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS = [f"the word {n} is" for n in range(5)] + ["two", "a longer one of many words and"]


def loaded(path):
    return Base.load(path, Limits(batch_size=3, new_tokens=8), device="cpu")


@pytest.fixture
def room(pico_pair):
    """The old model, adapted, with itself as the new one: what is taught is then known."""
    worn = loaded(pico_pair.old)
    with worn.wearing(pico_pair.adapter):
        yield Classroom(worn, loaded(pico_pair.old), Settings())


def texts(answers):
    return [each.text if isinstance(each, Answer) else each.answer for each in answers]


def test_each_file_is_a_teacher():
    assert teachers.names() == ("context", "delta", "old", "on_policy")
    for name in teachers.names():
        module = import_module(f"loraport.upgrade.teachers.{name}")
        assert module.HELP and callable(module.targets) and teachers.teacher(name) is module
    with pytest.raises(LoraportError, match="did you mean 'old'"):
        teachers.teacher("odl")


def test_the_adapted_model_writes_to_a_prompt_once(room, monkeypatch):
    asked, write = [], room.old.write

    def counted(prompts):
        asked.append(list(prompts))
        return write(prompts)

    monkeypatch.setattr(room.old, "write", counted)
    first = room.said(PROMPTS[:3])
    assert room.said(PROMPTS[1:5])[:2] == first[1:] and room.said(PROMPTS[:3]) == first
    assert asked == [PROMPTS[:3], PROMPTS[3:5]]


def test_old_is_what_the_adapted_model_writes(room):
    targets = old.targets(room, PROMPTS)
    assert texts(targets) == texts(room.old.write(PROMPTS)) != texts(room.new.write(PROMPTS))
    room.settings = Settings(soft=True)
    soft = old.targets(room, PROMPTS)
    losses = room.old.losses(PROMPTS, texts(soft))
    for target, nats in zip(soft, losses, strict=True):
        assert target.soft and sum(s.nats for s in target.spans) == pytest.approx(nats, rel=1e-5)


@pytest.mark.parametrize("alike", [True, False])
def test_delta_on_the_old_model_itself_is_the_adapted_model(room, alike, monkeypatch):
    """bare + 1·(adapted − bare): whether the old model keeps its states or reads the text anew.

    For one token in the latter case: what is read anew may fall into other tokens than was written.
    """
    for base in (room.old, room.new):
        base.limits.new_tokens = 8 if alike else 1
    made = delta.Moved.__init__

    def forced(self, *arguments):
        made(self, *arguments)
        assert self.alike
        self.alike = alike

    monkeypatch.setattr(delta.Moved, "__init__", forced)
    adapted, bare = texts(room.old.write(PROMPTS)), texts(room.new.write(PROMPTS))
    assert texts(delta.targets(room, PROMPTS)) == adapted != bare
    room.settings = Settings(alpha=0.0)
    assert texts(delta.targets(room, PROMPTS)) == bare


def test_delta_across_two_tokenizers_writes_and_leaves_the_models_as_they_were(pico_pair):
    worn, new = loaded(pico_pair.old), loaded(pico_pair.new)
    bare = texts(new.write(PROMPTS))
    with worn.wearing(pico_pair.adapter):
        room = Classroom(worn, new, Settings(weighted=True))
        targets = delta.targets(room, PROMPTS)
        assert texts(delta.targets(Classroom(worn, new, Settings(alpha=0.0)), PROMPTS)) == bare
    assert texts(targets) != bare and texts(new.write(PROMPTS)) == bare
    weights = [span.weight for span in targets[0].spans]
    assert sum(weights) / len(weights) == pytest.approx(1.0) and min(weights) >= 0.5


def test_each_new_token_takes_the_change_of_the_old_one_that_it_begins_with(pico_pair):
    bases = loaded(pico_pair.old), loaded(pico_pair.new)
    old_words, new_words = map(delta.vocabulary, bases)
    table = delta.first_tokens(old_words, new_words, bases[1].tokenizer, bases[0].tokenizer)
    by_number = {number: key for key, number in old_words.keys.items()}
    longer = 0
    for (kind, what), number in new_words.keys.items():
        if kind == "bytes":
            begun = by_number[int(table[number])][1]
            assert what.startswith(begun) and ((kind, what) not in old_words.keys or begun == what)
            longer += begun != what
    assert longer > 0
    assert table[bases[1].tokenizer.eos_token_id] == bases[0].tokenizer.eos_token_id


def test_excess_weighs_pieces():
    adapted = [Span(1, 0.5), Span(2, 0.1), Span(3, 4.0)]
    bare = [Span(1, 0.5), Span(2, 3.1), Span(3, 1.0)]
    assert [each.weight for each in delta.weighted(adapted, bare)] == [0.5, 2.0, 0.5]
    assert delta.weighted(adapted, adapted) == tuple(adapted)


@dataclass
class Scripted:
    """A base model that always writes the same, and records what it is asked."""

    says: str
    limits: Limits = field(default_factory=Limits)
    asked: list = field(default_factory=list)
    room: int = 900

    def __post_init__(self):
        config = type("config", (), {"max_position_embeddings": self.room})
        self.model = type("model", (), {"config": config})
        self.tokenizer = lambda text, **_: {"input_ids": list(text)}

    def texts(self, prompts):
        return [p if isinstance(p, str) else "".join(c for _, c in p) for p in prompts]

    def write(self, prompts, temperature=0.0, seed=0):
        self.asked += prompts
        return [Answer(self.says, False) for _ in prompts]


SHOWN = [(f"Question {n}?\nAnswer:", f" It is {n}.") for n in range(20)]


def test_context_shows_demonstrations_and_takes_one_answer():
    new = Scripted(" It is so.\n\nQuestion 99?\nAnswer: no")
    room = Classroom(None, new, Settings(shots=3, seed=1), SHOWN)
    targets = context.targets(room, ["Question x?\nAnswer:"])
    assert texts(targets) == [" It is so."] and targets[0].whole
    assert targets[0].prompt == "Question x?\nAnswer:"
    parts = new.asked[0].split("\n\n")
    assert len(parts) == 4 and parts[3] == "Question x?\nAnswer:"
    assert all(part in {"".join(pair) for pair in SHOWN} for part in parts[:3])
    assert new.limits == Limits()


def test_context_shows_no_prompt_its_own_answer():
    """A prompt that is among the demonstrations is asked behind another in its place."""
    new = Scripted(" So.")
    room = Classroom(None, new, Settings(shots=3, seed=1), SHOWN)
    asked = [prompt for prompt, _ in SHOWN]
    context.targets(room, asked)
    for prompt, written in zip(asked, new.asked, strict=True):
        *before, last = written.split("\n\n")
        assert last == prompt and len(before) == 3
        assert not any(part.startswith(prompt) for part in before)


def test_context_shows_fewer_where_there_is_less_room():
    new = Scripted(" So.", room=120)
    context.targets(Classroom(None, new, Settings(shots=8), SHOWN), ["Question x?\nAnswer:"])
    assert 1 < len(new.asked[0].split("\n\n")) < 5
    with pytest.raises(LoraportError, match="nothing to show"):
        small = Scripted("", room=30)
        context.targets(Classroom(None, small, Settings(), SHOWN), ["Question x?\nAnswer:"])
    with pytest.raises(LoraportError, match="nothing to show"):
        context.targets(Classroom(None, new, Settings(), [("p", " ")]), ["Question x?\nAnswer:"])


def test_context_of_a_chat_is_turns():
    turns = (("system", "be brief"), ("user", "x?"))
    shown = [((("system", "be brief"), ("user", f"{n}?")), f"{n}!") for n in range(4)]
    new = Scripted("done")
    room = Classroom(None, new, Settings(shots=2), shown)
    assert not context.targets(room, [turns])[0].whole  # the model did not end it
    roles = [role for role, _ in new.asked[0]]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]


def test_on_policy_scores_the_students_own_samples(room, monkeypatch):
    known = room.said(PROMPTS)
    with monkeypatch.context() as unasked:
        unasked.setattr(room.old, "write", None)
        fixed = on_policy.targets(room, PROMPTS)
    assert all(target.soft for target in fixed) and texts(fixed) == texts(known)
    sampled = on_policy.again(room, PROMPTS, seed=1)
    assert [each.prompt for each in sampled] == PROMPTS[1::2]
    assert texts(sampled) == texts(room.new.write(PROMPTS[1::2], temperature=1.0, seed=1))
    losses = room.old.losses([each.prompt for each in sampled], texts(sampled))
    assert [sum(s.nats for s in each.spans) for each in sampled] == pytest.approx(list(losses))
    assert on_policy.again(room, [], 1) == []


def test_a_teacher_across_tokenizers_needs_no_common_token(pico_pair):
    tiny = pico.make_tokenizer(7, 120)
    worn, new = loaded(pico_pair.old), loaded(pico_pair.new)
    new.tokenizer = tiny
    room = Classroom(worn, new, replace(Settings(), soft=True))
    targets = old.targets(room, PROMPTS[:2])
    assert all(torch.isfinite(torch.tensor([s.nats for s in t.spans])).all() for t in targets)
