"""Scores of whole translated sets: sacrebleu's own numbers, intervals as they are configured."""

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from loraport.errors import LoraportError
from loraport.evaluation import translation
from loraport.evaluation.translation import corpus_score

WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "rug", "red", "old"]


def translations(count):
    """(reference, translation) of sentences, a third of whose words are other ones."""
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(count):
        reference = rng.choice(WORDS, 8)
        kept = rng.random(8) < 0.67
        pairs.append((" ".join(reference), " ".join(np.where(kept, reference, "owl"))))
    return pairs


@pytest.mark.parametrize(("metric", "scorer"), [("bleu", BLEU), ("chrf", CHRF)])
def test_scores_are_sacrebleus(metric, scorer):
    pairs = translations(20)
    references, outputs = ([pair[side] for pair in pairs] for side in (0, 1))
    scored = corpus_score(metric, pairs, resamples=50)
    assert scored["value"] == scorer().corpus_score(outputs, [references]).score
    assert 5 < scored["low"] < scored["value"] < scored["high"] < 90
    singles = [CHRF().sentence_score(o, [r]).score for r, o in pairs]
    assert scored["items"] == pytest.approx(singles, abs=1e-4)


@pytest.mark.parametrize(("metric", "scorer"), [("bleu", BLEU), ("chrf", CHRF)])
def test_an_interval_is_of_sets_that_are_drawn_and_scored_as_a_whole(metric, scorer):
    pairs, level = translations(20), 0.8
    rng = np.random.default_rng(3)
    scores = []
    for _ in range(300):
        drawn = [pairs[number] for number in rng.integers(20, size=20)]
        references, outputs = ([pair[side] for pair in drawn] for side in (0, 1))
        scores.append(scorer().corpus_score(outputs, [references]).score)
    scored = corpus_score(metric, pairs, level=level, resamples=300, seed=3)
    expected = np.percentile(scores, [10, 90])
    assert [scored["low"], scored["high"]] == pytest.approx(expected, abs=1e-9)


def test_a_higher_level_gives_a_wider_interval():
    pairs = translations(20)
    wide, narrow = (corpus_score("chrf", pairs, level=level) for level in (0.99, 0.5))
    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"]


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_perfect_translations_have_no_width(metric):
    perfect = corpus_score(metric, [(r, r) for r, _ in translations(9)], resamples=50)
    bounds = [perfect[end] for end in ("value", "low", "high")]
    assert bounds == pytest.approx([100, 100, 100])


def test_comet_is_told_where_it_is_not_installed():
    with pytest.raises(LoraportError, match="COMET is not installed"):
        translation.comet_scores("Unbabel/wmt22-comet-da", ["a"], [("b", "c")])
