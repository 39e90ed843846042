"""LoRA of a mixture of experts, in both forms that files have it in, as one.

Older models have a module for each expert (`experts.3.gate_proj`, or `w1`). Newer ones have one
parameter for all of them, which peft targets by `target_parameters`: its factors stand side by
side, `lora_A (E r, d_in)` expert by expert and `lora_B (d_out, r E)` rank by rank, and of two
parameters of one module the first, gate_up_proj, is found below `base_layer`. A router's update has
the form of a module's in both.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import LoraportError
from ..models.families import Architecture, Dimensions
from .lora_weights import LoraWeights
from .patterns import by_pattern

FIELD = "target_parameters"
PARAMETERS = ("gate_up_proj", "down_proj")
WRAPPED = ".experts", ".experts.base_layer"  # ends of the paths that peft gives them
# what files call an expert's modules -> the rows of gate and up that they hold, or none for down
MODULES = {"gate_up_proj": (0, 1), "gate_proj": (0,), "w1": (0,), "up_proj": (1,), "w3": (1,),
           "down_proj": (), "w2": ()}  # fmt: skip
ROUTERS = "gate", "router", "router.layer"  # what files call a router, below what holds the experts
Factors = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Experts:
    """The updates of one layer's experts, each `b @ a`, scales multiplied in.

    Attributes
    ----------
    gate_up : (b (E, 2, f, r), a (E, r, d)), gate's rows and up's; or None
    down : (b (E, d, r), a (E, r, f)), or None
    router : (b (1, E, r), a (1, r, d)) of the router, or None
    """

    gate_up: Factors | None
    down: Factors | None
    router: Factors | None

    def norm(self) -> float:
        """The root of Σ ‖ΔW‖² over the experts and the router."""
        total = 0.0
        for factors in (self.gate_up, self.down, self.router):
            if factors is not None:
                b, a = (each.astype(np.float64) for each in factors)
                b = b.reshape(len(b), -1, b.shape[-1])
                grams = b.transpose(0, 2, 1) @ b, a @ a.transpose(0, 2, 1)
                total += float(np.sum(grams[0] * grams[1]))
        return math.sqrt(max(0.0, total))


def are_experts(targets: Any) -> bool:
    """Whether all `target_parameters` of a config are parameters of experts and routers."""
    ends = tuple(f".{name}" for name in (*PARAMETERS, *(f"{each}.weight" for each in ROUTERS)))
    return isinstance(targets, list) and all(f".{each}".endswith(ends) for each in targets)


def adapts_experts(paths: Iterable[str]) -> bool:
    """Whether some of an adapter's modules are experts of a mixture, or its router."""
    routers = "|".join(re.escape(each) for each in ROUTERS)
    pattern = re.compile(rf"(?:^|\.)\d+\.\w+\.(?:experts\.\d+\.\w+|{routers})$")
    return any(pattern.search(path) for path in paths)


def split_parameters(
    directory: object, config: Mapping[str, Any], parts: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, LoraWeights]:
    """Factors of experts' parameters as modules of each expert: path -> factors.

    Parameters
    ----------
    directory : named in errors
    parts : path that peft gives a wrapped parameter -> its `a` and `b`

    Raises
    ------
    LoraportError
        For factors that do not hold a whole number of experts of the config's rank.
    """
    targets = [str(each) for each in config[FIELD]]
    modules = {}
    for path, held in parts.items():
        module = path.removesuffix(".base_layer")
        both = {module, f"{module}.base_layer"} <= set(parts)
        name = _parameter(module, both, path, targets)
        key = f"{module}.{name}"
        rank = by_pattern(config.get("rank_pattern") or {}, key, config.get("r"))
        alpha = by_pattern(config.get("alpha_pattern") or {}, key, config.get("lora_alpha"))
        a, b = held.get("a", np.empty((0, 0))), held.get("b", np.empty((0, 0)))
        whole = type(rank) is int and rank > 0 and set(held) == {"a", "b"}
        if not whole or not len(a) or len(a) % rank or b.shape[1:] != (len(a),):
            raise LoraportError(
                f"adapter {directory}: its tensors of experts contradict its config",
                got=f"{path}: lora_A {a.shape}, lora_B {b.shape}, r = {rank}",
                expected="factors of that rank for each expert",
                todo="save the adapter again",
            )
        count = len(a) // rank
        inner, outer = a.reshape(count, rank, -1), b.reshape(len(b), rank, count)
        rslora = bool(config.get("use_rslora"))
        for expert in range(count):
            factors = np.ascontiguousarray(outer[:, :, expert]), inner[expert]
            modules[f"{module}.{expert}.{name}"] = LoraWeights(*factors, alpha, rslora)
    return modules


def _parameter(module: str, both: bool, path: str, targets: Sequence[str]) -> str:
    """The parameter that a wrapper is of: of both, the first one is inside."""
    if both:
        return PARAMETERS[0] if path.endswith(".base_layer") else PARAMETERS[1]
    owned = [each for each in targets if f"{module}.{each.rpartition('.')[2]}".endswith(f".{each}")]
    return (owned or targets)[0].rpartition(".")[2]


def place_of(path: str, family: Architecture) -> tuple[int, int, str] | None:
    """(layer, expert, name) of an expert's module, by any name of it; None for others, and in a
    family whose experts' own updates are not carried.
    """
    parts = "|".join(re.escape(each) for each in family.experts)
    match = re.search(rf"(?:^|\.)(\d+)\.(?:{parts})\.experts\.(\d+)\.(\w+)$", path)
    if not family.routed or match is None or match[3] not in MODULES:
        return None
    return int(match[1]), int(match[2]), match[3]


def router_layer(path: str, family: Architecture) -> int | None:
    """The layer of a router's module, by any name of it; None for others."""
    parts, names = ("|".join(map(re.escape, each)) for each in (family.experts, ROUTERS))
    match = re.search(rf"(?:^|\.)(\d+)\.(?:{parts})\.(?:{names})$", path)
    return int(match[1]) if family.routed and match else None


def is_routed(path: str, family: Architecture) -> bool:
    """Whether a module is an expert's or a router."""
    return place_of(path, family) is not None or router_layer(path, family) is not None


def gathered(
    modules: Mapping[str, LoraWeights], family: Architecture, dims: Dimensions
) -> dict[int, Experts]:
    """Layer -> the updates of its experts, of an adapter's modules that are experts or routers.

    The modules' shapes must fit (`check_shape`). Gate and up that come apart stand side by side,
    of their ranks' sum.
    """
    held: dict[int, dict[tuple[int, str], LoraWeights]] = defaultdict(dict)
    routers: dict[int, Factors] = {}
    for path, weights in modules.items():
        if (place := place_of(path, family)) is not None:
            held[place[0]][place[1], place[2]] = weights
        elif (number := router_layer(path, family)) is not None:
            b = (weights.scale * weights.b.astype(np.float64)).astype(np.float32)
            routers[number] = b[None], weights.a[None]
    found = {}
    for layer in sorted({*held, *routers}):
        of_layer = held[layer]
        up = [(e, MODULES[n], w) for (e, n), w in of_layer.items() if MODULES[n]]
        down = [(e, (0,), w) for (e, n), w in of_layer.items() if not MODULES[n]]
        sizes = dims.experts, dims.intermediate, dims.hidden
        found[layer] = Experts(
            _stacked(up, family, (sizes[0], 2, sizes[1], sizes[2])) if up else None,
            _without_halves(_stacked(down, family, (sizes[0], 1, sizes[2], sizes[1])))
            if down
            else None,
            routers.get(layer),
        )
    return found


def check_shape(
    path: str, weights: LoraWeights, family: Architecture, dims: Dimensions
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """(shape, wanted) of an expert's or a router's module that does not fit the model; None where
    it does.
    """
    place = place_of(path, family) or (router_layer(path, family) or 0, 0, "")
    halves = len(MODULES.get(place[2], ()))
    wanted = (halves * dims.intermediate, dims.hidden) if halves else dims.shape("down")
    wanted = wanted if place[2] else (dims.experts, dims.hidden)
    shape = weights.b.shape[0], weights.a.shape[1]
    inside = place[0] < dims.layers and place[1] < dims.experts
    return None if inside and shape == wanted else (shape, wanted)


def _stacked(
    modules: Sequence[tuple[int, tuple[int, ...], LoraWeights]],
    family: Architecture,
    sizes: tuple[int, int, int, int],
) -> Factors:
    """(expert, halves that it holds, factors) as b (E, halves, rows, r) and a (E, r, d_in)."""
    count, halves, rows, into = sizes
    ranks = [0] * count
    for expert, _, weights in modules:
        ranks[expert] += weights.rank
    b = np.zeros((count, halves, rows, max(ranks)), np.float32)
    a = np.zeros((count, max(ranks), into), np.float32)
    filled = [0] * count
    for expert, held, weights in modules:
        columns = slice(filled[expert], filled[expert] + weights.rank)
        filled[expert] += weights.rank
        values = weights.scale * weights.b.astype(np.float64)
        b[expert, list(held), :, columns] = _halves(values, len(held), family).transpose(1, 0, 2)
        a[expert, columns] = weights.a
    return b, a


def _halves(values: np.ndarray, count: int, family: Architecture) -> np.ndarray:
    """Rows of gate and up apart, (rows, halves, r), as the family stacks them in one parameter."""
    if count == 2 and family.routed.get("rows") == "interleaved":
        return values.reshape(-1, 2, values.shape[1])
    return values.reshape(count, -1, values.shape[1]).transpose(1, 0, 2)


def _without_halves(factors: Factors) -> Factors:
    return factors[0][:, 0], factors[1]


def wrapped(
    layers: Mapping[int, Experts], family: Architecture
) -> tuple[dict[str, np.ndarray], list[str], int]:
    """Experts' updates as peft stores them: tensors by name, what `target_parameters` names, and
    the rank of all of them, at a scale of 1.
    """
    every = [f for e in layers.values() for f in (e.gate_up, e.down, e.router) if f is not None]
    rank, tensors, targets = max(a.shape[1] for _, a in every), {}, []

    def take(path: str, parameter: str, b: np.ndarray, a: np.ndarray) -> None:
        """One parameter's update, b (E, m, r) and a (E, r, n), with zeros up to `rank`."""
        more = rank - a.shape[1]
        b, a = np.pad(b, ((0, 0), (0, 0), (0, more))), np.pad(a, ((0, 0), (0, more), (0, 0)))
        tensors[f"{path}.lora_A.weight"] = a.reshape(-1, a.shape[2])
        tensors[f"{path}.lora_B.weight"] = b.transpose(1, 2, 0).reshape(b.shape[1], -1)
        targets.append(f"{path.removesuffix('.base_layer')}.{parameter}")

    for layer, experts in sorted(layers.items()):
        path = family.path(layer, family.routed["experts"])
        kinds = [(PARAMETERS[0], joined(experts.gate_up, family)), (PARAMETERS[1], experts.down)]
        held = [(name, factors) for name, factors in kinds if factors is not None]
        for place, (name, factors) in enumerate(held):
            take(f"{path}.base_layer" if place < len(held) - 1 else path, name, *factors)
        if experts.router is not None:
            take(family.path(layer, family.routed["router"]), "weight", *experts.router)
    return tensors, sorted(targets), rank


def joined(factors: Factors | None, family: Architecture) -> Factors | None:
    """gate and up as the rows of one parameter, b (E, 2 f, r), a (E, r, d)."""
    if factors is None:
        return None
    b, a = factors
    if family.routed["rows"] == "interleaved":
        b = b.transpose(0, 2, 1, 3)
    return b.reshape(len(b), -1, b.shape[-1]), a
