"""When an answer is right, by each of the scores that a task of own data may name."""

import pytest

from loraport.evaluation.answers import METRICS, SCORES, first_choice, first_json

LABELS = ["billing", "not billing", "shipping"]


@pytest.mark.parametrize(
    ("score", "answer", "right", "wrong"),
    [
        ("exact", "a  b", [" a b\n"], ["a b.", "A b", ""]),
        ("number", "so it is 12", ["7 + 5 = 12.", "12.0004", "1,2 and 12"], ["12.1", "12, then 3"]),
        ("number", "-0.5", ["-0.5"], ["0.5", "none"]),
        ("contains", "New York", ["in new  york, I think"], ["New Yor", ""]),
        (
            "json",
            '{"a": 1, "b": [true, "x"]}',
            ['{"b": [true, "x"], "a": 1.0}', 'Sure: {"a": 1, "b": [true, "x"]} and more {"a": 2}'],
            ['{"a": 1}', '{"a": 1, "b": [1, "x"]}', '{"a": 1, "b": [true, "x"', "none", "[1]"],
        ),
        ("json", "null", [], ["null", ""]),
        ("json", "3", ["3", " 3.0 "], ["4", "true"]),
    ],
)
def test_what_is_right(score, answer, right, wrong):
    for text in right:
        assert SCORES[score]({"answer": answer}, [text]) == {"acc": 1.0}, text
    for text in wrong:
        assert SCORES[score]({"answer": answer}, [text]) == {"acc": 0.0}, text


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("It is Billing, not shipping", "billing"),
        ("this is not billing", "not billing"),
        ("rebilling", ""),
        ("", ""),
    ],
)
def test_the_first_choice_that_stands_in_a_text(text, choice):
    assert first_choice(text, LABELS) == choice
    item = {"answer": choice or "billing", "choices": LABELS}
    assert SCORES["choice"](item, [text])["acc"] == float(bool(choice))


def test_choices_of_one_letter_are_upper_or_lower_case_as_written():
    assert first_choice("a good question. Answer: B", ["A", "B"]) == "B"


def test_rouge_is_the_f_measure_of_the_longest_common_subsequence():
    # precision 3/4, recall 3/4: police killed the gunman / police kill the gunman (Lin 2004, 3.1)
    item = {"answer": "police killed the gunman"}
    for text, value in {
        "police kill the gunman": 3 / 4,
        "the gunman kill police": 2 / 4,
        "The gunman, police killed!": 2 / 4,
        "": 0,
        "police": 2 * 1 * (1 / 4) / (1 + 1 / 4),
    }.items():
        values = SCORES["rouge"](item, [text])
        assert values == {METRICS["rouge"]: pytest.approx(value)}, text


def test_the_first_json_skips_brackets_that_are_none():
    assert first_json("[see] {x} [1, 2] {}") == [1, 2]
