"""Verdicts: the interval's coverage, decisions at the margin, and tests that measure nothing."""

import json
from itertools import product
from math import comb
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraport.errors import LoraportError
from loraport.evaluation.matching import scores
from loraport.evaluation.paired import compare, items_to_settle, score_interval
from loraport.evaluation.verdict import (
    DEPLOY,
    RETRAIN,
    UNDECIDED,
    Settings,
    by_agreement,
    by_labels,
    decide,
    with_alone,
    with_costs,
    with_flips,
    without_effect,
    write_verdict,
)

SCHEMA = Path(__file__).parents[3] / "workflow" / "schemas" / "verdict.schema.json"


def items(right: int, count: int) -> list[int]:
    return [1] * right + [0] * (count - right)


def test_without_a_changed_item_the_interval_is_known():
    """z² / (n + z²), by setting the score statistic to z where no item changed."""
    low, high = score_interval(0, 0, 100, 0.95)
    known = 1.959964**2 / (100 + 1.959964**2)
    assert (low, high) == (pytest.approx(-known, abs=1e-6), pytest.approx(known, abs=1e-6))


def test_many_items_give_the_normal_interval():
    low, high = score_interval(3000, 1000, 100_000, 0.9)
    error = 1.644854 * np.sqrt((0.04 - 0.02**2) / 100_000)
    assert low == pytest.approx(0.02 - error, abs=1e-5)
    assert high == pytest.approx(0.02 + error, abs=1e-5)


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 30))
def test_the_interval_turns_with_its_sides_and_holds_the_difference(gained, lost, rest):
    count = max(1, gained + lost + rest)
    low, high = score_interval(gained, lost, count, 0.9)
    turned = score_interval(lost, gained, count, 0.9)
    assert -1 <= low <= (gained - lost) / count <= high <= 1
    assert (low, high) == (pytest.approx(-turned[1], abs=1e-9), pytest.approx(-turned[0], abs=1e-9))


@pytest.mark.parametrize(("lost_rate", "margin"), [(0.15, 0.05), (0.3, 0.1), (0.08, 0.05)])
def test_an_adapter_worse_by_the_margin_is_deployed_in_about_five_cases_of_a_hundred(
    lost_rate, margin
):
    """Exact: summed over all outcomes of 60 items, true difference −margin."""
    count, won_rate = 60, lost_rate - margin
    falsely = 0.0
    for won, lost in product(range(count + 1), repeat=2):
        if won + lost > count:
            continue
        chance = (
            comb(count, won)
            * comb(count - won, lost)
            * won_rate**won
            * lost_rate**lost
            * (1 - won_rate - lost_rate) ** (count - won - lost)
        )
        if chance > 1e-9 and score_interval(won, lost, count, 0.9)[0] > -margin:
            falsely += chance
    assert 0.02 < falsely < 0.065


def test_better_worse_and_open():
    old, same = items(300, 400), items(300, 400)
    assert decide(compare(old, same), 2.0) == (DEPLOY, 0)
    assert decide(compare(old, items(200, 400)), 2.0) == (RETRAIN, 0)
    few = compare(old[290:310], same[290:310])
    verdict, more = decide(few, 2.0)
    assert verdict == UNDECIDED and 100 < more < 200
    settled = compare(items(80, 20 + more), items(80, 20 + more))
    assert decide(settled, 2.0)[0] == DEPLOY
    assert decide(compare(items(80, 19 + more), items(80, 19 + more)), 2.0)[0] == UNDECIDED


def test_a_difference_that_is_the_margin_itself_is_never_settled():
    assert items_to_settle(compare(items(50, 100), items(48, 100)), -0.02) is None


def test_graded_items_have_a_bootstrap_interval():
    rng = np.random.default_rng(0)
    old = rng.random(400)
    paired = compare(old, old + 0.1 + 0.05 * rng.standard_normal(400))
    assert paired.method.startswith("percentile bootstrap")
    assert 0.09 < paired.low < paired.difference < paired.high < 0.11


def test_items_that_differ_in_number_are_refused():
    with pytest.raises(LoraportError, match="the same items"):
        compare([1, 0], [1])


def test_labels_and_the_schema(tmp_path):
    verdict = by_labels(items(300, 400), items(310, 400), items(100, 400))
    assert verdict.verdict == DEPLOY and verdict.rests_on == "labels"
    assert "77.5 %" in verdict.why and "75.0 %" in verdict.why
    costs = {"texts": 4, "new_nats_a_token": 0.1, "old_nats_a_token": 0.2}
    for each in (with_costs(verdict, costs), without_effect(verdict.evidence)):
        write_verdict(tmp_path / "verdict.json", each, about={"app": "a"})
        content = json.loads((tmp_path / "verdict.json").read_text())
        jsonschema.validate(content, json.loads(SCHEMA.read_text()))
        assert content["verdict"] == each.verdict


@pytest.mark.parametrize(
    "alone, told",
    [
        (100, ""),
        (310, " The new model alone has 77.5: the adapter is not clearly ahead of it."),
        (380, " The new model alone has 95.0: it is better without."),
    ],
)
def test_a_new_model_that_needs_no_adapter_is_told_and_decides_nothing(alone, told, tmp_path):
    new = items(310, 400)
    before = by_labels(items(300, 400), new, items(100, 400))
    verdict = with_alone(before, items(alone, 400), new)
    assert (verdict.verdict, verdict.why) == (before.verdict, before.why + told)
    assert verdict.evidence["alone"]["new_bare"] == alone / 4
    assert verdict.evidence["alone"]["difference"] == pytest.approx((310 - alone) / 4)
    write_verdict(tmp_path / "verdict.json", verdict, about={})
    content = json.loads((tmp_path / "verdict.json").read_text())
    jsonschema.validate(content, json.loads(SCHEMA.read_text()))


def test_a_test_that_the_bare_model_passes_as_well_is_refused_and_shown():
    shown = [{"prompt": f"p{n}", "output": f"o{n}", "gold": f"g{n}"} for n in range(9)]
    with pytest.raises(LoraportError) as error:
        by_labels(items(100, 200), items(150, 200), items(100, 200), shown=shown)
    assert all(f"{part}2" in str(error.value) for part in "pog") and "p3" not in str(error.value)


def test_agreement_is_held_against_the_old_adapters_own():
    reference = [f"answer {n}" for n in range(300)]
    again = [[*reference[:290], *["else"] * 10]]
    bare = ["nothing"] * 300
    good = by_agreement(reference, again, reference, bare)
    assert good.verdict == DEPLOY and "no label" in good.why
    bad = by_agreement(reference, again, bare, bare)
    assert bad.verdict == RETRAIN
    assert bad.evidence["agreement"]["old_with_itself"] == pytest.approx(100 * 290 / 300)
    content = {"kind": "verdict", "format": 1, "verdict": bad.verdict, "why": bad.why}
    content |= {"rests_on": bad.rests_on, "evidence": bad.evidence, "about": {}}
    jsonschema.validate(content, json.loads(SCHEMA.read_text()))


def test_answers_that_the_bare_model_gives_as_well_are_refused():
    reference = [f"answer {n}" for n in range(50)]
    with pytest.raises(LoraportError, match="do not measure"):
        by_agreement(reference, [reference], reference, reference, prompts=reference)


def test_the_margin_decides():
    old, new = items(300, 400), items(290, 400)
    bare = items(0, 400)
    assert by_labels(old, new, bare, Settings(margin=1)).verdict == RETRAIN
    assert by_labels(old, new, bare, Settings(margin=5)).verdict == DEPLOY


@pytest.mark.parametrize(
    ("how", "text", "gold", "same"),
    [
        ("exact", " It is  glass.\nQuestion:", " It is glass.", 1),
        ("exact", "\n\nIt is glass. Or not", "It is glass.", 0),
        ("exact", "a\nb", "a\nb", 1),
        ("number", "3 + 4 = 7. The answer is 7.\nQuestion: 9", "7", 1),
        ("number", "The answer is 1,018.50.", "1018.5", 1),
        ("number", "none", "7", 0),
        ("contains", "Well, the Answer is B.", "the answer is B", 1),
        ("choice", "(b) glass it is", "glass", 1),
    ],
)
def test_how_answers_are_compared(how, text, gold, same):
    assert scores(how, [text, ""], [gold, "wood 2"])[0] == same


def test_an_unknown_way_is_told():
    with pytest.raises(LoraportError, match="unknown way"):
        scores("near", [], [])


def test_at_most_ten_items_that_changed_are_kept_and_those_lost_first(tmp_path):
    old, new = [0] * 9 + [1] * 90 + [0], [1] * 9 + [0] * 4 + [1] * 86 + [0]
    shown = [
        {"prompt": f"p{n}", "gold": "g", "output": f"o{n}", "new": f"n{n}"} for n in range(100)
    ]
    judged = with_flips(by_labels(old, new, [0] * 100), old, new, shown)
    flips = judged.evidence["flips"]
    assert [flip["lost"] for flip in flips] == [True] * 4 + [False] * 6
    assert flips[0] == {"prompt": "p9", "gold": "g", "old": "o9", "new": "n9", "lost": True}
    write_verdict(tmp_path / "verdict.json", judged, about={})
    content = json.loads((tmp_path / "verdict.json").read_text())
    jsonschema.validate(content, json.loads(SCHEMA.read_text()))
