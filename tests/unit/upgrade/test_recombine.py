"""New prompts out of given ones: joined at words that both have, different, and drawn by a seed."""

import numpy as np

from loraport.upgrade.recombine import recombine

TEXTS = ["take me to the lake by bus", "find the road to the mill on foot", "call Ann"]


def test_the_beginning_of_one_goes_on_with_the_end_of_another_behind_shared_words():
    new = recombine(TEXTS, 10, np.random.default_rng(0))
    assert set(new) == {"take me to the mill on foot", "find the road to the lake by bus"}


def test_lines_and_spaces_stay_as_they_are():
    texts = ["Q: who is it\nA:", "Q: who is  there\nA:", "Q: who is it\n\nA:"]
    assert all(text.endswith("A:") for text in recombine(texts, 5, np.random.default_rng(0)))
    assert recombine(["a b\nc", "a b  d"], 2, np.random.default_rng(0)) == []


def test_as_many_as_are_asked_the_same_for_a_seed_and_none_that_is_known():
    texts = [f"count {a} and {b} and then {c} of them" for a, b, c in np.ndindex(3, 3, 3)]
    texts = texts[::4]
    one = recombine(texts, 4, np.random.default_rng(1))
    assert one == recombine(texts, 4, np.random.default_rng(1))
    assert len(one) == len(set(one)) == 4
    assert not set(one) & set(texts)
    assert not set(one) & set(recombine(texts, 4, np.random.default_rng(1), known=one))


def test_texts_that_share_no_words_give_none():
    assert recombine(["one two three", "four five six"], 3, np.random.default_rng(0)) == []
    assert recombine([], 3, np.random.default_rng(0)) == []
