"""Spans: two tokenizers meet at the same characters, and the divergence is what it says."""

import pico
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loraport.evaluation.likelihood import answer_losses
from loraport.models.loading import load_base
from loraport.training.data import Example, encode
from loraport.upgrade.spans import (
    Span,
    encode_answer,
    joined,
    span_divergence,
    spans_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")
OLD, NEW = pico.make_tokenizer(1, 220), pico.make_tokenizer(2, 150)
LINES = pico.texts(30, seed=5)


@pytest.mark.parametrize("tokenizer", [OLD, NEW])
@pytest.mark.parametrize("line", LINES[:10])
def test_an_answer_is_encoded_as_in_training(tokenizer, line):
    prompt, answer = line[:12], line[12:]
    row = encode_answer(tokenizer, prompt, answer)
    trained = encode([Example(prompt, answer)], tokenizer, 999, "answer").rows[0]
    assert row.ids == trained["input_ids"]
    assert row.first == trained["labels"].count(-100)
    assert len(row.ends) == len(row.ids) - row.first
    assert row.ends == sorted(row.ends) and row.ends[-2:] == [len(answer), len(answer) + 1]


@pytest.mark.parametrize("line", LINES[:10])
def test_joined_spans_lose_no_nats_and_cover_all_tokens(line):
    prompt, answer = line[:12], line[12:]
    teacher, student = (encode_answer(each, prompt, answer) for each in (OLD, NEW))
    spans = [Span(end, 1.0 + number) for number, end in enumerate(teacher.ends)]
    pieces = joined(spans, student.ends)
    assert sum(piece[2] for piece in pieces) == pytest.approx(sum(each.nats for each in spans))
    assert [piece[0] for piece in pieces] == [0, *(piece[1] for piece in pieces[:-1])]
    assert pieces[-1][1] == len(student.ends)
    own = joined(spans, teacher.ends)
    assert len(own) == len(set(teacher.ends))
    assert {piece[3] for piece in pieces} == {1.0}


def test_weights_follow_their_characters():
    spans = [Span(2, 0.1, 3.0), Span(3, 0.1, 1.0), Span(4, 0.1, 5.0)]
    weights = [(start, stop, weight) for start, stop, _, weight in joined(spans, [1, 3, 4])]
    assert weights == [(0, 2, 2.0), (2, 3, 5.0)]


@given(st.floats(1e-4, 20), st.floats(1e-4, 20))
def test_the_divergence_is_that_of_two_coins(student, teacher):
    p, q = torch.exp(-torch.tensor(teacher).double()), torch.exp(-torch.tensor(student).double())
    known = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    value = span_divergence(torch.tensor([student]).double(), torch.tensor([teacher]).double())
    assert float(value) == pytest.approx(float(known), rel=1e-5, abs=1e-7) and value > -1e-9


def test_its_gradient_moves_the_student_to_the_teacher():
    for start, sign in ((0.1, -1), (5.0, 1)):
        student = torch.tensor([start], requires_grad=True)
        span_divergence(student, torch.tensor([1.0])).sum().backward()
        assert float(student.grad) * sign > 0


def test_what_a_model_says_sums_to_its_likelihood(pico_pair):
    model, tokenizer = load_base(pico_pair.old, device="cpu")
    examples = [Example(line[:12], line[12:]) for line in LINES[:7]]
    spans = spans_of(model, tokenizer, *zip(*examples, strict=True), 3)
    losses = answer_losses(model, tokenizer, examples, 999, 4)
    for said, nats in zip(spans, losses, strict=True):
        assert sum(each.nats for each in said) == pytest.approx(nats, rel=1e-5)
