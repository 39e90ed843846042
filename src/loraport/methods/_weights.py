"""What the methods that read base weights have in common: roles, weights, shapes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import torch

from ..errors import LoraportError
from ..mapping.pair import Pair
from ..models.families import FEED_FORWARD, ROLES, Dimensions
from ..models.spec import Model, shared_roles
from ..transfer.maps import ModuleMap, Term


def roles(pair: Pair, layer: int) -> list[str]:
    """The roles that a new layer and the old one that serves it both have, of those that the
    settings ask for.
    """
    old_layer = next((old for old, new in pair.path if new == layer), layer)
    both = shared_roles((pair.old, pair.new), (old_layer, layer))
    return [role for role in both if role in pair.settings["modules"]]


def served(pair: Pair) -> list[tuple[int, int]]:
    """The (old, new) layers of the path that have a role in common."""
    return [(old_layer, layer) for old_layer, layer in pair.path if roles(pair, layer)]


@dataclass(frozen=True)
class Weights:
    """The base weights of one role of matched layers.

    Attributes
    ----------
    layer, role, old_layer : as in a ModuleMap
    old, new : W_o and W_n, (d_out, d_in) float64
    """

    layer: int
    role: str
    old_layer: int
    old: torch.Tensor
    new: torch.Tensor

    def module_map(self, *terms: Term, **more: Any) -> ModuleMap:
        """The role's map by its terms, with the norms of both weights; `more` are its fields."""
        norms = both_norms(self.old, self.new)
        return ModuleMap(self.layer, self.role, self.old_layer, terms, **norms, **more)


def weights(pair: Pair) -> Iterator[Weights]:
    """Base weights, one role at a time, along the layer path (without one: layer i to layer i)."""
    read = _reader(pair)
    path = pair.path or [(layer, layer) for layer in range(pair.new.dims.layers)]
    for old_layer, layer in path:
        for role in roles(pair, layer):
            yield Weights(layer, role, old_layer, *read(old_layer, layer, role))


def both_norms(old: torch.Tensor, new: torch.Tensor) -> dict[str, Any]:
    """Norms of two weights and of their rows, as fields of a ModuleMap."""
    return {
        "norm_old": float(old.norm()),
        "norm_new": float(new.norm()),
        "rows_old": old.norm(dim=1),
        "rows_new": new.norm(dim=1),
    }


def base_norms(pair: Pair) -> Callable[[int, int, str], dict[str, Any]]:
    """Function of (old layer, new layer, role): norms of W_o and W_n, as fields of a ModuleMap."""
    read = _reader(pair)

    def norms(old_layer: int, layer: int, role: str) -> dict[str, Any]:
        return both_norms(*read(old_layer, layer, role))

    return norms


def norm_factor(model: Model, layer: int, role: str) -> torch.Tensor | None:
    """w (d,) float64 of the norm on what a role writes, `N(y) = w ∘ y / rms(y)`; None without."""
    factor = model.output_norm(layer, role)
    return None if factor is None else torch.from_numpy(factor)


def _reader(pair: Pair) -> Callable[[int, int, str], tuple[torch.Tensor, torch.Tensor]]:
    """Function of (old layer, new layer, role): W_o and W_n, float64 on the pair's device."""
    files = pair.old.checkpoint(), pair.new.checkpoint()

    def read(old_layer: int, layer: int, role: str) -> tuple[torch.Tensor, torch.Tensor]:
        both = pair.old.weight(files[0], old_layer, role), pair.new.weight(files[1], layer, role)
        old, new = (_tensor(values).to(pair.device).double() for values in both)
        return old, new

    return read


def _tensor(values: np.ndarray) -> torch.Tensor:
    """Numbers as they are stored, which are the fewest bytes to move."""
    if values.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(np.ascontiguousarray(values).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values)


def require_equal(
    method: str, old: Dimensions, new: Dimensions, settings: dict[str, Any], axes: str = "both"
) -> None:
    """Refuse a pair whose depth or weight shapes differ.

    Parameters
    ----------
    axes : which sides of a weight must be of equal size: `both`, `output` or `input`
    """
    sides = {"both": (0, 1), "output": (0,), "input": (1,)}[axes]
    # of a mixture of experts no role of the feed-forward network is mapped
    held = [role for role in ROLES if old.experts == new.experts == 1 or role not in FEED_FORWARD]
    pairs = [(old.at(n), new.at(n)) for n in range(min(old.layers, new.layers))]
    shapes = {
        (role, each.shape(role), other.shape(role)): None
        for each, other in (pairs if old.by_layer or new.by_layer else [(old, new)])
        for role in held
        if role in settings["modules"]
        and role not in each.lacks + other.lacks
        and all(each.shape(role) + other.shape(role))  # not of a family without the role
    }
    wrong = [
        f"{role} {each} and {other}"
        for role, each, other in shapes
        if any(each[side] != other[side] for side in sides)
    ]
    if old.layers != new.layers:
        wrong.insert(0, f"{old.layers} and {new.layers} layers")
    if wrong:
        what = {"both": "shapes", "output": "output sizes", "input": "input sizes"}[axes]
        raise LoraportError(
            f"{method} can't serve this pair: it needs models of equal depth and {what}",
            got="; ".join(wrong[:3]),
            expected="the same in both models",
            todo="choose a method for models of unequal shapes: lorasuite, crosslora or aligned",
        )
