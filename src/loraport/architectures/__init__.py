"""Model families as data: module names, fused layouts and head fields, one JSON file each."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from ..errors import LoraportError

ROLES = ("q", "k", "v", "o", "gate", "up", "down")
LAYOUTS = ("blocks", "per_head")


@dataclass(frozen=True)
class Dimensions:
    """Sizes of one model; `head_dim` need not be hidden / heads."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int

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
        }[role]


@dataclass(frozen=True)
class Architecture:
    """One family.

    Attributes
    ----------
    name : the file's name
    model_types : values of `model_type` in config.json that belong to it
    dimensions : dimension -> names of config fields, first one present counts; "a / b" divides
    embedding : module of the input embedding
    block : module of a decoder block, with `{layer}`
    modules : linear module below the block -> roles whose weights it stacks along its rows
    layouts : fused module -> how its rows are stacked: `blocks` (role after role, the default) or
        `per_head` (all roles of head 0, then of head 1, …)
    """

    name: str
    model_types: tuple[str, ...]
    dimensions: Mapping[str, tuple[str, ...]]
    embedding: str
    block: str
    modules: Mapping[str, tuple[str, ...]]
    layouts: Mapping[str, str]

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that this family has, in the order of `ROLES`."""
        held = {role for roles in self.modules.values() for role in roles}
        return tuple(role for role in ROLES if role in held)

    def module_of(self, role: str) -> str:
        """The module, below the block, that holds a role."""
        return next(module for module, roles in self.modules.items() if role in roles)

    def path(self, layer: int, module: str) -> str:
        """Full path of a module, as in `model.named_modules()`."""
        return f"{self.block.format(layer=layer)}.{module}"

    def locate(self, path: str) -> tuple[int, str] | None:
        """(layer, module) of a full module path; None where it is not one of the family's."""
        head, tail = self.block.split("{layer}")
        match = re.fullmatch(rf"{re.escape(head)}(\d+){re.escape(tail)}\.(.+)", path)
        if match is None or match[2] not in self.modules:
            return None
        return int(match[1]), match[2]

    def rows(self, role: str, dims: Dimensions) -> np.ndarray | None:
        """Row numbers of a role inside its fused module; None where it is the whole module."""
        module = self.module_of(role)
        roles = self.modules[module]
        if len(roles) == 1:
            return None
        sizes = [dims.shape(each)[0] for each in roles]
        position = roles.index(role)
        if self.layouts.get(module, "blocks") == "per_head":
            grid = np.arange(sum(sizes)).reshape(dims.heads, len(roles), dims.head_dim)
            return grid[:, position].reshape(-1)
        return np.arange(sizes[position]) + sum(sizes[:position])

    def module_shape(self, module: str, dims: Dimensions) -> tuple[int, int]:
        """(d_out, d_in) of a module, fused or not."""
        shapes = [dims.shape(role) for role in self.modules[module]]
        return sum(shape[0] for shape in shapes), shapes[0][1]

    def read_dimensions(self, config: Mapping[str, Any], where: str) -> Dimensions:
        """Dimensions from a config.json's content; contradictions are errors that name `where`."""
        values = {
            name: _first(config, sources, name, where) for name, sources in self.dimensions.items()
        }
        dims = Dimensions(**values)
        if dims.heads % dims.kv_heads:
            raise LoraportError(
                f"{where} contradicts itself",
                got=f"{dims.heads} attention heads over {dims.kv_heads} key-value heads",
                expected="a multiple",
                todo="repair config.json",
            )
        return dims


def _first(config: Mapping[str, Any], sources: tuple[str, ...], name: str, where: str) -> int:
    for source in sources:
        parts: list[Any] = [config.get(field.strip()) for field in source.split("/")]
        if None in parts:
            continue
        if any(type(part) is not int or part < 1 for part in parts):
            raise LoraportError(
                f"{where} has no usable {name}",
                got=f"{source} = {' / '.join(map(repr, parts))}",
                expected="positive whole numbers",
                todo="repair config.json",
            )
        value, rest = (parts[0], 0) if len(parts) == 1 else divmod(parts[0], parts[1])
        if rest:
            raise LoraportError(
                f"{where} has no whole {name}",
                got=f"{source} = {parts[0]} / {parts[1]}",
                expected="a division without rest, or the field that says it outright",
                todo="repair config.json",
            )
        return value
    raise LoraportError(
        f"{where} lacks the {name}",
        got="none of its fields",
        expected=" or ".join(sources),
        todo="repair config.json",
    )


def parse(name: str, content: Mapping[str, Any]) -> Architecture:
    """A family from the content of its JSON file; unknown or missing fields are errors."""
    required = {field.name for field in fields(Architecture)} - {"name", "layouts"}
    wrong = (set(content) - required - {"layouts"}) | (required - set(content))
    wrong |= set(content.get("dimensions", {})) ^ {field.name for field in fields(Dimensions)}
    held = [role for roles in content.get("modules", {}).values() for role in roles]
    wrong |= {role for role in held if role not in ROLES or held.count(role) > 1}
    wrong |= set(content.get("layouts", {})) - set(content.get("modules", {}))
    wrong |= set(content.get("layouts", {}).values()) - set(LAYOUTS)
    if wrong:
        raise LoraportError(
            f"architectures/{name}.json is not a family",
            got=f"unknown, missing or doubled: {', '.join(sorted(wrong))}",
            expected=f"exactly {', '.join(sorted(required))} and, where fused, layouts",
            todo="see the attributes of loraport.architectures.Architecture",
        )
    return Architecture(
        name,
        tuple(content["model_types"]),
        {key: tuple(value) for key, value in content["dimensions"].items()},
        content["embedding"],
        content["block"],
        {key: tuple(value) for key, value in content["modules"].items()},
        content.get("layouts", {}),
    )


@cache
def families() -> dict[str, Architecture]:
    """All families by name."""
    found = {path.name: path for path in files(__package__).iterdir()}
    return {
        (name := file.removesuffix(".json")): parse(name, json.loads(found[file].read_text()))
        for file in sorted(found)
        if file.endswith(".json")
    }


def family_of(config: Mapping[str, Any], where: str) -> Architecture:
    """The family that serves a config.json's `model_type`."""
    kind = config.get("model_type")
    for family in families().values():
        if kind in family.model_types:
            return family
    known = sorted(kind for family in families().values() for kind in family.model_types)
    raise LoraportError(
        f"{where} is of a model family that has no file in architectures/",
        got=f"model_type {kind!r}",
        expected=", ".join(known),
        todo="add a JSON file for it beside the others (data, no code)",
    )
