"""The model card of an upgraded adapter: what it is, where it comes from, and what it was found."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..adapters import card
from ..evaluation.verdict import Verdict

BODY = """Made from the adapter `{source}` of {old}, for {new}.

{judged}

- Teacher: `{choice[teacher]}`. {choice[why]}
- Start: `{start[start]}`, its update multiplied by {start[gain]:g}.
- Learning rate {best[rate]:g}, {best[epoch]} epochs, chosen on {prompts[held]} held-back prompts.
- Prompts: {prompts[taught]} taught, {synthetic} of them made anew;
  {prompts[labelled]} of the taught and held-back ones have a gold answer. {prompts[test]} for the
  verdict.

`upgrade.json` holds every number of the teaching, `verdict.json` those of the verdict."""
JUDGED = """**{verdict}.** {why}

| | score, % |
|---|---|
| old model with the old adapter | {scores[old]:.1f} |
| new model with the start of the teaching | {scores[carried]:.1f} |
| new model with this adapter | {scores[upgraded]:.1f} |"""
UNJUDGED = "Its verdict is in `verdict.json`, beside this folder."


def write_card(folder: Path, report: Mapping[str, Any], verdict: Verdict | None = None) -> None:
    """Write README.md beside an adapter; without a verdict it says where that is.

    Parameters
    ----------
    report : content of upgrade.json; `old` and `new` say where the models are, `known_as` how they
        are called, `commits` at which commits of the hub they are
    """
    judged = UNJUDGED
    if verdict is not None:
        judged = JUDGED.format(verdict=verdict.verdict, why=verdict.why, scores=report["scores"])
    commits, names = report.get("commits", {}), report.get("known_as", {})
    old, new = (
        card.base_name(str(report.get(side, "unknown")), commits.get(side, ""), names.get(side, ()))
        for side in ("old", "new")
    )
    body = BODY.format(
        source=Path(str(report.get("adapter", "unknown"))).name,
        old=old.told(),
        new=new.told(),
        judged=judged,
        choice=report["choice"],
        start=report["start"],
        best=report["taught"]["best"],
        prompts=report["prompts"],
        synthetic=report["prompts"].get("synthetic", {}).get("kept", 0),
    )
    title = f"{report.get('name', 'adapter')}: an upgraded LoRA adapter"
    card.write_card(folder, title, new, body.splitlines())
