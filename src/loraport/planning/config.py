"""Configuration and adapters table: validated at once, and asked by name afterwards."""

import copy
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from .. import methods
from ..errors import LoraportError
from ..models.families import ROLES
from ..models.spec import adapter_directory

RESERVED_PAIRS = ("models",)
RESERVED_APPS = ("models", "maps", "output_maps", "variants", "tables", "logs", "all")
RESERVED_VARIANTS = ("after", "baselines", "merged", "sweeps", "plots", "eval", "own_answers")
OF_ALL = ("method", "merged_model")  # transfer settings that no variant has of its own
COLUMNS = ("app", "model", "source", "task")
SHOWN = 50  # errors that are told in full


_EMBEDDING = frozenset(["wh", "tokens", "underdetermined"])
_CKA = frozenset(["minibatch", "similarity"])
_LAYERS = _CKA | {"layers", "max_offset", "unmatched"}
# artifact of a pair's mapping -> the mapping settings that it depends on
DEPENDS_ON = {
    "embedding": _EMBEDDING,
    "cka": _CKA,
    "layers": _LAYERS,
    "heads": _EMBEDDING | _LAYERS | {"heads"},
    "moments": _LAYERS | {"moments_gib"},
}


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
        """The row of an adapter; one without source and task for a merge."""
        if merge := self.merge(app):
            for each in merge["apps"]:
                self.adapter(each, model)
            return {"app": app, "model": model, "source": "", "task": ""}
        if (app, model) not in self.adapters:
            apps = sorted(a for a, m in self.adapters if m == model)
            raise LoraportError(
                f"no adapter {app!r} of model {model!r} in {self.content['adapters']}",
                got=_near(app, apps),
                expected=f"one of {', '.join(apps)}" if apps else "a row for it",
                todo="add a row: app, model, source, task",
            )
        return self.adapters[app, model]

    def given_adapter(self, app: str, model: str) -> str:
        """Directory of an adapter that is given, fetched where it is the hub's; else empty."""
        return adapter_directory(self.adapter(app, model)["source"])

    def merge(self, app: str) -> dict[str, Any] | None:
        """The entry of `merges` that an app's name stands for, if it is one."""
        return self.content["merges"].get(app)

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

    def summed_modules(self, variant: str = "") -> list[str]:
        """Roles that second moments have to serve: a variant's own, or, of the pair's, all that the
        mapping and the variants that read those ask for.
        """
        readers = [
            name
            for name in self.content["variants"]
            if {"moments", "outputs"} & set(methods.needs(self.method(name)))
            and not self._has_own(name, "moments")
        ]
        names = [variant] if variant else ["", *readers]
        asked = {role for name in names for role in self.mapping(name)["modules"]}
        return [role for role in ROLES if role in asked]

    def home(self, pair: str, name: str, artifact: str) -> str:
        """Folder of an artifact of a pair's mapping: a variant's own where it makes another one."""
        folder = f"artifacts/{pair}"
        return f"{folder}/variants/{name}" if self._has_own(name, artifact) else folder

    def outputs_of(self, name: str) -> str:
        """Whose output maps a method or variant reads: its own where it makes others; or empty."""
        base = self.method(name)
        if "outputs" not in methods.needs(base):
            return ""
        read = DEPENDS_ON["moments"] | set(methods.output_settings(base))
        return name if self._changed(name) & read else base

    def _has_own(self, name: str, artifact: str) -> bool:
        """Whether a variant makes an artifact of the mapping that is not the pair's.

        Settings that only a method reads (methods.settings) lead to other maps, not to another
        mapping.
        """
        own = self._changed(name) - set(methods.settings(self.method(name)))
        return bool(own & DEPENDS_ON[artifact])

    def _changed(self, name: str) -> set[str]:
        """The mapping settings of which a variant has its own."""
        return set(self.content["variants"].get(name, {}).get("mapping", {}))

    def transfer(self, name: str) -> dict[str, Any]:
        """What a transfer by a method or variant reads: its settings but the method's name and
        what is made of the result.
        """
        overrides = self.content["variants"].get(name, {}).get("transfer", {})
        settings = {**self.content["transfer"], **overrides}
        return {key: value for key, value in settings.items() if key not in OF_ALL}

    def texts(self, model: str) -> Any:
        """Where a model's calibration texts come from."""
        return self.model(model).get("texts") or self.content["calibration"].get("texts")

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
    filled = complete(schema, dict(content), schema["$defs"])
    errors = [*_schema_errors(schema, filled, "config"), *_not_finite(filled, "config")]
    if errors:
        _give_up(errors)
    rows = list(read_table(filled["adapters"], _read_schema(schemas, "adapters"), errors))
    adapters: dict[tuple[str, str], dict[str, str]] = {}
    for number, row in rows:
        key = (row["app"], row["model"])
        if key in adapters:
            where = f"{filled['adapters']}, line {number}"
            errors.append(_problem(f"{where}: a second row for {key}", todo="keep one of them"))
        adapters[key] = row
    config = Config(filled, adapters)
    errors += _cross_errors(config)
    if errors:
        _give_up(errors)
    return config


def _read_schema(folder: str | Path, name: str) -> dict[str, Any]:
    return json.loads((Path(folder) / f"{name}.schema.json").read_text())


def _give_up(errors: list[str]) -> None:
    shown = "\n".join(f"- {error}" for error in errors[:SHOWN])
    more = f"\n(and {len(errors) - SHOWN} more)" if len(errors) > SHOWN else ""
    raise LoraportError(f"the configuration has {len(errors)} error(s):\n{shown}{more}")


def _problem(what: str, got: object = None, expected: object = None, todo: str = "") -> str:
    return str(LoraportError(what, got=got, expected=expected, todo=todo))


def _schema_errors(schema: dict[str, Any], content: Any, where: str) -> Iterator[str]:
    found = Draft202012Validator(schema).iter_errors(content)
    for error in sorted(found, key=lambda each: [str(part) for part in each.absolute_path]):
        path = ".".join([where, *(str(part) for part in error.absolute_path)])
        yield _explain(path, error)


def _not_finite(content: Any, where: str) -> Iterator[str]:
    """Numbers that are none, which every bound of a schema lets pass."""
    if isinstance(content, dict | list):
        parts = content.items() if isinstance(content, dict) else enumerate(content)
        for key, part in parts:
            yield from _not_finite(part, f"{where}.{key}")
    elif isinstance(content, float) and not math.isfinite(content):
        yield _problem(f"{where}: not allowed", content, "a finite number", "correct the value")


def _explain(where: str, error: Any) -> str:
    """One schema violation as what, got, expected and what to do."""
    rule, value = error.validator, error.validator_value
    if rule == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        extra = [_near(str(key), known) for key in error.instance if key not in known]
        return _problem(
            f"{where}: unknown key(s)", ", ".join(extra), ", ".join(known), "correct or remove them"
        )
    if rule == "required":
        missing = ", ".join(key for key in value if key not in error.instance)
        held = ", ".join(map(str, error.instance)) or "nothing"
        return _problem(f"{where}: missing key(s)", held, f"{missing} as well", "add them")
    if rule == "pattern":
        return _problem(
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
    return _problem(f"{where}: not allowed", _short(error.instance), expected, "correct the value")


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


def read_table(
    path: str, schema: dict[str, Any], errors: list[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of the adapters table with their line numbers; what is wrong is added to `errors`."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        errors.append(
            _problem(
                f"{path}: cannot be read",
                error,
                "a tab-separated table",
                "correct `adapters` in config.yaml",
            )
        )
        return
    header = tuple(lines[0].split("\t")) if lines else ()
    if header != COLUMNS:
        expected = f"{', '.join(COLUMNS)}, tab-separated"
        errors.append(
            _problem(f"{path}, line 1: wrong columns", ", ".join(header), expected, "repair it")
        )
        return
    validator = Draft202012Validator(schema)
    names = {
        key: re.compile(part["pattern"])
        for key, part in schema["properties"].items()
        if "pattern" in part
    }
    for number, line in enumerate(lines[1:], 2):
        cells = line.split("\t")
        where = f"{path}, line {number}"
        if not any(cells) or cells[0].startswith("#"):
            continue
        if len(cells) > len(COLUMNS):
            todo = "put one tab between two cells"
            errors.append(_problem(f"{where}: too many columns", len(cells), len(COLUMNS), todo))
            continue
        row = dict(zip(COLUMNS, [*cells, *[""] * (len(COLUMNS) - len(cells))], strict=True))
        fits = all(pattern.search(row[key]) for key, pattern in names.items())  # fast for 10⁵ rows
        if not fits and len(errors) >= SHOWN:
            errors.append(where)
            continue
        found = () if fits else validator.iter_errors(row)
        wrong = [_explain(f"{where}, {e.json_path[2:]}", e) for e in found]
        errors += wrong
        if not wrong:
            yield number, row


def _unknown(where: str, name: str, known: Collection[str]) -> str:
    """Names that must exist elsewhere but don't."""
    return _problem(
        f"{where}: no such name",
        _near(name, list(known)),
        f"one of {', '.join(known) or 'none'}",
        "correct it or add the entry",
    )


def _cross_errors(config: Config) -> Iterator[str]:
    """What a schema can't say: names that must exist elsewhere, and reserved ones."""
    content = config.content
    yield from _brace_errors(config)
    yield from _pair_errors(config)
    for name in content["run"]:
        if name not in content["pairs"]:
            yield _unknown("config.run", name, content["pairs"])
    choices = [*methods.names(), *content["variants"]]
    if content["transfer"]["method"] not in choices:
        yield _unknown("config.transfer.method", content["transfer"]["method"], choices)
    for name, variant in content["variants"].items():
        where = f"config.variants.{name}"
        if variant["method"] not in methods.names():
            yield _unknown(f"{where}.method", variant["method"], methods.names())
        if name in methods.names():
            yield _problem(f"{where}: a method has that name", todo="choose another")
        if name in RESERVED_VARIANTS:
            yield _problem(f"{where}: the name is reserved", todo="choose another")
        for key in OF_ALL:
            if key in variant.get("transfer", {}):
                todo = "remove it; it is said beside, or once for all in config.transfer"
                yield _problem(f"{where}.transfer.{key}: no variant has its own", todo=todo)
    yield from _merge_errors(config)
    yield from _adapter_errors(config)


def _brace_errors(config: Config) -> Iterator[str]:
    """Paths with braces, which Snakemake would take for wildcards."""
    content = config.content
    paths = {f"config.models.{name}.source": m["source"] for name, m in content["models"].items()}
    paths |= {f"config.models.{n}.texts": m.get("texts") for n, m in content["models"].items()}
    paths["config.calibration.texts"] = content["calibration"].get("texts")
    paths |= {f"config.tasks.{n}.train": task["train"] for n, task in content["tasks"].items()}
    paths |= {
        f"{content['adapters']}, app {app!r} of model {model!r}, source": row["source"]
        for (app, model), row in config.adapters.items()
    }
    for where, path in paths.items():
        if isinstance(path, str) and ("{" in path or "}" in path):
            yield _problem(f"{where}: holds braces", path, "a path without { and }", "rename it")


def _pair_errors(config: Config) -> Iterator[str]:
    models = config.content["models"]
    for name, pair in config.content["pairs"].items():
        where = f"config.pairs.{name}"
        missing = [side for side in ("old", "new") if pair[side] not in models]
        if name in RESERVED_PAIRS:
            yield _problem(f"{where}: the name is reserved", todo="choose another")
        for side in missing:
            yield _unknown(f"{where}.{side}", pair[side], models)
        if not missing and None in (config.texts(pair["old"]), config.texts(pair["new"])):
            yield _problem(
                f"{where}: there are no texts for its models to read",
                expected="calibration.texts, or `texts` in both models' entries",
                todo="name a text file or a data set",
            )
        elif not missing and config.texts(pair["old"]) != config.texts(pair["new"]):
            yield _problem(
                f"{where}: its models read different calibration texts",
                f"{config.texts(pair['old'])} and {config.texts(pair['new'])}",
                "the same `texts` in both models' entries, or in neither",
                "make them equal",
            )


def _merge_errors(config: Config) -> Iterator[str]:
    apps = {app for app, _ in config.adapters}
    for name, merge in config.content["merges"].items():
        where = f"config.merges.{name}"
        if name in apps or name in RESERVED_APPS:
            yield _problem(f"{where}: the name is reserved or an app's", todo="choose another")
        if merge["weights"] and len(merge["weights"]) != len(merge["apps"]):
            got = f"{len(merge['weights'])} weights for {len(merge['apps'])} apps"
            yield _problem(f"{where}.weights: not one an app", got, todo="correct them")


def _adapter_errors(config: Config) -> Iterator[str]:
    for (app, model), row in config.adapters.items():
        where = f"{config.content['adapters']}, app {app!r} of model {model!r}"
        if app in RESERVED_APPS:
            yield _problem(f"{where}: the app's name is reserved", todo="choose another")
        if model not in config.content["models"]:
            yield _unknown(f"{where}: model", model, config.content["models"])
        if row["task"] and row["task"] not in config.content["tasks"]:
            yield _unknown(f"{where}: task", row["task"], config.content["tasks"])
        if not row["source"] and not row["task"]:
            yield _problem(
                f"{where}: neither source nor task",
                expected="a PEFT directory to carry, or a task to train it on",
                todo="fill in one of them",
            )
