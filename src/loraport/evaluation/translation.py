"""Scores of a whole translated set, with intervals: BLEU and chrF by sacrebleu, COMET."""

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from ..errors import LoraportError


def corpus_score(
    metric: str, pairs: Sequence[tuple[str, str]], resamples: int, seed: int
) -> dict[str, Any]:
    """Score of a set with its bootstrap 95 % interval, both on sacrebleu's scale of 0 to 100.

    Parameters
    ----------
    metric : `bleu` or `chrf`
    pairs : (reference, translation) per item

    Returns
    -------
    `value`, `low`, `high` of the set, and `items`: chrF of each sentence, for paired tests (BLEU
    of a single sentence is mostly zero).
    """
    references, outputs = [p[0] for p in pairs], [p[1] for p in pairs]
    scorer = BLEU() if metric == "bleu" else CHRF()
    value = scorer.corpus_score(outputs, [references]).score
    rng = np.random.default_rng(seed)
    scores = []
    sentences = CHRF()
    for _ in range(min(resamples, 200)):  # one resample scores the whole set again
        drawn = rng.integers(len(pairs), size=len(pairs))
        chosen = [outputs[i] for i in drawn], [[references[i] for i in drawn]]
        scores.append(scorer.corpus_score(*chosen).score)
    low, high = np.percentile(scores, [2.5, 97.5])
    items = [
        round(sentences.sentence_score(o, [r]).score, 4)
        for r, o in zip(references, outputs, strict=True)
    ]
    return {"value": value, "low": float(low), "high": float(high), "items": items}


def comet_scores(model: str, sources: Sequence[str], pairs: Sequence[tuple[str, str]]) -> float:
    """Mean COMET score of a set; needs the package `unbabel-comet`.

    COMET's own models are distributed as Lightning checkpoints, which torch unpickles: name only a
    model that you trust.
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
