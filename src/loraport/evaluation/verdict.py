"""Whether a new adapter on the new model may take the place of the old one on the old model.

Non-inferiority on the same items: with the interval of `new − old` and a margin,

    low > −margin                 DEPLOY
    high < −margin                RETRAIN
    otherwise                     UNDECIDED

With a two-sided 90 % interval an adapter that is worse by the margin gets DEPLOY in 5 % of all
cases. Scores are pure functions of records: nothing here runs a model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..artifacts import write_json
from ..errors import LoraportError
from .matching import scores
from .paired import LEVEL, Paired, compare, items_to_settle, told

DEPLOY, RETRAIN, UNDECIDED = "DEPLOY", "RETRAIN", "UNDECIDED"
MARGIN = 2.0  # points that a new adapter may be worse
SHOWN = 3  # items of a test that measures nothing
CHANGED = 10  # items that changed, in verdict.json
KIND = "verdict"


@dataclass(frozen=True)
class Settings:
    """How a verdict is found.

    margin : points (of 100) that the new adapter may be worse than the old one
    level : of the two-sided interval
    match : how an answer is compared with its gold, or with the old adapter's: see `matching`
    temperature : of the old adapter's answers that its agreement with itself is counted on
    """

    margin: float = MARGIN
    level: float = LEVEL
    match: str = "exact"
    temperature: float = 0.7


@dataclass(frozen=True)
class Verdict:
    """What was decided, why, and from what.

    Attributes
    ----------
    verdict : DEPLOY, RETRAIN or UNDECIDED
    why : one sentence
    rests_on : `labels` or `agreement`
    evidence : comparisons and costs, as written to verdict.json
    """

    verdict: str
    why: str
    rests_on: str
    evidence: dict[str, Any] = field(default_factory=dict)


def decide(paired: Paired, margin: float, scale: float = 1.0) -> tuple[str, int | None]:
    """Verdict of a comparison (old first, new second), and the items that would settle an open one.

    Parameters
    ----------
    margin : in points
    scale : the best score that an item can have

    Returns
    -------
    the verdict, and how many more items would settle it: 0 where it is settled, None where no
    number of items like these would
    """
    bound = -margin * scale / 100
    if paired.low > bound:
        return DEPLOY, 0
    if paired.high < bound:
        return RETRAIN, 0
    return UNDECIDED, items_to_settle(paired, bound)


def by_labels(
    old: Sequence[float],
    new: Sequence[float],
    bare: Sequence[float],
    settings: Settings = Settings(),
    *,
    shown: Sequence[Mapping[str, str]] = (),
    scale: float = 1.0,
) -> Verdict:
    """Verdict from scores of the same labelled items.

    Parameters
    ----------
    old, new, bare : a score an item of old + adapter, new + adapter, and the old model alone
    shown : `prompt`, `output` and `gold` of items, told where the test measures nothing
    scale : the best score that an item can have

    Raises
    ------
    LoraportError
        If old + adapter is not better than the old model alone, beyond the interval: the test then
        does not measure what the adapter does.
    """
    yardstick = compare(bare, old, level=settings.level)
    if yardstick.low <= 0:
        raise _measures_nothing(yardstick, shown, scale, "right answers")
    paired = compare(old, new, level=settings.level)
    verdict, more = decide(paired, settings.margin, scale)
    evidence = {
        "margin": settings.margin,
        "scores": _named(paired, scale, "old_adapted", "new_adapted"),
        "yardstick": _named(yardstick, scale, "old_bare", "old_adapted"),
        "items_to_settle": more,
    }
    why = _sentence(verdict, paired, settings, more, scale, "scores", "old + adapter")
    return Verdict(verdict, why, "labels", evidence)


def by_agreement(
    reference: Sequence[str],
    again: Sequence[Sequence[str]],
    new: Sequence[str],
    bare: Sequence[str],
    settings: Settings = Settings(),
    *,
    prompts: Sequence[str] = (),
) -> Verdict:
    """Verdict from how often new + adapter gives the answers of old + adapter; no label is needed.

    Parameters
    ----------
    reference : greedy answers of old + adapter to the held-back prompts
    again : samples of its answers at temperature, each one for every prompt: how often it agrees
        with itself is what new + adapter is held against
    new, bare : greedy answers of new + adapter, and of the old model alone
    prompts : told where the answers measure nothing

    Raises
    ------
    LoraportError
        If the old model alone gives the same answers as often as old + adapter does again: they
        then do not show what the adapter does.
    """
    name = settings.match
    each = [scores(name, sample, reference) for sample in again]
    self_agreement = [sum(parts) / len(parts) for parts in zip(*each, strict=True)]
    agreement = scores(name, new, reference)
    unadapted = scores(name, bare, reference)
    yardstick = compare(unadapted, self_agreement, level=settings.level)
    if yardstick.low <= 0:
        columns = zip(prompts, bare, reference, strict=False)
        shown = [{"prompt": p, "output": o, "gold": g} for p, o, g in columns]
        raise _measures_nothing(yardstick, shown, 1.0, "the adapter's answers")
    paired = compare(self_agreement, agreement, level=settings.level)
    verdict, more = decide(paired, settings.margin)
    evidence = {
        "margin": settings.margin,
        "agreement": _named(paired, 1.0, "old_with_itself", "new_with_old"),
        "yardstick": _named(yardstick, 1.0, "old_bare_with_old", "old_with_itself"),
        "items_to_settle": more,
    }
    why = _sentence(verdict, paired, settings, more, 1.0, "agrees with old + adapter in", "itself")
    why += " There was no label: this rests on agreement with the old adapter, right or wrong."
    return Verdict(verdict, why, "agreement", evidence)


def _named(paired: Paired, scale: float, first: str, second: str) -> dict[str, Any]:
    content = told(paired, scale)
    return {first: content.pop("first"), second: content.pop("second"), **content}


def _sentence(
    verdict: str,
    paired: Paired,
    settings: Settings,
    more: int | None,
    scale: float,
    verb: str,
    other: str,
) -> str:
    """Why a verdict is what it is, with its numbers."""
    points = 100 / scale
    apart, low, high = (
        f"{points * each:+.1f}".replace("-", "−")
        for each in (paired.difference, paired.low, paired.high)
    )
    text = (
        f"new + adapter {verb} {points * paired.second:.1f} %, {other} {points * paired.first:.1f}"
        f" %, on {paired.items} items ({paired.gained} gained, {paired.lost} lost): a difference "
        f"of {apart} points, {100 * paired.level:.0f} % interval {low} to {high}"
    )
    ends = {
        DEPLOY: f", above −{settings.margin:g}.",
        RETRAIN: f", below −{settings.margin:g}.",
        UNDECIDED: f", on both sides of −{settings.margin:g}; "
        + (f"{more} more items like these would settle it." if more else "more would not help."),
    }
    return text[0].upper() + text[1:] + ends[verdict]


def _measures_nothing(
    yardstick: Paired, shown: Sequence[Mapping[str, str]], scale: float, of: str
) -> LoraportError:
    points = 100 / scale
    items = [
        f"({number}) prompt {each['prompt'][-160:]!r}, output {each['output'][:160]!r}, gold "
        f"{each['gold'][:160]!r}"
        for number, each in enumerate(shown[:SHOWN], 1)
    ]
    return LoraportError(
        "these items do not measure what the old adapter does"
        + (f": {'; '.join(items)}" if items else ""),
        got=f"{of}: {points * yardstick.first:.1f} % from the old model alone, "
        f"{points * yardstick.second:.1f} % with its adapter ({yardstick.items} items)",
        expected="the adapter ahead, beyond the interval",
        todo="check the prompts' form, the chat template and how answers are compared (--match); "
        "give more items; or, for free text without gold answers, lower --temperature",
    )


def with_costs(verdict: Verdict, costs: Mapping[str, Any]) -> Verdict:
    """A verdict with what the adapters cost on generic text beside it."""
    evidence = {**verdict.evidence, "generic_text": dict(costs)}
    return Verdict(verdict.verdict, verdict.why, verdict.rests_on, evidence)


def with_alone(
    verdict: Verdict,
    alone: Sequence[float],
    new: Sequence[float],
    settings: Settings = Settings(),
) -> Verdict:
    """A verdict with what the new model scores without an adapter beside it.

    It decides nothing, but `why` tells where the adapter is not clearly ahead: an adapter may be as
    good as the old one was, and no use on a stronger model.

    Parameters
    ----------
    alone, new : a score an item of the bare new model, and of new + adapter
    """
    paired = compare(alone, new, level=settings.level)
    named = _named(paired, 1.0, "new_bare", "new_adapted")
    why = verdict.why
    if paired.low <= 0:
        why += f" The new model alone has {named['new_bare']:.1f}"
        better = paired.high < 0
        why += ": it is better without." if better else ": the adapter is not clearly ahead of it."
    return Verdict(verdict.verdict, why, verdict.rests_on, {**verdict.evidence, "alone": named})


def with_flips(
    verdict: Verdict, old: Sequence[float], new: Sequence[float], items: Sequence[Mapping[str, str]]
) -> Verdict:
    """A verdict with the items that changed beside it: at most ten, those that were lost first.

    Parameters
    ----------
    old, new : a score an item of old + adapter and of new + adapter; where the verdict rests on
        agreement, 1 and how well the new answer agrees with the old one
    items : `prompt`, `output` of old + adapter, `new` output and maybe `gold` of each item
    """
    flips = [
        {
            "prompt": item["prompt"],
            "gold": item.get("gold", ""),
            "old": item["output"],
            "new": item["new"],
            "lost": before > after,
        }
        for before, after, item in zip(old, new, items, strict=False)
        if before != after
    ]
    kept = sorted(flips, key=lambda flip: not flip["lost"])[:CHANGED]
    evidence = {**verdict.evidence, "flips": kept}
    return Verdict(verdict.verdict, verdict.why, verdict.rests_on, evidence)


def without_effect(evidence: Mapping[str, Any] | None = None) -> Verdict:
    """Of an adapter that changes nothing on the new model."""
    why = "The new adapter changes no logit of the new model: it does nothing."
    return Verdict(RETRAIN, why, "logits", dict(evidence or {}))


def write_verdict(
    path: str | Path,
    verdict: Verdict,
    *,
    inputs: Mapping[str, str] | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write verdict.json (workflow/schemas/verdict.schema.json says what it holds)."""
    content = {
        "verdict": verdict.verdict,
        "why": verdict.why,
        "rests_on": verdict.rests_on,
        "evidence": verdict.evidence,
        "about": dict(about or {}),
    }
    write_json(path, KIND, inputs or {}, content)
