"""Sizes of one model, and how they are read from its config.json."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ...errors import LoraportError


@dataclass(frozen=True)
class Dimensions:
    """Sizes of one model; `head_dim` need not be hidden / heads.

    Where layers differ, these are the largest ones, and `at` gives those of a layer.

    Attributes
    ----------
    intermediate : of the feed-forward network, or of each expert
    experts : how many feed-forward networks a layer has; more than one are a mixture of experts
    query_gate : rows of the gate on what attention's heads give, 0 without one
    linear_keys, linear_values : width of a gated DeltaNet's queries and of its keys, and of its
        values; 0 without one
    linear_heads : heads of its values
    per_layer_input : width of the input of its own that each layer has, 0 without one
    lacks : roles that have no module in this layer
    borrows : the layer whose keys and values this one's attention reads; -1 where it has its own
    by_layer : of each layer, where layers differ
    """

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    experts: int = 1
    query_gate: int = 0
    linear_keys: int = 0
    linear_values: int = 0
    linear_heads: int = 0
    per_layer_input: int = 0
    lacks: tuple[str, ...] = ()
    borrows: int = -1
    by_layer: tuple["Dimensions", ...] = ()

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Dimensions":
        """From what `record` gives."""
        own = {**content, "lacks": tuple(content.get("lacks", ())), "by_layer": ()}
        layers = tuple(cls.of({**own, **more}) for more in content.get("by_layer", ()))
        return cls(**{**own, "by_layer": layers})

    def record(self) -> dict[str, Any]:
        """As it stands in spec.json: of a layer what is not the model's, of the rest no zeros."""
        kept = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name == "experts" or getattr(self, field.name) != field.default
        }
        if self.lacks:
            kept["lacks"] = list(self.lacks)
        if self.by_layer:
            own = replace(self, by_layer=()).record()
            kept["by_layer"] = [
                {key: value for key, value in each.record().items() if own.get(key) != value}
                for each in self.by_layer
            ]
        return kept

    def at(self, layer: int) -> "Dimensions":
        """Of one layer."""
        return self.by_layer[layer] if self.by_layer else self

    @property
    def attention(self) -> str:
        """MHA, GQA or MQA, by the number of key-value heads."""
        if self.kv_heads == self.heads:
            return "MHA"
        return "MQA" if self.kv_heads == 1 else "GQA"

    def shape(self, role: str) -> tuple[int, int]:
        """(d_out, d_in) of the weight of a role."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q": (queries, self.hidden),
            "k": (keys, self.hidden),
            "v": (keys, self.hidden),
            "o": (self.hidden, queries),
            "gate": (self.intermediate, self.hidden),
            "up": (self.intermediate, self.hidden),
            "down": (self.hidden, self.intermediate),
            "q_gate": (self.query_gate, self.hidden),
            "linear_q": (self.linear_keys, self.hidden),
            "linear_k": (self.linear_keys, self.hidden),
            "linear_v": (self.linear_values, self.hidden),
            "linear_z": (self.linear_values, self.hidden),
            "linear_b": (self.linear_heads, self.hidden),
            "linear_a": (self.linear_heads, self.hidden),
            "linear_o": (self.hidden, self.linear_values),
        }[role]


def read_dimensions(
    sources: Mapping[str, tuple[str, ...]], config: Mapping[str, Any], where: str
) -> Dimensions:
    """Dimensions from a config.json's content.

    Parameters
    ----------
    sources : dimension -> the places that may say it, the first one that does counts: a field, or
        `part.field` of a config inside, two of them as `a / b`, a multiple as `4 * a`, or a number,
        which is what transformers takes where the config leaves the first field out altogether (a
        field that is null it derives)
    where : named in errors

    Raises
    ------
    LoraportError
        For a size that is missing, not a positive whole number, or contradicts another.
    """
    sizes: dict[str, Any] = {name: _first(config, sources[name], name, where) for name in sources}
    dims = Dimensions(**sizes)
    if dims.heads % dims.kv_heads:
        raise LoraportError(
            f"{where} contradicts itself",
            got=f"{dims.heads} attention heads over {dims.kv_heads} key-value heads",
            expected="a multiple",
            todo="repair config.json",
        )
    return dims


def read_factor(source: str, config: Mapping[str, Any], where: str) -> float:
    """A factor from a config.json's content: a field, or `a / sqrt b`; 1 where there is none."""
    words = [word for word in source.split() if word not in ("/", "sqrt")]
    values = [_operand(config, word) for word in words]
    if not words or values[0] is None:
        return 1.0
    if any(type(value) not in (int, float) or not 0 < value < math.inf for value in values):
        raise LoraportError(
            f"{where} has no usable factor of its residual stream",
            got=f"{source} = {', '.join(map(repr, values))}",
            expected="positive numbers",
            todo="repair config.json",
        )
    return float(values[0] / math.prod(math.sqrt(value) for value in values[1:]))


def _first(config: Mapping[str, Any], sources: tuple[str, ...], name: str, where: str) -> int:
    for source in sources:
        first, sign, second = (*source.split(), "", "")[:3]
        if first.isdigit() and not sign:
            if _said(config, sources[0]):
                continue
            return int(first)
        values = [_operand(config, word) for word in (first, second) if word]
        if None in values:
            continue
        if any(type(value) is not int or value < 1 for value in values):
            raise LoraportError(
                f"{where} has no usable {name}",
                got=f"{source} = {f' {sign} '.join(map(repr, values))}",
                expected="positive whole numbers",
                todo="repair config.json",
            )
        if sign == "/" and values[0] % values[1]:
            raise LoraportError(
                f"{where} has no whole {name}",
                got=f"{source} = {values[0]} / {values[1]}",
                expected="a division without rest, or the field that says it outright",
                todo="repair config.json",
            )
        if not sign:
            return values[0]
        return values[0] // values[1] if sign == "/" else values[0] * values[1]
    raise LoraportError(
        f"{where} lacks the {name}",
        got="none of its fields",
        expected=" or ".join(sources),
        todo="repair config.json",
    )


def _operand(config: Mapping[str, Any], word: str) -> Any:
    return int(word) if word.isdigit() else field_of(config, word)


def field_of(config: Mapping[str, Any], word: str) -> Any:
    """What a config says at `field` or `part.field`; None where it says nothing."""
    part, field = _inside(config, word)
    return part.get(field)


def _said(config: Mapping[str, Any], word: str) -> bool:
    part, field = _inside(config, word)
    return field in part


def _inside(config: Mapping[str, Any], word: str) -> tuple[Mapping[str, Any], str]:
    """The config that a field stands in, and the field's own name."""
    outer, _, field = word.rpartition(".")
    part = config.get(outer) if outer else config
    return part if isinstance(part, Mapping) else {}, field
