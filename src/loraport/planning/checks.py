"""The configuration as it is loaded: validated at once, with every error told together."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import methods
from ..errors import LoraportError
from ..training.data import TEMPLATES
from ..training.watched import KNOWN, NONE, is_installed
from .adapters_table import ERRORS_SHOWN, read_table
from .config_paths import beside, rebased
from .layout import RESERVED_APPS, RESERVED_PAIRS, RESERVED_VARIANTS
from .queries import SAME_FOR_ALL, Config, near_to
from .schema import complete, not_finite, problem, read_schema, schema_errors
from .tasks import AUTO, settings_errors


def load(content: Mapping[str, Any], schemas: str | Path, workflow: Any = None) -> Config:
    """Validate a configuration and the table that it names.

    Parameters
    ----------
    content : what the YAML files and the command line add up to
    schemas : folder of config.schema.json and adapters.schema.json
    workflow : Snakemake's, whose configuration files paths may be relative to

    Raises
    ------
    LoraportError
        With every error at once: what, got, expected and what to do, one a line.
    """
    schema = read_schema(schemas, "config")
    if workflow is not None:  # those of the command line win
        on_top = workflow.overwrite_configfiles
        content = rebased(content, sorted(workflow.configfiles, key=on_top.__contains__))
    filled = complete(schema, dict(content), schema["$defs"])
    errors = [*schema_errors(schema, filled, "config"), *not_finite(filled, "config")]
    if errors:
        _give_up(errors)
    rows = list(read_table(filled["adapters"], read_schema(schemas, "adapters"), errors))
    adapters: dict[tuple[str, str], dict[str, str]] = {}
    for number, row in rows:
        key = (row["app"], row["model"])
        if key in adapters:
            where = f"{filled['adapters']}, line {number}"
            errors.append(problem(f"{where}: a second row for {key}", todo="keep one of them"))
        adapters[key] = {**row, "source": beside(row["source"], Path(filled["adapters"]).parent)}
    config = Config(filled, adapters)
    errors += _cross_errors(config)
    if errors:
        _give_up(errors)
    return config


def _give_up(errors: list[str]) -> None:
    shown = "\n".join(f"- {error}" for error in errors[:ERRORS_SHOWN])
    more = f"\n(and {len(errors) - ERRORS_SHOWN} more)" if len(errors) > ERRORS_SHOWN else ""
    raise LoraportError(f"the configuration has {len(errors)} error(s):\n{shown}{more}")


def _unknown(where: str, name: str, known: Collection[str]) -> str:
    """Names that must exist elsewhere but don't."""
    return problem(
        f"{where}: no such name",
        near_to(name, list(known)),
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
    if content["transfer"]["method"] not in (*methods.names(), *content["variants"]):
        choices = [*methods.offered(), *content["variants"]]
        yield _unknown("config.transfer.method", content["transfer"]["method"], choices)
    for name, variant in content["variants"].items():
        where = f"config.variants.{name}"
        if variant["method"] not in methods.names():
            yield _unknown(f"{where}.method", variant["method"], methods.offered())
        if name in methods.names():
            yield problem(f"{where}: a method has that name", todo="choose another")
        if name in RESERVED_VARIANTS:
            yield problem(f"{where}: the name is reserved", todo="choose another")
        for key in SAME_FOR_ALL:
            if key in variant.get("transfer", {}):
                todo = "remove it; it is said beside, or once for all in config.transfer"
                yield problem(f"{where}.transfer.{key}: no variant has its own", todo=todo)
    yield from _merge_errors(config)
    yield from _adapter_errors(config)
    yield from _training_errors(config)
    yield from _task_errors(config)


def _brace_errors(config: Config) -> Iterator[str]:
    """Paths with braces, which Snakemake would take for wildcards."""
    content = config.content
    paths = {f"config.models.{name}.source": m["source"] for name, m in content["models"].items()}
    paths |= {f"config.models.{n}.texts": m.get("texts") for n, m in content["models"].items()}
    paths["config.calibration.texts"] = content["calibration"].get("texts")
    paths |= {
        f"config.tasks.{name}.{key}": task[key]
        for name, task in content["tasks"].items()
        for key in ("train", "test", "score")
    }
    paths |= {
        f"{content['adapters']}, app {app!r} of model {model!r}, source": row["source"]
        for (app, model), row in config.adapters.items()
    }
    for where, path in paths.items():
        if isinstance(path, str) and ("{" in path or "}" in path):
            yield problem(f"{where}: holds braces", path, "a path without { and }", "rename it")


def _pair_errors(config: Config) -> Iterator[str]:
    models = config.content["models"]
    for name, pair in config.content["pairs"].items():
        where = f"config.pairs.{name}"
        missing = [side for side in ("old", "new") if pair[side] not in models]
        if name in RESERVED_PAIRS:
            yield problem(f"{where}: the name is reserved", todo="choose another")
        for side in missing:
            yield _unknown(f"{where}.{side}", pair[side], models)
        if not missing and None in (config.texts(pair["old"]), config.texts(pair["new"])):
            yield problem(
                f"{where}: there are no texts for its models to read",
                expected="calibration.texts, or `texts` in both models' entries",
                todo="name a text file or a data set",
            )
        elif not missing and config.texts(pair["old"]) != config.texts(pair["new"]):
            yield problem(
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
            yield problem(f"{where}: the name is reserved or an app's", todo="choose another")
        if merge["weights"] and len(merge["weights"]) != len(merge["apps"]):
            got = f"{len(merge['weights'])} weights for {len(merge['apps'])} apps"
            yield problem(f"{where}.weights: not one an app", got, todo="correct them")


def _adapter_errors(config: Config) -> Iterator[str]:
    for (app, model), row in config.adapters.items():
        where = f"{config.content['adapters']}, app {app!r} of model {model!r}"
        if app in RESERVED_APPS:
            yield problem(f"{where}: the app's name is reserved", todo="choose another")
        if model not in config.content["models"]:
            yield _unknown(f"{where}: model", model, config.content["models"])
        if row["task"] and row["task"] not in config.content["tasks"]:
            yield _unknown(f"{where}: task", row["task"], config.content["tasks"])
        if not row["source"] and not row["task"]:
            yield problem(
                f"{where}: neither source nor task",
                expected="a PEFT directory to carry, or a task to train it on",
                todo="fill in one of them",
            )


def _training_errors(config: Config) -> Iterator[str]:
    """Logs that can't be written; steps that can't be made of whole micro-batches."""
    place = config.content["finetune"]["report_to"]
    if place != NONE and not is_installed(place):
        yield problem(
            "config.finetune.report_to: its package is not installed",
            place,
            f"{NONE}, or one that is here of {', '.join(KNOWN)}",
            f"pip install {place}, or set it to {NONE}",
        )
    for kind in ("lft", "small", "full"):
        settings = {**config.content["finetune"], **config.content["finetune"].get(kind, {})}
        batch, micro = settings["batch_size"], settings["micro_batch"]
        if micro and batch % micro:
            where = "config.finetune" if kind == "lft" else f"config.finetune.{kind}"
            yield problem(
                f"{where}: `batch_size` is not a multiple of `micro_batch`",
                f"{batch} and {micro}",
                "a whole number of micro-batches a step",
                "correct one of them",
            )


def _task_errors(config: Config) -> Iterator[str]:
    """Templates that no record could be put into."""
    for name, task in config.content["tasks"].items():
        template = task["template"]
        yield from settings_errors(name, task)
        if template not in ("plain", AUTO) and template not in TEMPLATES and "{" not in template:
            yield problem(
                f"config.tasks.{name}.template: there is no such template",
                near_to(template, [AUTO, "plain", *TEMPLATES]),
                f"{AUTO}, plain, {', '.join(TEMPLATES)}, or text with fields in braces",
                "correct it",
            )
