"""Scores of a whole translated set, with intervals: BLEU and chrF by sacrebleu, COMET."""

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from ..errors import LoraportError
from .statistics import LEVEL, RESAMPLES, tails


def corpus_score(
    metric: str,
    pairs: Sequence[tuple[str, str]],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Score of a set with its percentile-bootstrap interval, both on sacrebleu's scale of 0 to 100.

    Parameters
    ----------
    metric : `bleu` or `chrf`
    pairs : (reference, translation) per item
    level : confidence level of the interval, between 0 and 1
    resamples : sets of as many sentences that are drawn, with replacement, and scored as a whole

    Returns
    -------
    `value`, `low`, `high` of the set, and `items`: chrF of each sentence, for paired tests (BLEU
    of a single sentence is mostly zero).
    """
    references, outputs = [p[0] for p in pairs], [p[1] for p in pairs]
    scorer: Any = BLEU() if metric == "bleu" else CHRF()
    # n-gram counts of each sentence (n, counts): a set's score is a function of their sum
    counts = np.array(scorer._extract_corpus_statistics(outputs, [references]))
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(resamples):
        drawn = rng.integers(len(pairs), size=len(pairs))
        scores.append(scorer._compute_score_from_stats(counts[drawn].sum(axis=0).tolist()).score)
    low, high = np.percentile(scores, tails(level))
    sentences = CHRF()
    items = [
        round(sentences.sentence_score(o, [r]).score, 4)
        for r, o in zip(references, outputs, strict=True)
    ]
    value = scorer.corpus_score(outputs, [references]).score
    return {"value": value, "low": float(low), "high": float(high), "items": items}


def comet_scores(model: str, sources: Sequence[str], pairs: Sequence[tuple[str, str]]) -> float:
    """Mean COMET score of a set; needs the package `unbabel-comet`.

    COMET's own models are distributed as Lightning checkpoints, which torch unpickles: name only a
    model that you trust.

    Parameters
    ----------
    model : name of a COMET model, such as `Unbabel/wmt22-comet-da`
    sources : text that was translated, per item
    pairs : (reference, translation) per item

    Raises
    ------
    LoraportError
        If COMET is not installed.
    """
    if importlib.util.find_spec("comet") is None:
        raise LoraportError(
            "`evaluation.comet` names a model, but COMET is not installed",
            expected="the package unbabel-comet",
            todo="pip install unbabel-comet, or leave `evaluation.comet` empty",
        )
    from comet import download_model, load_from_checkpoint

    scorer = load_from_checkpoint(download_model(model))
    data = [
        {"src": source, "mt": output, "ref": reference}
        for source, (reference, output) in zip(sources, pairs, strict=True)
    ]
    return float(scorer.predict(data, batch_size=16).system_score)
