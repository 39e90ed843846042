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
`check(old, new, settings)` : optional; raises where the two models' dimensions can't be served.

The tuples are literals: the workflow reads them without importing the module.
"""

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, partial
from importlib import import_module
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ..errors import LoraportError
from ..transfer.maps import ModuleMap

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch

    from ..adapters.lora_weights import LoraWeights
    from ..calibration.moments import Moments
    from ..calibration.ridge import Fit, Regression
    from ..models.families import Dimensions
    from ..models.spec import Model

INGREDIENTS = (
    "models", "embedding", "layers", "heads", "moments", "gradients", "outputs", "adapter",
)  # fmt: skip


def _no_gradients(layer: int, role: str) -> Any:
    raise KeyError("the method does not declare gradients in NEEDS")


@dataclass(frozen=True)
class Pair:
    """What a method may use of a model pair; what it does not declare in NEEDS is empty.

    Attributes
    ----------
    settings : the `mapping` section of the config
    device : where to compute
    hidden_map : W_h (d_o, d_n) float64, or None for the identity
    path : (old, new) layers
    heads : new layer -> its matched heads and their blocks
    moments : new layer -> site -> second moments of the tokens to fit on and of those held out
    gradients : (new layer, role) -> sums over output gradients, of both parts of the texts
    outputs : new layer -> site -> what the method's `outputs` made of it
    adapter : what is carried, for methods whose maps are its own
    workers : how many layers' maps may be made at a time
    """

    old: "Model"
    new: "Model"
    settings: dict[str, Any]
    device: str
    hidden_map: "torch.Tensor | None"
    path: list[tuple[int, int]]
    heads: "Callable[[int], MatchedHeads]"
    moments: "Callable[[int], Mapping[str, tuple[Moments, Moments]]]"
    outputs: "Callable[[int], Mapping[str, Fit]]" = lambda layer: {}
    adapter: "Adapted | None" = None
    workers: int = 1
    gradients: "Callable[[int, str], tuple[Regression, Regression]]" = _no_gradients


@dataclass(frozen=True)
class Adapted:
    """An adapter of the old model, and the texts on which its own maps are fitted.

    Attributes
    ----------
    directory : in PEFT's format
    weights : (layer, module) -> its factors
    texts : gives them, of (the old model with the adapter in its weights, its tokenizer)
    max_tokens, batch_size : of reading them
    remote_code : for the old and the new model
    """

    directory: "Path"
    weights: "Mapping[tuple[int, str], LoraWeights]"
    texts: "Callable[[Any, Any], list[str]]"
    max_tokens: int = 256
    batch_size: int = 16
    remote_code: tuple[bool, bool] = (False, False)


@dataclass(frozen=True)
class MatchedHeads:
    """Matched heads of one layer pair.

    Attributes
    ----------
    assignment : (k, 2) of (old, new) query heads
    blocks : role q, k, v, o -> (k, h_o, h_n): `T = W_o[a] W_h W_n[b]ᵀ` of each matched pair
    """

    assignment: "np.ndarray"
    blocks: "dict[str, np.ndarray]"


@cache
def names() -> tuple[str, ...]:
    """All methods, by their files."""
    found = (path.name.removesuffix(".py") for path in files(__package__).iterdir())
    return tuple(sorted(name for name in found if name.isidentifier() and name[0] != "_"))


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
            expected=f"one of {', '.join(each for each in names() if 'outputs' in needs(each))}",
            todo="ask for its maps",
        )
    return ("modules", "device", *(_declared(name, "OUTPUT_SETTINGS") or ()))


@cache
def _declared(name: str, variable: str) -> tuple[str, ...] | None:
    """A literal of a method's file."""
    if name not in names():
        near = get_close_matches(name, names(), 1)
        raise LoraportError(
            f"there is no transfer method {name!r}",
            got=name,
            expected=f"one of {', '.join(names())}",
            todo=f"did you mean {near[0]!r}?" if near else "add a file for it to methods/",
        )
    tree = ast.parse(files(__package__).joinpath(f"{name}.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == variable:
            return tuple(ast.literal_eval(node.value))
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


def make_maps(name: str, pair: Pair) -> Iterator[ModuleMap]:
    """The maps of a method for a pair, one module at a time."""
    check_pair(name, pair.old.dims, pair.new.dims, pair.settings)
    return import_module(f"{__package__}.{name}").maps(pair)


def make_outputs(name: str, pair: Pair) -> "Callable[[int], dict[str, Fit]]":
    """Function of a new layer: the output maps of a method, from the pair's moments."""
    return partial(import_module(f"{__package__}.{name}").outputs, pair)
