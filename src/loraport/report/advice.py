"""What to expect of a transfer before it is run: which method, whether to fine-tune, on how much.

The advice rests on cases that were measured, one file each in `measured/`, and says how few they
are. It is told in four sentences by

    python -m loraport.advice artifacts/{pair}/{app}/advice.json

and a case is added by

    python -m loraport.advice artifacts/{pair}/{app}/advice.json \\
        artifacts/{pair}/tables/{app}.methods.csv --by "the command that made the table"
"""

import argparse
import html
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..artifacts import atomic, read_json
from ..errors import LoraportError
from ..models.families import ROLES, Dimensions
from . import render

MEASURED = Path(__file__).parent / "measured"
MIN_RETENTION = 0.9  # retention at which an app counts as carried
RANKED_BY = "nll_retention"  # what methods are ranked by: defined where scores tell nothing apart
NUMBERS = (
    *("average", "low", "high", "nll"),
    *(f"{of}{end}" for of in ("retention", RANKED_BY, "difference", "nll_difference")
      for end in ("", "_low", "_high")),
    *("p_low", "p_high", "seeds"),
)  # fmt: skip
# fact -> how a figure names it; more means further apart
DISTANCES = {
    "distance": "model distance (equal shapes)",
    "path_dissimilarity": "1 − mean CKA along the path",
    "residual": "residual of the embedding map",
}
FACTS = {
    "same_shapes": "equal shapes",
    **DISTANCES,
    "heads_assigned": "similarity of assigned heads",
    "heads_random": "the same, of a random assignment",
    "magnitude": "‖sBA‖² of the adapter",
    "depth": "layers",
    "width": "hidden size",
}
Case = dict[str, Any]


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


def read_cases(folder: str | Path = MEASURED) -> list[Case]:
    """All measured cases, by name."""
    return [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]


def make_case(
    advised: Mapping[str, Any], table: Sequence[Mapping[str, Any]], by: str, examples: int
) -> Case:
    """A case from an app's advice.json (for its facts) and its comparison of methods.

    Parameters
    ----------
    by : the command that made the table
    examples : size of the small set that was fine-tuned on
    """
    rows = [row for row in table if row.get("seed") in (None, "")]
    methods: dict[str, Any] = {}
    for row in (row for row in rows if row.get("method")):
        if render.is_number(row.get("average")):
            methods.setdefault(row["method"], {})[row["stage"]] = _numbers(row)
        else:
            methods.setdefault(row["method"], {})["note"] = row.get("note")
    return {
        "pair": advised["pair"],
        "app": advised["app"],
        "by": by,
        "examples": examples,
        "facts": advised["facts"],
        "baselines": {row["stage"]: _numbers(row) for row in rows if not row.get("method")},
        "methods": methods,
    }


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in NUMBERS if row.get(key) is not None}


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
            case for case in used if _share(case, best, "transferred", "_low") >= MIN_RETENTION
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
        if ahead or _share(case, method, "transferred", "_low") > 0:
            return True
    return False


def best_method(cases: Iterable[Case], stage: str) -> str:
    """The method with the greatest mean share kept over cases that all have it; empty if none."""
    held: dict[str, list[float]] = {}
    cases = list(cases)
    for case in cases:
        for name, stages in case["methods"].items():
            share = stages.get(stage, {}).get(RANKED_BY)
            if render.is_number(share):
                held.setdefault(name, []).append(share)
    means = {name: math.fsum(v) / len(v) for name, v in held.items() if len(v) == len(cases)}
    return max(sorted(means), key=lambda name: means[name], default="")


def _share(case: Case, method: str, stage: str, end: str = "") -> float:
    """Retention of the score or, where that is undefined, of the answers' likelihood."""
    held = case["methods"].get(method, {}).get(stage, {})
    for key in ("retention", RANKED_BY):
        if render.is_number(held.get(f"{key}{end}")):
            return float(held[f"{key}{end}"])
    return -math.inf


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
        if all(_share(case, method, "finetuned", "_low") >= MIN_RETENTION for case in own):
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


def left_out(cases: Sequence[Case]) -> tuple[int, int]:
    """Apps whose best method the cases of other pairs alike name, and how many could be asked."""
    hits = tried = 0
    for case in cases:
        others = [
            other
            for other in cases
            if other["pair"] != case["pair"]
            and other["facts"]["same_shapes"] == case["facts"]["same_shapes"]
        ]
        named, best = best_method(others, "transferred"), best_method([case], "transferred")
        if others and named and best:
            hits, tried = hits + (named == best), tried + 1
    return hits, tried


def pearson(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Pearson's r; None for fewer than three points, or where one of the two does not vary."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def points(cases: Sequence[Case], fact: str) -> list[tuple[str, float, float]]:
    """(pair/app, distance, share kept by the best training-free method) of the cases that have it.

    The model distance in log10, as the trivial-baselines study has it.
    """
    parts = []
    for case in cases:
        x = case["facts"].get(fact)
        best = best_method([case], "transferred")
        if x is None or not best or (fact == "distance" and x <= 0):
            continue
        x = math.log10(x) if fact == "distance" else x
        y = case["methods"][best]["transferred"][RANKED_BY]
        parts.append((f"{case['pair']}/{case['app']}", x, y))
    return parts


def page(title: str, advised: Sequence[Mapping[str, Any]]) -> str:
    """The HTML page of a pair's advice."""
    parts = []
    for each in advised:
        size = each["examples"]
        needed = {True: "yes", False: "no", None: "not known"}[each["finetuning_needed"]]
        rows = [
            ("method", each["method"] or "not known"),
            ("light fine-tuning needed", needed),
            ("examples", "not known, see below" if size is None else str(size)),
            *((label, _shown(each["facts"][fact])) for fact, label in FACTS.items()),
        ]
        grid = render.grid(["", ""], rows).replace("<table>", '<table class="facts">')
        said = [*each["reasons"], *each["limits"]]
        parts += [f"<h2>{html.escape(each['app'])}</h2>", grid]
        parts += [f"<p class=note>{html.escape(line)}</p>" for line in said]
        if each["evidence"]:
            parts.append(render.grid(*_evidence_grid(each["evidence"])))
            made = dict.fromkeys(row["by"] for row in each["evidence"])
            parts += [f"<p class=legend>Made by: {html.escape(by)}</p>" for by in made]
    return render.document(title, parts)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " → ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none: shapes differ"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _evidence_grid(
    evidence: Sequence[Mapping[str, Any]],
) -> tuple[list[str], list[list[str]]]:
    titles = ["measured", "method", "stage", "examples", "score", "NLL", "retention", "NLL kept"]
    rows = []
    for row in sorted(evidence, key=lambda row: (row["stage"], -(row.get(RANKED_BY) or -math.inf))):
        rows.append(
            [
                f"{row['pair']}/{row['app']}",
                row["method"],
                row["stage"],
                str(row["examples"]) if row["stage"] == "finetuned" else "0",
                *(
                    f"{row[key]:.3g}" if render.is_number(row.get(key)) else render.NONE
                    for key in ("average", "nll", "retention", RANKED_BY)
                ),
            ]
        )
    return titles, rows


def main(arguments: Sequence[str]) -> int:
    """Tell an advice in short, or add a measured case; status 2 where it can't be read."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m loraport.advice", description=__doc__, formatter_class=form
    )
    parser.add_argument("advice", help="advice.json of the app")
    parser.add_argument("table", nargs="?", help="its comparison of methods, {app}.methods.csv")
    parser.add_argument("--by", default="", help="the command that made the table")
    parser.add_argument("--examples", type=int, default=100, help="that were fine-tuned on")
    parser.add_argument("--folder", type=Path, default=MEASURED, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.table and not asked.by:
        parser.error("a case needs the command that made its table: --by")
    try:
        advised = read_json(asked.advice, "advice")
        if not asked.table:
            print("\n".join(in_short(advised, asked.advice)))
            return 0
        case = make_case(advised, render.read_csv(asked.table), asked.by, asked.examples)
    except LoraportError as error:
        print(error, file=sys.stderr)
        return 2
    path = asked.folder / f"{case['pair']}.{case['app']}.{case['examples']}.json"
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(case, indent=1, allow_nan=False) + "\n")
    print(f"{path}: {len(case['methods'])} methods")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
