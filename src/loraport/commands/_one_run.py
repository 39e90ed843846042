"""Adapters carried by one command: the workflow, run with a configuration made for them.

The folder keeps the artifacts, so that a second adapter of the same models takes seconds.
"""

import csv
import importlib.util
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..artifacts import atomic
from ..errors import LoraportError
from ..models.spec import is_local, resolve
from ..planning import layout
from ._names import distinct_names, shortened
from ._snakemake import command_line, execute
from ._words import in_flags

PACKAGE = Path(__file__).parents[1]
CARRYING = 8  # threads, at most, of the transfer of one adapter
ROOTS = (PACKAGE.parents[1], PACKAGE / "_workflow")  # a checkout; an installed package


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes
    ----------
    old, new : directories or hub ids
    adapters : PEFT directories
    outs : where the carried ones go, one each
    method : a transfer method
    merged : dtype of a merged model for each adapter, or none
    texts : a file of calibration texts; empty: those of the shipped configuration
    known_as : further names of the old model, as adapters may record it
    settings : `section.key=value`, over the shipped defaults
    allow_large : write updates that are many times their weight as well
    work : folder whose `artifacts/` are used again
    cores : for the workflow
    configs : further configuration files, under what the command itself says
    profile : of Snakemake, for other executors than this machine
    """

    old: str
    new: str
    adapters: tuple[Path, ...]
    outs: tuple[Path, ...]
    method: str = "lorasuite"
    merged: str = ""
    texts: str = ""
    known_as: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    allow_large: bool = False
    work: Path = Path()
    cores: int = 2
    configs: tuple[Path, ...] = ()
    profile: str = ""

    @property
    def models(self) -> dict[str, str]:
        """`old` and `new` -> name of the model in the workflow."""
        old, new = (plain_name(source) for source in (self.old, self.new))
        return {"old": old, "new": f"{new}_new" if new == old else new}

    @property
    def pair(self) -> str:
        """Name of the pair in the workflow."""
        return "{old}_to_{new}".format(**self.models)

    @property
    def apps(self) -> list[str]:
        """Name of each adapter in the workflow: the last parts of its path that tell it apart."""
        return distinct_names(self.adapters, layout.RESERVED_APPS)

    @property
    def carrying(self) -> int:
        """Threads that carry a single adapter."""
        return min(self.cores, CARRYING)

    def results(self) -> list[Path]:
        """What the workflow makes for each adapter, below the folder."""
        names = {"pair": self.pair, "method": self.method}
        folders = (Path(layout.path(layout.BY_METHOD, app=app, **names)) for app in self.apps)
        return [folder / layout.TRANSFERRED for folder in folders]


def plain_name(source: str) -> str:
    """A name that the workflow takes, from the last part of a path or hub id; long ones are cut.

    Of a folder in the hub's cache, which is named by a commit, it is the model's.
    """
    source = str(Path(source).resolve()) if is_local(source) else source
    last = re.search(r"models--(?:[^/]+--)?([^/]+?)/snapshots/[^/]+$", source)
    name = last[1] if last else Path(source).name
    kept = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).lstrip("_.-") or "model"
    return shortened(kept)


def workflow_root() -> Path:
    """Folder of the Snakefile: the checkout's, or the one that the installed package brings."""
    for root in ROOTS:
        if (root / "Snakefile").is_file() and (root / "workflow" / "scripts").is_dir():
            return root
    raise LoraportError(
        "the workflow that belongs to this package is not there",
        got=f"no Snakefile in {' or '.join(map(str, ROOTS))}",
        expected="a checkout of the project, or a wheel that was built from one",
        todo="install it from a checkout: pip install '.[workflow]'",
    )


def configuration(request: Request, root: Path, table: Path) -> dict[str, Any]:
    """Content of config.yaml; what is not said is as shipped."""
    shipped = yaml.safe_load((root / "config" / "config.yaml").read_text())
    texts = str(Path(request.texts).resolve()) if request.texts else shipped["calibration"]["texts"]
    sources = {"old": request.old, "new": request.new}
    models: dict[str, Any] = {
        request.models[side]: {
            "source": str(Path(source).resolve()) if is_local(source) else source
        }
        for side, source in sources.items()
    }
    models[request.models["old"]]["known_as"] = sorted({request.old, *request.known_as})
    content: dict[str, Any] = {
        "models": models,
        "pairs": {request.pair: dict(request.models)},
        "run": [],
        "adapters": str(table),
        "calibration": {"texts": texts},
        "transfer": {"method": request.method, "merged_model": request.merged or "none"},
    }
    if request.allow_large:
        content["transfer"]["allow_large"] = True
    for setting in request.settings:
        _set(content, setting)
    return content


def _set(content: dict[str, Any], setting: str) -> None:
    path, equals, value = setting.partition("=")
    keys = path.split(".")
    if not equals or len(keys) < 2 or not all(keys):
        raise LoraportError(
            "a setting can't be read",
            got=setting,
            expected="section.key=value, such as transfer.scale=norm",
            todo="see config/config.yaml for the sections and their keys",
        )
    for key in keys[:-1]:
        content = content.setdefault(key, {})
    content[keys[-1]] = yaml.safe_load(value)


def check_outs(outs: Sequence[Path]) -> None:
    """Refuse to write over something."""
    for out in outs:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise LoraportError(
                f"{out} is there already",
                got="a file, or a folder that is not empty",
                expected="a new folder for the carried adapter",
                todo="name another one, or remove it",
            )


def _check_there(source: str) -> None:
    """Refuse a model's folder that is not there; no config.yaml is spoken of, also from Python."""
    try:
        resolve(source)
    except LoraportError as error:
        raise LoraportError(in_flags(str(error))) from error


def run(request: Request) -> list[Path]:
    """Carry the adapters.

    Returns
    -------
    the workflow's own results, whose logs lie beside them; copies are in `request.outs`

    Raises
    ------
    LoraportError
        With the workflow's own words where it fails, and where its log is.
    """
    check_outs(request.outs)
    for source in (request.old, request.new):
        if is_local(source):
            _check_there(source)
    for adapter in request.adapters:
        if not adapter.is_dir():
            raise LoraportError(
                f"adapter {adapter} is not there",
                got="no such directory",
                expected="a PEFT directory",
                todo="correct its path",
            )
    root = workflow_root()
    if importlib.util.find_spec("snakemake") is None:
        raise LoraportError(
            "Snakemake, which runs the workflow, is not installed",
            expected="the packages of the extra `workflow`",
            todo="pip install 'loraport[workflow]'",
        )
    work = request.work.resolve()
    home = work / layout.home(request.pair) / "logs"
    home.mkdir(parents=True, exist_ok=True)
    table, config = home / "adapters.tsv", home / "config.yaml"
    write_table(table, request)
    config.write_text(yaml.safe_dump(configuration(request, root, table), sort_keys=False))
    targets = [str(result) for result in request.results()]
    if request.merged:
        targets += [str(result.with_name(layout.MODEL_MERGED)) for result in request.results()]
    configs = [path.resolve() for path in (*request.configs, config)]
    snakefile = root / "workflow" / "given_config.smk"
    command = command_line(snakefile, work, configs, request.cores, request.profile)
    if len(request.adapters) == 1 and not request.profile:  # many share the cores among them
        command += ["--set-threads", f"transferred_by_method={request.carrying}"]
    execute([*command, "--", *targets], work, home / "workflow.log")
    results = [work / result for result in request.results()]
    for result, out in zip(results, request.outs, strict=True):
        with atomic(out) as copy:
            shutil.copytree(result, copy, ignore=shutil.ignore_patterns(".snakemake_timestamp"))
    return results


def write_table(path: Path, request: Request) -> None:
    """The adapters table of a request."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["app", "model", "source", "task"])
        for app, adapter in zip(request.apps, request.adapters, strict=True):
            writer.writerow([app, request.models["old"], str(adapter.resolve()), ""])
