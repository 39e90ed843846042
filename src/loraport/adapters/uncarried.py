"""Updates of modules that no map carries, and of those that do nothing in their model."""

from collections.abc import Collection

from ..errors import LoraportError
from ..models.families import Architecture, Dimensions
from .files import Adapter

IDLE = {"k", "v"}  # roles whose modules do nothing in a layer that reads another's keys and values


def leave_uncarried(adapter: Adapter, family: Architecture, dims: Dimensions) -> None:
    """Drop an adapter's updates that its family says are not carried, and idle ones.

    The adapter is changed in place; its warnings tell the share of the update's squared norm.
    Its modules bear the family's own names. Older transformers gave layers that read the keys and
    values of earlier ones (Gemma 4) projections of their own, without any use.

    Raises
    ------
    LoraportError
        If nothing else is adapted.
    """
    left = [path for path in adapter.modules if family.is_uncarried(path)]
    idle = [path for path in adapter.modules if _is_idle(path, family, dims)]
    if not left and not idle:
        return
    if len(left) + len(idle) == len(adapter.modules):
        raise LoraportError(
            f"adapter {adapter.directory} adapts nothing that can be carried",
            got=", ".join(_ends([*left, *idle])),
            expected=f"modules of {family.block}: {', '.join(family.modules)}",
            todo="train it on these modules",
        )
    whole = sum(weights.norm() ** 2 for weights in adapter.modules.values())
    gone = sum(adapter.modules[path].norm() ** 2 for path in left)
    for path in (*left, *idle):
        del adapter.modules[path]
    if left:
        share = gone / whole if whole else 0
        adapter.warnings.append(
            f"{len(left)} updates of {', '.join(_ends(left))} will be left behind, {share:.0%} of "
            f"the update's squared norm: no map carries these modules of {family.name}"
        )
    if idle:
        adapter.warnings.append(
            f"{len(idle)} updates of {', '.join(_ends(idle))} are left out: their layers read the "
            "keys and values of earlier ones, so that they change nothing"
        )


def _is_idle(path: str, family: Architecture, dims: Dimensions) -> bool:
    place = family.locate(path)
    if place is None or not place[0] < dims.layers:
        return False
    return dims.at(place[0]).borrows >= 0 and set(family.modules[place[1]]) <= IDLE


def _ends(paths: Collection[str]) -> list[str]:
    return sorted({path.rpartition(".")[2] for path in paths})
