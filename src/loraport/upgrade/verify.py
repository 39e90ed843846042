"""The last step of an upgrade, or of a check: what two adapters answer, and the verdict of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.matching import scores
from ..evaluation.verdict import (
    Settings,
    Verdict,
    by_agreement,
    by_labels,
    with_alone,
    with_costs,
    with_flips,
    without_effect,
)
from .base import Base, check_changes
from .prompts import Record, labelled, said

SAMPLES = 2  # answers of the old adapter at temperature, a prompt


@dataclass(frozen=True)
class OldAnswers:
    """What the old model writes to the test's prompts: made once, for any number of new adapters.

    Attributes
    ----------
    adapted : greedy answers with the adapter
    bare : greedy answers without
    again : samples at temperature with the adapter, each one for every prompt; none with labels
    generic : nats a token that the adapter costs on generic text; None where there is no text
    """

    adapted: list[str]
    bare: list[str]
    again: list[list[str]]
    generic: float | None = None


def old_answers(
    old: Base,
    adapter: str | Path,
    test: Sequence[Record],
    texts: Sequence[str] = (),
    *,
    samples: int = SAMPLES,
    temperature: float = 0.7,
) -> OldAnswers:
    """Let the old model answer a test, with and without its adapter."""
    prompts = [record.prompt for record in test]
    bare = _texts(old.write(prompts))
    plain = nats_a_token(old, texts)
    with old.wearing(adapter):
        adapted = _texts(old.write(prompts))
        again = [
            _texts(old.write(prompts, temperature=temperature, seed=seed))
            for seed in range(0 if all_labelled(test) else samples)
        ]
        worn = nats_a_token(old, texts)
    return OldAnswers(adapted, bare, again, None if plain is None else worn - plain)


def answers_to(test: Sequence[Record], samples: int = SAMPLES) -> dict[str, int]:
    """How many answers a verdict takes of the old and of the new model."""
    again = 0 if all_labelled(test) else samples
    return {"old": len(test) * (2 + again), "new": 2 * len(test)}


def all_labelled(test: Sequence[Record]) -> bool:
    """Whether every record of a test has its gold answer."""
    return len(labelled(test)) == len(test)


def nats_a_token(base: Base, texts: Sequence[str]) -> Any:
    """Mean negative log-likelihood of generic texts, nats a token; None without a text."""
    if not texts:
        return None
    nats, tokens = base.text_losses(texts)
    return float(nats.sum() / max(tokens.sum(), 1))


def check_yardstick(
    old: OldAnswers,
    test: Sequence[Record],
    settings: Settings = Settings(),  # noqa: B008  (frozen)
) -> None:
    """Refuse a test on which the old adapter does nothing, before anything is trained.

    Raises
    ------
    LoraportError
        As `by_labels` and `by_agreement` do.
    """
    judge(old, old.adapted, test, settings)


def judge(
    old: OldAnswers,
    new: Sequence[str],
    test: Sequence[Record],
    settings: Settings = Settings(),  # noqa: B008  (frozen)
) -> Verdict:
    """Verdict from answers: by labels where all records have them, else by agreement."""
    columns = zip(test, old.adapted, new, strict=True)
    items = [{"prompt": said(r.prompt), "output": o, "new": n} for r, o, n in columns]
    if not all_labelled(test):
        prompts = [item["prompt"] for item in items]
        verdict = by_agreement(old.adapted, old.again, new, old.bare, settings, prompts=prompts)
        agreed = scores(settings.match, new, old.adapted)
        return with_flips(verdict, [1.0] * len(agreed), agreed, items)
    golds = [str(record.gold) for record in test]
    old_scores, new_scores, bare_scores = (
        scores(settings.match, answers, golds) for answers in (old.adapted, new, old.bare)
    )
    shown = [{**item, "gold": gold} for item, gold in zip(items, golds, strict=True)]
    verdict = by_labels(old_scores, new_scores, bare_scores, settings, shown=shown)
    return with_flips(verdict, old_scores, new_scores, shown)


def verify(
    new: Base,
    adapter: str | Path,
    old: OldAnswers,
    test: Sequence[Record],
    texts: Sequence[str] = (),
    settings: Settings = Settings(),  # noqa: B008  (frozen)
    *,
    alone: Sequence[str] = (),
) -> tuple[Verdict, list[str]]:
    """Verdict on a new adapter, and its answers to the test.

    Parameters
    ----------
    old : what the old model answered to the same test
    test : records that nothing was trained on; by labels where all have one
    texts : generic ones, on which the cost of the adapters is measured
    alone : answers of the bare new model, where they are known; else it is asked, with labels

    Raises
    ------
    LoraportError
        If the adapter does not load with every tensor in its place, or the test measures nothing.
    """
    prompts = [record.prompt for record in test]
    changes = check_changes(new, adapter, prompts)
    plain = nats_a_token(new, texts)
    labels = all_labelled(test)
    if labels and not alone:
        alone = _texts(new.write(prompts))
    with new.wearing(adapter):
        answers = _texts(new.write(prompts))
        worn = nats_a_token(new, texts)
    verdict = judge(old, answers, test, settings)
    if labels:
        golds = [str(record.gold) for record in test]
        bare, adapted = (scores(settings.match, each, golds) for each in (alone, answers))
        verdict = with_alone(verdict, bare, adapted, settings)
    if not changes:
        verdict = without_effect(verdict.evidence)
    if plain is not None:
        costs = {
            "texts": len(texts),
            "new_nats_a_token": worn - plain,
            "old_nats_a_token": old.generic,
        }
        verdict = with_costs(verdict, costs)
    return verdict, answers


def _texts(answers: Sequence[Any]) -> list[str]:
    return [answer.text for answer in answers]
