"""What to expect of a transfer before it is run: which method, whether to fine-tune, on how much.

The advice rests on cases that were measured (`cases`), and says how few they are.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..models.families import ROLES, Dimensions
from .cases import RANKED_BY, Case, best_method, left_out, share

MIN_RETENTION = 0.9  # retention at which an app counts as carried


def facts(
    distance: Mapping[str, Any], magnitude: Mapping[str, Any], old: Dimensions, new: Dimensions
) -> dict[str, Any]:
    """What is known of a pair and an adapter before any transfer.

    Parameters
    ----------
    distance, magnitude : content of distance.json and magnitude.json
    """
    shapes = [dims.shape(role) for dims in (old, new) for role in ROLES]
    same = old.layers == new.layers and shapes[: len(ROLES)] == shapes[len(ROLES) :]
    return {
        "same_shapes": same,
        "distance": distance["distance"]["mean"] if same else None,
        "path_dissimilarity": 1 - distance["path"]["mean"],
        "residual": distance["embedding"]["residual"],
        "heads_assigned": distance["heads"]["assigned"],
        "heads_random": distance["heads"]["random"],
        "magnitude": magnitude["total"],
        "depth": [old.layers, new.layers],
        "width": [old.hidden, new.hidden],
    }


def advise(pair: str, app: str, known: Mapping[str, Any], cases: Sequence[Case]) -> dict[str, Any]:
    """The advice for an app of a pair.

    Parameters
    ----------
    known : from `facts`
    cases : from `read_cases`

    Returns
    -------
    `method`, `finetuning_needed`, `examples` (None where no measured size was enough), `reasons`
    (sentences), `evidence` (a row for each case and method that was looked at), and `limits`
    (sentences). Method and the other two are None where nothing like it was measured.
    """
    alike = [case for case in cases if case["facts"]["same_shapes"] == known["same_shapes"]]
    own = [case for case in alike if (case["pair"], case["app"]) == (pair, app)]
    used = own or alike
    advised: dict[str, Any] = {"method": None, "finetuning_needed": None, "examples": None}
    reasons = []
    if best := best_method(used, "transferred"):
        enough = [
            case for case in used if share(case, best, "transferred", "_low") >= MIN_RETENTION
        ]
        advised["finetuning_needed"] = len(enough) < len(used)
        stage = "finetuned" if advised["finetuning_needed"] else "transferred"
        advised["method"] = best_method(used, stage) or best
        advised["examples"], told = _examples(used, advised["method"])
        reasons = [
            f"Without fine-tuning, {best} kept more of a full retraining's gain in NLL "
            f"than any other: {_span(used, best, 'transferred')}, on {_on(used)}.",
            *_about_finetuning(used, advised["method"], len(enough), told),
        ]
        if not _helps(used, advised["method"]):
            advised = {"method": None, "finetuning_needed": True, "examples": None}
            reasons = [f"No method is known to help here, on {_on(used)}.", *reasons]
    return {
        "pair": pair,
        "app": app,
        "facts": dict(known),
        **advised,
        "reasons": reasons,
        "evidence": [row for case in used for row in _evidence(case)],
        "limits": limits(pair, app, known, cases, alike, own),
    }


def in_short(advised: Mapping[str, Any], where: str | Path) -> list[str]:
    """An advice in four sentences at most.

    Parameters
    ----------
    where : the file that has the evidence
    """
    pair, app, method = advised["pair"], advised["app"], advised["method"]
    measured = {(row["pair"], row["app"]) for row in advised["evidence"]}
    if not measured:
        return [f"Nothing like {pair} was measured, so that there is no advice for {app}."]
    told = [
        f"For {app} on {pair}, {method} is the method that kept most."
        if method
        else f"For {app} on {pair}, no method is known to help: train a new LoRA."
    ]
    size = advised["examples"]
    if method and not advised["finetuning_needed"]:
        told.append("What it carries was good enough without fine-tuning.")
    elif method and size:
        told.append(f"Fine-tune what it carries: {size} examples were enough.")
    elif method:
        told.append("Fine-tune what it carries, on more examples than were measured.")
    pairs = {pair for pair, _ in measured}
    kind = "equal" if advised["facts"]["same_shapes"] else "unequal"
    told.append(
        f"This rests on {len(measured)} measured app(s) of {len(pairs)} pair(s) of {kind} shapes."
    )
    return [*told, f"The evidence is in {where}."]


def _helps(cases: Sequence[Case], method: str) -> bool:
    """Whether a method was worth something anywhere: kept a share, or beat LoRA from nothing."""
    for case in cases:
        finetuned = case["methods"].get(method, {}).get("finetuned", {})
        ahead = _better_score(finetuned) or _better_likelihood(finetuned)
        if ahead or share(case, method, "transferred", "_low") > 0:
            return True
    return False


def _span(cases: Sequence[Case], method: str, stage: str) -> str:
    shares = [case["methods"][method][stage][RANKED_BY] for case in cases]
    ends = [f"{100 * each:.0f} %" for each in (min(shares), max(shares))]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def _on(cases: Sequence[Case]) -> str:
    return ", ".join(f"{case['pair']}/{case['app']}" for case in cases)


def _examples(cases: Sequence[Case], method: str) -> tuple[int | None, str]:
    """The smallest measured set after which every app was carried, and what to say of it."""
    cases = [case for case in cases if "finetuned" in case["methods"].get(method, {})]
    sizes = sorted({case["examples"] for case in cases})
    if not sizes:
        return None, ""
    for size in sizes:
        own = [case for case in cases if case["examples"] == size]
        if all(share(case, method, "finetuned", "_low") >= MIN_RETENTION for case in own):
            return (
                size,
                f"{size} examples were enough for {100 * MIN_RETENTION:.0f} % of the gain.",
            )
    return None, (
        f"No measured size was enough for {100 * MIN_RETENTION:.0f} % of the gain: more than "
        f"{sizes[-1]} examples are needed."
    )


def _about_finetuning(cases: Sequence[Case], method: str, enough: int, told: str) -> list[str]:
    tuned = [case for case in cases if "finetuned" in case["methods"].get(method, {})]
    if not tuned:
        return ["Light fine-tuning was not measured there."]
    gains = [case["methods"][method]["finetuned"] for case in tuned]
    kinds = {"score": _better_score, "the answers' likelihood": _better_likelihood}
    said = []
    for name, better in kinds.items():
        known = [gained for gain in gains if (gained := better(gain)) is not None]
        if known:
            said.append(f"by {name} in {sum(known)} of {len(known)}")
    return [
        f"{enough} of {len(cases)} measured app(s) were carried without fine-tuning "
        f"(at least {100 * MIN_RETENTION:.0f} % of the gain, by the interval's lower end).",
        told,
        f"{method} + fine-tuning beat LoRA from nothing on the same examples, beyond chance, "
        f"{' and '.join(said) or 'in no case that was compared'}.",
    ]


def _better_score(gain: Mapping[str, float]) -> bool | None:
    """By the paired interval or, where there is none, by McNemar's test; None for neither."""
    if "difference_low" in gain:
        return gain["difference_low"] > 0
    if "p_high" in gain and "difference" in gain:
        return gain["p_high"] < 0.05 and gain["difference"] > 0
    return None


def _better_likelihood(gain: Mapping[str, float]) -> bool | None:
    return gain["nll_difference_high"] < 0 if "nll_difference_high" in gain else None


def _evidence(case: Case) -> list[dict[str, Any]]:
    """A row for each method and stage of a case."""
    about = {"pair": case["pair"], "app": case["app"], "examples": case["examples"]}
    return [
        {**about, "method": name, "stage": stage, **numbers, "by": case["by"]}
        for name, stages in case["methods"].items()
        for stage, numbers in stages.items()
        if stage != "note"
    ]


def limits(
    pair: str,
    app: str,
    known: Mapping[str, Any],
    cases: Sequence[Case],
    alike: Sequence[Case],
    own: Sequence[Case],
) -> list[str]:
    """How little the advice rests on."""
    pairs = sorted({case["pair"] for case in cases})
    kind = "equal" if known["same_shapes"] else "unequal"
    here = sorted({case["pair"] for case in alike})
    said = [
        f"{len(cases)} app(s) on {len(pairs)} model pair(s) were measured in all; {len(alike)} on "
        f"{len(here)} pair(s) of {kind} shapes, as this one ({', '.join(here) or 'none'})."
    ]
    if own:
        said.append(f"{pair}/{app} itself was measured: what is said is what was seen there.")
    if not alike:
        said.append("Nothing like this pair was measured: there is no advice.")
    hits, tried = left_out(cases)
    said.append(
        f"Left out one at a time, the other pairs named the method that was best in {hits} of "
        f"{tried} apps."
        if tried
        else "Too few pairs were measured to check the advice on one that it did not see."
    )
    return said
