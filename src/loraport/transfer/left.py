"""What of an adapter has no place in a new model: its family, or a layer, has no such module."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from ..adapters.lora_weights import LoraWeights
from ..errors import LoraportError
from ..models.side import Side

Place = tuple[int, str]  # (layer, module below the block)


def no_place(adapter: Mapping[Place, LoraWeights], old: Side, new: Side) -> list[str]:
    """A line, or none, on the adapter's modules none of whose roles the new family has, and one on
    rows of others.

    Says what share of the update they are: of the sum of ‖ΔW‖² over all modules.
    """
    has = set(new.family.roles)
    lacking = {
        module: [role for role in old.family.modules[module] if role not in has]
        for module in sorted({module for _, module in adapter})
    }
    whole = [module for module, roles in lacking.items() if not has & {*old.family.modules[module]}]
    gone = sum(_square(weights) for (_, module), weights in adapter.items() if module in whole)
    why = "has a mixture of experts there" if new.family.experts else "has no such role"
    told = [_line(whole, gone, adapter, f"{new.family.name} {why}")] if whole else []
    parts = [role for module, roles in lacking.items() if module not in whole for role in roles]
    if parts:
        gone = sum(
            _square(weights.rows(old.family.rows(role, old.dims.at(layer))))
            for (layer, module), weights in adapter.items()
            for role in lacking[module]
            if module not in whole
        )
        told.append(_line([f"rows of {role}" for role in parts], gone, adapter,
                          f"{new.family.name} has no such role"))  # fmt: skip
    return told


def no_layer(
    adapter: Mapping[Place, LoraWeights],
    served: Iterable[tuple[int | None, int]],
    old: Side,
    new: Side,
) -> list[str]:
    """A line, or none, on modules whose old layer serves new ones that have none of their roles,
    though others have.

    Parameters
    ----------
    served : (old, new) layers; None for a new one that none serves
    """
    there: dict[int | None, set[str]] = defaultdict(set)
    for old_layer, layer in served:
        there[old_layer] |= set(new.at(layer).roles)
    left = {
        place: weights
        for place, weights in adapter.items()
        if place[0] in there
        and not there[place[0]] & {*old.family.modules[place[1]]}
        and {*old.family.modules[place[1]]} & {*new.family.roles}
    }
    if not left:
        return []
    modules = sorted({module for _, module in left})
    names = [f"{', '.join(modules)} of {len({layer for layer, _ in left})} layers"]
    return [_line(names, sum(map(_square, left.values())), adapter,
                  "the new layers that they are mapped to have other modules there")]  # fmt: skip


def made_elsewhere(
    adapter: Collection[Place],
    served: Iterable[tuple[int | None, int]],
    old: Side,
    new: Side,
) -> list[str]:
    """A line, or none, on keys and values of new layers that get no update, though the adapter
    changes those that the old layers serving them read: from another layer, or keys as values.

    Parameters
    ----------
    served : (old, new) layers; None for a new one that none serves
    """
    without: dict[str, set[int]] = defaultdict(set)
    for old_layer, layer in served:
        if old_layer is None:
            continue
        for role in {"k", "v"} & {*new.at(layer).roles} - {*old.at(old_layer).roles}:
            place = old.maker(old_layer, role)
            if place is not None and (place[0], old.family.module_of(place[1])) in adapter:
                without[new.family.module_of(role)].add(layer)
    if not without:
        return []
    names = ", ".join(f"{module} of {len(layers)}" for module, layers in sorted(without.items()))
    return [
        f"{names} new layers get no update: the old layers that serve them read keys or values "
        f"that {old.family.name} makes elsewhere, and updates are carried to where those are mapped"
    ]


def fewer_layers(places: Collection[Place], old: Side, new: Side) -> list[str]:
    """What is sure to be left behind, whatever layers are mapped to: modules that fewer layers of
    the new model have than the adapter adapts.
    """
    count = new.dims.layers
    adapted: dict[str, set[int]] = defaultdict(set)
    for layer, module in places:
        adapted[module].add(layer)
    told: dict[str, list[str]] = defaultdict(list)
    for module, layers in sorted(adapted.items()):
        roles = {*old.family.modules[module]} & {*new.family.roles}
        having = sum(bool(roles & {*new.at(layer).roles}) for layer in range(count))
        if roles and having < min(len(layers), count):
            lost = f"{len(layers) - having} or more of {len(layers)} layers"
            told[
                f"of {lost}: {new.family.name} has the like in {having} of its {count} layers"
            ] += [module]
    return [f"{', '.join(modules)} {why}" for why, modules in told.items()]


def check_magnitudes(adapter: Mapping[Place, LoraWeights], old: Side, new: Side) -> None:
    """Refuse a DoRA adapter for modules of which the old family has some roles, and not others: the
    rows of those would have no magnitude.
    """
    adapted = {module for (_, module), each in adapter.items() if each.magnitude is not None}
    has = set(old.family.roles)
    for module in sorted(adapted):
        for role in old.family.modules[module]:
            home = new.family.module_of(role) if role in new.family.roles else ""
            lacking = [each for each in new.family.modules.get(home, ()) if each not in has]
            if lacking:
                raise LoraportError(
                    f"a DoRA adapter can't be carried to {home} of {new.family.name}",
                    got=f"rows of {', '.join(lacking)}, which {old.family.name} has not: nothing "
                    "gives their magnitude",
                    expected="modules of roles that both families have",
                    todo="convert the adapter to plain LoRA",
                )


def _line(names: list[str], gone: float, adapter: Mapping[Place, LoraWeights], why: str) -> str:
    whole = math.fsum(map(_square, adapter.values()))
    share = gone / whole if whole else 0
    return (
        f"{', '.join(names)} will be left behind, {share:.0%} of the update's squared norm: {why}"
    )


def _square(weights: LoraWeights) -> float:
    return weights.norm() ** 2
