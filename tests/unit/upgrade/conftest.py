"""Models of an upgrade in memory."""

import pytest

from loraport.upgrade.base import Base, Limits
from loraport.upgrade.teachers import Classroom, Settings

PROMPTS = [f"the word {n} is" for n in range(6)]


@pytest.fixture
def bases(pico_pair):
    """The old and the new model, bare."""
    return [
        Base.load(path, Limits(batch_size=16, new_tokens=5), device="cpu")
        for path in (pico_pair.old, pico_pair.new)
    ]


@pytest.fixture
def room(pico_pair, bases):
    """Both, the old one with its adapter, whose answers to a few prompts are shown."""
    old, new = bases
    with old.wearing(pico_pair.adapter):
        shown = [(p, a.text) for p, a in zip(PROMPTS, old.write(PROMPTS), strict=True)]
        yield Classroom(old, new, Settings(shots=2), shown)
