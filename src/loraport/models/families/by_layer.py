"""Sizes and roles that differ by layer, as a family's rules say and a config.json has them.

A family's `layer_types` says what each layer is called: `field` lists a name for each; where the
config leaves it out, every n-th one is called `nth` and the others `others`, n being what the first
of `every` says that does, a field or a number. A `last` is the name of the last layer, whatever
else is said.

A rule of `by_layer` holds for the layers of one `type`, or for as many at the end as the field
`last` says; of models whose field `if` is set, and whose field `unless` is not. It names roles that
these layers have no module for (`lacks`), and `dimensions` that they have from elsewhere. Of rules
that hold for one layer the last one says what a dimension is. Attention of layers for which one
`borrows` reads the keys and values of the last layer of their type for which none does.

transformers writes what differs into `per_layer_config` as well: a layer's number, maybe with
leading zeros, -> its fields.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from ...errors import LoraportError
from .dimensions import Dimensions, field_of, read_dimensions

TYPES = {"field", "every", "nth", "others", "last"}
RULE = {"type", "last", "if", "unless", "lacks", "borrows", "dimensions"}
APART = ("lacks", "borrows", "by_layer")  # fields of `Dimensions` that are no sizes


def read_layers(
    sources: Mapping[str, tuple[str, ...]],
    types: Mapping[str, Any],
    rules: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    where: str,
) -> Dimensions:
    """Dimensions of a model whose layers may differ.

    Parameters
    ----------
    sources : as for `read_dimensions`, where no rule holds
    types, rules : a family's `layer_types` and `by_layer`

    Raises
    ------
    LoraportError
        For what `read_dimensions` refuses, names that are not one a layer, and layers that borrow
        where there is nothing.
    """
    whole = read_dimensions(sources, config, where)
    names = _names(types, whole.layers, config, where)
    layers: list[Dimensions] = []
    own_keys: dict[str, int] = {}  # layer type -> its last layer that borrows from none
    for layer, name in enumerate(names):
        held = [rule for rule in rules if _holds(rule, name, whole.layers - layer, config)]
        said = dict(sources)
        for rule in held:
            said |= {key: tuple(value) for key, value in rule.get("dimensions", {}).items()}
        own = read_dimensions(said, _with_own(config, types["field"], layer), where)
        lacks = tuple(dict.fromkeys(role for rule in held for role in rule.get("lacks", ())))
        borrows = -1
        if any(rule.get("borrows") for rule in held):
            borrows = _lender(own_keys, name, layer, where)
        else:
            own_keys[name] = layer
        layers.append(replace(own, lacks=lacks, borrows=borrows))
    if len(set(layers)) == 1:
        return layers[0]
    sizes = [field.name for field in fields(Dimensions) if field.name not in APART]
    largest: dict[str, Any] = {name: max(getattr(each, name) for each in layers) for name in sizes}
    return Dimensions(**largest, by_layer=tuple(layers))


def _lender(own_keys: Mapping[str, int], name: str, layer: int, where: str) -> int:
    """The layer whose keys and values a layer of a type reads."""
    if name not in own_keys:
        raise LoraportError(
            f"{where} contradicts itself",
            got=f"layer {layer} reads keys and values of an earlier one of type {name!r}",
            expected="one of that type that has its own",
            todo="repair config.json",
        )
    return own_keys[name]


def _names(
    types: Mapping[str, Any], layers: int, config: Mapping[str, Any], where: str
) -> list[str]:
    names = field_of(config, types["field"])
    if names is None:
        said = (int(each) if each.isdigit() else field_of(config, each) for each in types["every"])
        every = next(each for each in said if each)
        names = [
            types["nth"] if number % every == 0 else types["others"]
            for number in range(1, layers + 1)
        ]
    if not isinstance(names, list) or len(names) != layers:
        raise LoraportError(
            f"{where} does not say what each layer is",
            got=f"{types['field']} = {names!r}",
            expected=f"a list of {layers} names",
            todo="repair config.json",
        )
    return [*names[:-1], types.get("last", names[-1])]


def _holds(rule: Mapping[str, Any], name: str, to_end: int, config: Mapping[str, Any]) -> bool:
    """Whether a rule holds for a layer of a name, the `to_end`-th one from the end."""
    if "type" in rule and rule["type"] != name:
        return False
    if "last" in rule and to_end > (field_of(config, rule["last"]) or 0):
        return False
    if "if" in rule and not field_of(config, rule["if"]):
        return False
    return not ("unless" in rule and field_of(config, rule["unless"]))


def _with_own(config: Mapping[str, Any], types: str, layer: int) -> Mapping[str, Any]:
    """The config as it is for one layer, by the `per_layer_config` beside the layers' names."""
    outer = types.rpartition(".")[0]
    part = config.get(outer, {}) if outer else config
    listed = part.get("per_layer_config") or {}
    fields_of = {str(number).lstrip("0") or "0": more for number, more in listed.items()}
    own = {**part, **fields_of.get(str(layer), {})}
    return {**config, outer: own} if outer else own


def wrong_rules(content: Mapping[str, Any], roles: Sequence[str]) -> set[str]:
    """What a family's `layer_types` and `by_layer` name that is not there, or nothing reads."""
    types, rules = content.get("layer_types", {}), content.get("by_layer", [])
    wrong = (set(types) ^ (TYPES if "last" in types else TYPES - {"last"})) if types else set()
    if bool(types) != bool(rules):
        wrong.add("by_layer")
    sizes = {field.name for field in fields(Dimensions)}
    for rule in rules:
        wrong |= set(rule) - RULE
        wrong |= set(rule.get("lacks", ())) - set(roles)
        wrong |= set(rule.get("dimensions", {})) - sizes
    return wrong
