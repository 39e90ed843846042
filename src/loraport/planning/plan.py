"""The plan of a pair of models: each rule with what it needs."""

from typing import NamedTuple

from ..models.families import Dimensions
from . import times
from .needs import Need, need

SIDES_OF = {"spec": ("old", "new"), "activations": ("old", "new"), "model_merged": ("new",)}


class Row(NamedTuple):
    """A rule of the plan, with its side if it is of one model, and what it needs."""

    rule: str
    need: Need


def table(old: Dimensions, new: Dimensions) -> list[Row]:
    """Each rule with what it needs; rules of one model for each."""
    rows = []
    models = {"old": old, "new": new}
    for rule in times.RULES:
        if rule == "experts" and min(old.experts, new.experts) == 1:
            continue
        sides = SIDES_OF.get(rule)
        if sides is None:
            rows.append(Row(rule, need(rule, old, new)))
        else:
            rows += [Row(f"{rule} {side}", need(rule, models[side])) for side in sides]
    return rows
