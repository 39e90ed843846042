"""Configuration and adapters table: validated at once, and asked by name afterwards."""

import copy
import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from . import methods
from .errors import LoraportError

RESERVED_PAIRS = ("models",)
RESERVED_APPS = ("models", "maps", "variants", "tables", "logs")
COLUMNS = ("app", "model", "source", "task")


@dataclass(frozen=True)
class Config:
    """The whole configuration with its defaults filled in.

    Attributes
    ----------
    content : as in config.yaml
    adapters : (app, model) -> row of the adapters table
    """

    content: dict[str, Any]
    adapters: dict[tuple[str, str], dict[str, str]]

    def model(self, name: str) -> dict[str, Any]:
        """A model's entry."""
        return self._entry("models", name)

    def pair(self, name: str) -> tuple[str, str]:
        """Names of the old and the new model of a pair."""
        entry = self._entry("pairs", name)
        return entry["old"], entry["new"]

    def adapter(self, app: str, model: str) -> dict[str, str]:
        """The row of an adapter."""
        if (app, model) not in self.adapters:
            apps = sorted(a for a, m in self.adapters if m == model)
            raise LoraportError(
                f"no adapter {app!r} of model {model!r} in {self.content['adapters']}",
                got=_near(app, apps),
                expected=f"one of {', '.join(apps)}" if apps else "a row for it",
                todo="add a row: app, model, source, task",
            )
        return self.adapters[app, model]

    def apps(self, model: str) -> list[str]:
        """Apps that have an adapter of a model."""
        return [app for app, owner in self.adapters if owner == model]

    def method(self, name: str) -> str:
        """The method behind a name: the method itself, or what a variant is a variant of."""
        variant = self.content["variants"].get(name)
        base = variant["method"] if variant else name
        methods.needs(base)
        return base

    def mapping(self, name: str) -> dict[str, Any]:
        """Mapping settings of a method or variant."""
        overrides = self.content["variants"].get(name, {}).get("mapping", {})
        return {**self.content["mapping"], **overrides}

    def transfer(self, name: str) -> dict[str, Any]:
        """Transfer settings of a method or variant, without the method's name."""
        overrides = self.content["variants"].get(name, {}).get("transfer", {})
        settings = {**self.content["transfer"], **overrides}
        return {key: value for key, value in settings.items() if key != "method"}

    def texts(self, model: str) -> Any:
        """Where a model's calibration texts come from."""
        return self.model(model).get("texts") or self.content["calibration"]["texts"]

    def known_as(self, model: str) -> list[str]:
        """Names under which an adapter may record a model as its base."""
        entry = self.model(model)
        source = entry["source"]
        return sorted({model, source, Path(source).name, *entry["known_as"]})

    def _entry(self, section: str, name: str) -> dict[str, Any]:
        entries = self.content[section]
        if name not in entries:
            raise LoraportError(
                f"{section} has no {name!r}",
                got=_near(name, list(entries)),
                expected=f"one of {', '.join(entries)}",
                todo=f"add it to {section} in config.yaml",
            )
        return entries[name]


def _near(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, 1)
    return f"{name!r} (did you mean {near[0]!r}?)" if near else repr(name)


def load(content: Mapping[str, Any], schemas: str | Path) -> Config:
    """Validate a configuration and the table that it names.

    Parameters
    ----------
    content : what the YAML files and the command line add up to
    schemas : folder of config.schema.json and adapters.schema.json

    Raises
    ------
    LoraportError
        With every error at once: what, got, expected and what to do, one a line.
    """
    schema = _read_schema(schemas, "config")
    errors = list(_schema_errors(schema, content, "config"))
    if errors:
        _give_up(errors)
    filled = with_defaults(schema, copy.deepcopy(dict(content)), schema["$defs"])
    rows = list(read_table(filled["adapters"], _read_schema(schemas, "adapters"), errors))
    adapters: dict[tuple[str, str], dict[str, str]] = {}
    for number, row in rows:
        key = (row["app"], row["model"])
        if key in adapters:
            errors.append(f"{filled['adapters']}, line {number}: a second row for app {key[0]!r} "
                          f"of model {key[1]!r}. What to do: keep one of them.")  # fmt: skip
        adapters[key] = row
    config = Config(filled, adapters)
    errors += _cross_errors(config)
    if errors:
        _give_up(errors)
    return config


def _read_schema(folder: str | Path, name: str) -> dict[str, Any]:
    return json.loads((Path(folder) / f"{name}.schema.json").read_text())


def _give_up(errors: list[str]) -> None:
    shown = "\n".join(f"- {error}" for error in errors[:50])
    more = f"\n(and {len(errors) - 50} more)" if len(errors) > 50 else ""
    raise LoraportError(f"the configuration has {len(errors)} error(s):\n{shown}{more}\n")


def _schema_errors(schema: dict[str, Any], content: Any, where: str) -> Iterator[str]:
    found = Draft202012Validator(schema).iter_errors(content)
    for error in sorted(found, key=lambda each: [str(part) for part in each.absolute_path]):
        path = ".".join([where, *(str(part) for part in error.absolute_path)])
        yield f"{path}: {_explain(error)}"


def _explain(error: Any) -> str:
    """One schema violation as what, got, expected and what to do."""
    got = _short(error.instance)
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        extra = [key for key in error.instance if key not in known]
        hints = ", ".join(_near(str(key), known) for key in extra)
        return (f"unknown key(s). Got: {hints}. Expected: {', '.join(known)}. "
                "What to do: correct or remove them.")  # fmt: skip
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        return (f"missing key(s). Got: {', '.join(map(str, error.instance)) or 'nothing'}. "
                f"Expected: {', '.join(missing)} as well. What to do: add them.")  # fmt: skip
    if error.validator in ("pattern", "propertyNames"):
        return (f"not a usable name or value. Got: {got}. Expected: it to match "
                f"{error.validator_value!r}. What to do: use letters, digits, '_', '.' and '-', "
                "starting with a letter or digit.")  # fmt: skip
    expected = {
        "enum": lambda value: f"one of {', '.join(map(str, value))}",
        "type": lambda value: f"type {value if isinstance(value, str) else ' or '.join(value)}",
        "minimum": lambda value: f"at least {value}",
        "anyOf": lambda value: "a path, or a data set as {dataset: …}",
    }.get(error.validator, lambda value: f"{error.validator} {value}")(error.validator_value)
    return f"not allowed. Got: {got}. Expected: {expected}. What to do: correct the value."


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def with_defaults(schema: Mapping[str, Any], content: Any, defs: Mapping[str, Any]) -> Any:
    """Fill in a schema's defaults, also below sections that are missing."""
    if not isinstance(content, dict):
        return content
    for key, part in schema.get("properties", {}).items():
        if key not in content:
            if "default" in part:
                content[key] = copy.deepcopy(part["default"])
            elif "properties" in part:
                content[key] = {}
            else:
                continue
        content[key] = with_defaults(part, content[key], defs)
    every = schema.get("additionalProperties")
    if isinstance(every, dict):
        for key in content:
            content[key] = with_defaults(every, content[key], defs)
    return content


def read_table(
    path: str, schema: dict[str, Any], errors: list[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of the adapters table with their line numbers; what is wrong is added to `errors`."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        errors.append(f"{path}: cannot be read. Got: {error}. Expected: a tab-separated table. "
                      "What to do: correct `adapters` in config.yaml.")  # fmt: skip
        return
    reader = csv.reader((line for line in lines), delimiter="\t")
    header = tuple(next(reader, ()))
    if header != COLUMNS:
        errors.append(f"{path}, line 1: wrong columns. Got: {', '.join(header)}. Expected: "
                      f"{', '.join(COLUMNS)}, tab-separated. What to do: repair it.")  # fmt: skip
        return
    validator = Draft202012Validator(schema)
    for number, cells in enumerate(reader, 2):
        if not any(cells) or cells[0].startswith("#"):
            continue
        row = dict(zip(COLUMNS, [*cells, *[""] * (len(COLUMNS) - len(cells))], strict=False))
        wrong = [
            f"{error.json_path[2:]}: {_explain(error)}" for error in validator.iter_errors(row)
        ]
        if len(cells) > len(COLUMNS):
            wrong.append(f"too many columns. Got: {len(cells)}. Expected: {len(COLUMNS)}.")
        errors += [f"{path}, line {number}: {each}" for each in wrong]
        if not wrong:
            yield number, row


def _cross_errors(config: Config) -> Iterator[str]:
    """What a schema can't say: names that must exist elsewhere, and reserved ones."""
    content = config.content
    models, pairs = content["models"], content["pairs"]

    def unknown(where: str, name: str, known: Any) -> str:
        return (f"{where}: no such name. Got: {_near(name, list(known))}. Expected: one of "
                f"{', '.join(known) or 'none'}. What to do: correct it or add the entry.")  # fmt: skip

    for name, pair in pairs.items():
        if name in RESERVED_PAIRS:
            yield f"config.pairs.{name}: the name is reserved. What to do: choose another."
        for side in ("old", "new"):
            if pair[side] not in models:
                yield unknown(f"config.pairs.{name}.{side}", pair[side], models)
        if {pair["old"], pair["new"]} <= models.keys() and (
            config.texts(pair["old"]) != config.texts(pair["new"])
        ):
            yield (f"config.pairs.{name}: its models read different calibration texts. "
                   "Expected: the same `texts` in both models' entries, or in neither.")  # fmt: skip
    for name in content["run"]:
        if name not in pairs:
            yield unknown("config.run", name, pairs)
    choices = [*methods.names(), *content["variants"]]
    if content["transfer"]["method"] not in choices:
        yield unknown("config.transfer.method", content["transfer"]["method"], choices)
    for name, variant in content["variants"].items():
        if variant["method"] not in methods.names():
            yield unknown(f"config.variants.{name}.method", variant["method"], methods.names())
        if name in methods.names():
            yield f"config.variants.{name}: a method has that name. What to do: choose another."
        if "method" in variant.get("transfer", {}):
            yield f"config.variants.{name}.transfer.method: say the method once, in `method`."
    for (app, model), row in config.adapters.items():
        where = f"{content['adapters']}, app {app!r} of model {model!r}"
        if app in RESERVED_APPS:
            yield f"{where}: the app's name is reserved. What to do: choose another."
        if model not in models:
            yield unknown(f"{where}: model", model, models)
        if row["task"] and row["task"] not in content["tasks"]:
            yield unknown(f"{where}: task", row["task"], content["tasks"])
        if not row["source"] and not row["task"]:
            yield (f"{where}: neither source nor task. Expected: a PEFT directory to carry, or a "
                   "task to train it on.")  # fmt: skip
