"""A schema: its defaults filled in, and each violation told as what, got, expected, what to do."""

import copy
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from ..errors import LoraportError
from .queries import near_to


def read_schema(folder: str | Path, name: str) -> dict[str, Any]:
    """The schema `{name}.schema.json` of a folder."""
    return json.loads((Path(folder) / f"{name}.schema.json").read_text())


def problem(what: str, got: object = None, expected: object = None, todo: str = "") -> str:
    """The text of an error that is told with others, and not raised."""
    return str(LoraportError(what, got=got, expected=expected, todo=todo))


def schema_errors(schema: dict[str, Any], content: Any, where: str) -> Iterator[str]:
    """Each violation as a text; `where` names what `content` is, in front of the key's path."""
    violations = Draft202012Validator(schema).iter_errors(content)
    for error in sorted(violations, key=lambda each: [str(part) for part in each.absolute_path]):
        path = ".".join([where, *(str(part) for part in error.absolute_path)])
        yield explain(path, error)


def not_finite(content: Any, where: str) -> Iterator[str]:
    """Numbers that are none, which every bound of a schema lets pass."""
    if isinstance(content, dict | list):
        parts = content.items() if isinstance(content, dict) else enumerate(content)
        for key, part in parts:
            yield from not_finite(part, f"{where}.{key}")
    elif isinstance(content, float) and not math.isfinite(content):
        yield problem(f"{where}: not allowed", content, "a finite number", "correct the value")


def explain(where: str, error: Any) -> str:
    """One schema violation as what, got, expected and what to do."""
    rule, value = error.validator, error.validator_value
    if rule == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        extra = [near_to(str(key), known) for key in error.instance if key not in known]
        return problem(
            f"{where}: unknown key(s)", ", ".join(extra), ", ".join(known), "correct or remove them"
        )
    if rule == "required":
        missing = ", ".join(key for key in value if key not in error.instance)
        held = ", ".join(map(str, error.instance)) or "nothing"
        return problem(f"{where}: missing key(s)", held, f"{missing} as well", "add them")
    if rule == "pattern":
        return problem(
            f"{where}: not a usable name or value",
            _short(error.instance),
            f"a match of {value!r}",
            "use up to 100 letters, digits, '_', '.' and '-', starting with a letter or digit",
        )
    expected = {
        "enum": lambda: f"one of {', '.join(map(str, value))}",
        "type": lambda: f"type {value if isinstance(value, str) else ' or '.join(value)}",
        "minimum": lambda: f"at least {value}",
        "anyOf": lambda: ", or ".join(map(_form, value)),
    }.get(rule, lambda: f"{rule} {value}")()
    return problem(f"{where}: not allowed", _short(error.instance), expected, "correct the value")


def _form(schema: Mapping[str, Any]) -> str:
    """One of the forms that a value may have, in words."""
    if "const" in schema:
        return str(schema["const"])
    words = {"string": "a path", "object": "a data set as {dataset: …}", "number": "a number",
             "integer": "a whole number"}  # fmt: skip
    above = f" above {schema['exclusiveMinimum']}" if "exclusiveMinimum" in schema else ""
    least = f" of at least {schema['minimum']}" if "minimum" in schema else ""
    return words.get(schema["type"], f"type {schema['type']}") + above + least


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def resolved(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> dict[str, Any]:
    """A schema with its `$ref` and `allOf` written out, at this level."""
    parts = [*schema.get("allOf", []), *([defs[ref_name(schema)]] if "$ref" in schema else [])]
    whole: dict[str, Any] = {}
    for part in [*(resolved(part, defs) for part in parts), schema]:
        for key, value in part.items():
            if key == "properties":
                held = whole.setdefault("properties", {})
                for name, entry in value.items():
                    held[name] = {**held.get(name, {}), **entry}
            elif key not in ("allOf", "$ref"):
                whole[key] = value
    return whole


def ref_name(schema: Mapping[str, Any]) -> str:
    """Name of the definition that a schema refers to."""
    return schema["$ref"].rpartition("/")[2]


def complete(schema: Mapping[str, Any], content: Any, defs: Mapping[str, Any]) -> Any:
    """Fill in a schema's defaults, and read numbers from text where that text is not allowed.

    Snakemake gives every value inside `--config 'section={key: 3}'` as text.
    """
    schema = resolved(schema, defs)
    if isinstance(content, str) and not _takes(schema, content):
        return _read(content)
    if isinstance(content, list) and "items" in schema:
        return [complete(schema["items"], item, defs) for item in content]
    if not isinstance(content, dict):
        return content
    content = dict(content)
    for key, part in schema.get("properties", {}).items():
        inner = resolved(part, defs)
        if key in content:
            content[key] = complete(part, content[key], defs)
        elif "default" in inner:
            content[key] = copy.deepcopy(inner["default"])
        elif "default" in str(inner.get("properties", "")):
            content[key] = complete(part, {}, defs)
    every = schema.get("additionalProperties")
    if isinstance(every, dict):
        known = schema.get("properties", {})
        content |= {key: complete(every, content[key], defs) for key in content if key not in known}
    return content


def _read(text: str) -> Any:
    """What text stands for in YAML; numbers also without a point (1e-3), which YAML 1.1 lacks."""
    try:
        value = yaml.safe_load(text)
        if not isinstance(value, str):
            return value
        number = float(value)
        return int(number) if number.is_integer() else number
    except (yaml.YAMLError, ValueError):
        return text


def _takes(schema: Mapping[str, Any], text: str) -> bool:
    """Whether text may stand as text where a schema is, in one of its forms."""
    if "anyOf" in schema:
        return any(_takes(form, text) for form in schema["anyOf"])
    if "const" in schema:
        return text == schema["const"]
    return "type" not in schema or "string" in schema["type"]
