"""Transfer methods: one file each, found by its name.

A method is a module with

`NEEDS` : a tuple of what its maps are made from, out of `models` (base weights), `embedding`,
    `layers`, `heads`, `moments`, `gradients`, `outputs` and `adapter`: with the last its maps are
    one adapter's own, and the rule that makes them loads both models.
`SETTINGS` : a tuple of the mapping settings that it reads besides `modules` and `device`.
`outputs(pair, layer)` : where `outputs` is needed; site -> `Fit`, from the moments of a new layer:
    what the maps of all adapters have in common, made once for a pair.
`OUTPUT_SETTINGS` : with that, a tuple of the settings that `outputs` reads, as in SETTINGS.
`maps(pair)` : yields a `ModuleMap` for each role of each new layer that has a source. Where the
    update is more than a linear function of the adapter's, its `constant` is the rest.
`BY_LAYER` : optional; True where a layer's maps are finished together, in the machine's memory.
    There they may wait to be written while a GPU makes the next layer's.
`check(old, new, settings)` : optional; raises where the two models' dimensions can't be served.
`OFFERED` : optional; False for a method that is kept for comparisons. It is used where it is named,
    and is in no list of what to choose from, in no comparison of all methods and in no advice.

The tuples and OFFERED are literals: the workflow reads them without importing the module.
"""

import ast
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib import import_module
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ..errors import LoraportError
from ..models.spec import shared_roles
from ..runtime.by_name import did_you_mean, names_of
from ..transfer.maps import ModuleMap

if TYPE_CHECKING:
    from ..calibration.ridge import Fit
    from ..mapping.pair import Pair
    from ..models.families import Dimensions

INGREDIENTS = (
    "models", "embedding", "layers", "heads", "moments", "gradients", "outputs", "adapter",
)  # fmt: skip


def names() -> tuple[str, ...]:
    """All methods, by their files."""
    return names_of(__package__)


@cache
def offered() -> tuple[str, ...]:
    """Methods to choose from: all but those that are kept for comparisons."""
    return tuple(name for name in names() if _declared(name, "OFFERED") is not False)


def needs(name: str) -> tuple[str, ...]:
    """What a method declares to need, read from its source and not by importing it."""
    declared = _declared(name, "NEEDS")
    if declared is None or not set(declared) <= set(INGREDIENTS):
        raise LoraportError(
            f"methods/{name}.py does not say what it needs",
            got=declared,
            expected=f"NEEDS = a tuple out of {', '.join(INGREDIENTS)}",
        )
    return declared


def per_adapter(name: str) -> bool:
    """Whether a method's maps are one adapter's own."""
    return "adapter" in needs(name)


def settings(name: str) -> tuple[str, ...]:
    """The mapping settings that a method reads: a change of any other does not concern its maps."""
    return ("modules", "device", *(_declared(name, "SETTINGS") or ()))


def output_settings(name: str) -> tuple[str, ...]:
    """The mapping settings that a method's output maps depend on.

    Raises
    ------
    LoraportError
        If it has none.
    """
    if "outputs" not in needs(name):
        raise LoraportError(
            f"method {name!r} has no output maps",
            todo="ask for its maps",
        )
    return ("modules", "device", *(_declared(name, "OUTPUT_SETTINGS") or ()))


@cache
def _declared(name: str, variable: str) -> Any:
    """A literal of a method's file; None where it has none of that name."""
    if name not in names():
        raise LoraportError(
            f"there is no transfer method {name!r}",
            got=name,
            expected=f"one of {', '.join(offered())}",
            todo=did_you_mean(name, names()) or "add a file for it to methods/",
        )
    tree = ast.parse(files(__package__).joinpath(f"{name}.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == variable:
            return ast.literal_eval(node.value)
    return None


def check_pair(name: str, old: "Dimensions", new: "Dimensions", settings: dict[str, Any]) -> None:
    """Refuse a pair whose shapes a method can't serve, with the method's own reason.

    Raises
    ------
    LoraportError
        What a comparison shows in the method's place.
    """
    needs(name)  # a wrong name is told before anything is imported
    module = import_module(f"{__package__}.{name}")
    if hasattr(module, "check"):
        module.check(old, new, settings)


def maps_to_make(pair: "Pair") -> int:
    """How many maps a pair has at most: one for each role that matched layers have in common."""
    return sum(_by_layer(pair))


def maps_ahead(name: str, pair: "Pair") -> int:
    """How many finished maps of a method may wait to be written while others are made.

    A layer's, where they are finished together and a GPU goes on with the next layer while the
    machine's cores write. One on a CPU, whose cores are busy with maps, and one of a method that
    finishes them one by one.
    """
    module = import_module(f"{__package__}.{name}")
    together = getattr(module, "BY_LAYER", False) and pair.device != "cpu"
    return max(_by_layer(pair), default=1) if together else 1


def _by_layer(pair: "Pair") -> list[int]:
    """How many maps each layer of a pair's path has at most."""
    path = pair.path or [(layer, layer) for layer in range(pair.new.dims.layers)]
    shared = (shared_roles((pair.old, pair.new), layers) for layers in path)
    return [sum(role in pair.settings["modules"] for role in roles) for roles in shared]


def make_maps(name: str, pair: "Pair") -> Iterator[ModuleMap]:
    """The maps of a method for a pair, one module at a time."""
    check_pair(name, pair.old.dims, pair.new.dims, pair.settings)
    return import_module(f"{__package__}.{name}").maps(pair)


def make_outputs(name: str, pair: "Pair") -> "Callable[[int], dict[str, Fit]]":
    """Function of a new layer: the output maps of a method, from the pair's moments."""
    return partial(import_module(f"{__package__}.{name}").outputs, pair)
