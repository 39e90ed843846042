"""How large carried updates are beside the weights that they change, and what is done about it.

A map that is fitted badly multiplies an update until it drowns the weight that it is added to, and
nothing else shows it: the adapter loads, and the model writes gibberish. Sizes are relative norms,
`‖ΔW‖ / ‖W‖` of a module, in the old model (before) and in the new one (after).
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import LoraportError
from .maps import ModuleMap

TOLD_ABOVE = 0.5  # relative norm from which an update is told of
TOLD_GROWTH = 10.0  # times its relative norm before, from which an update is told of
# Relative norm from which a transfer is refused. Measured: `aligned` from nano v1 to v2, which
# helps, writes o_proj updates of up to 5.9 times their weight; the one that destroyed Gemma 3 270M
# wrote some of 10 to 217 times theirs (docs/methods.md)
MAX_SIZE = 8.0
MODULES_NAMED = 3  # modules in a message
MODULES_LISTED = 20  # modules in transfer.json


def by_definition(maps: Iterable[ModuleMap], weight: float) -> dict[str, float]:
    """What a method adds to a module by its definition, a difference of two models' weights, as a
    share of the new weight's norm `weight`: an entry of the module's report, or none.
    """
    norms = [float(np.linalg.norm(each.constant)) for each in maps if each.constant is not None]
    return {"relative_constant": math.hypot(*norms) / weight} if norms and weight else {}


def check_size(
    modules: Mapping[str, Mapping[str, Any]], *, allow_large: bool = False
) -> tuple[list[str], list[dict[str, Any]]]:
    """Tell of updates that are large, and refuse those that must have destroyed the model.

    Parameters
    ----------
    modules : path of a new module -> `source`, `relative_norm_before`, `relative_norm_after` and,
        where a method adds a difference of weights, `relative_constant`: of that size an update may
        be without being refused
    allow_large : tell of those as well, in place of refusing them

    Returns
    -------
    warnings, one at most; and all modules told of, the largest first

    Raises
    ------
    LoraportError
        If an update is more than `MAX_SIZE` times its weight.
    """
    told = [_entry(name, each) for name, each in modules.items() if _is_large(each)]
    told.sort(key=lambda each: (-each["after"], each["module"]))
    beyond = [
        each for each in told if each["after"] - _constant(modules[each["module"]]) > MAX_SIZE
    ]
    if beyond and not allow_large:
        raise LoraportError(
            f"{len(beyond)} of {_served(modules)} carried updates are more than {MAX_SIZE:g} times "
            "the weights that they would be added to: the new model would write gibberish",
            got=_worst(beyond),
            expected=f"updates of at most {MAX_SIZE:g} times their weight; the largest one before "
            f"is {_percent(max(each['before'] for each in beyond))}",
            todo="carry it by another method, or keep the relative norms (transfer.scale: norm); "
            "to write it all the same: transfer.allow_large: true, or --allow-large",
        )
    return ([_warning(told, modules)] if told else []), told


def listed(told: list[dict[str, Any]]) -> dict[str, Any]:
    """The same for transfer.json: the worst ones, and how many there are."""
    return {"oversized": told[:MODULES_LISTED], "oversized_count": len(told)}


def _is_large(entry: Mapping[str, Any]) -> bool:
    if entry["source"] is None:
        return False
    before, after = entry["relative_norm_before"], entry["relative_norm_after"]
    return after > TOLD_ABOVE or after > TOLD_GROWTH * before > 0


def _entry(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "module": name,
        "source": entry["source"],
        "before": entry["relative_norm_before"],
        "after": entry["relative_norm_after"],
    }


def _constant(entry: Mapping[str, Any]) -> float:
    return entry.get("relative_constant", 0.0)


def _served(modules: Mapping[str, Mapping[str, Any]]) -> int:
    return sum(each["source"] is not None for each in modules.values())


def _warning(told: list[dict[str, Any]], modules: Mapping[str, Mapping[str, Any]]) -> str:
    """One line of all that is large."""
    if any(_constant(modules[each["module"]]) for each in told):
        why = "the method adds the difference of the two models' weights, which is of that size"
    else:
        why = (
            "score the new model with it before it is served; transfer.scale: norm keeps the "
            "relative norms, and other methods may give smaller ones"
        )
    return (
        f"{len(told)} of {_served(modules)} carried updates are large, above "
        f"{_percent(TOLD_ABOVE)} of their weight or {TOLD_GROWTH:g} times what they were: "
        f"{_worst(told)}; {why}"
    )


def _worst(told: list[dict[str, Any]]) -> str:
    names = [
        f"{each['module']} {_percent(each['after'])} (before: {_percent(each['before'])})"
        for each in told[:MODULES_NAMED]
    ]
    more = len(told) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
