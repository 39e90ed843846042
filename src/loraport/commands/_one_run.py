"""Adapters carried by one command: the workflow, run with a configuration made for them.

The folder keeps the artifacts, so that a second adapter of the same models takes seconds.
"""

import csv
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..artifacts import atomic
from ..errors import LoraportError
from ..models.spec import is_local, resolve
from ..planning import layout
from ..runtime.job import progress
from ._names import distinct_names

PACKAGE = Path(__file__).parents[1]
ROOTS = (PACKAGE.parents[1], PACKAGE / "_workflow")  # a checkout; an installed package
STEPS = re.compile(r"(\d+) of (\d+) steps")
TOTAL = re.compile(r"^total\s+(\d+)")
NOISE = re.compile(r"\s*(Using |Building DAG|Assuming |host: |Provided |Job stats|Select jobs)")
ERROR = re.compile(r"\w*(Error|Exception)\b")
RULE = re.compile(r"^(?:local)?rule (\w+):")


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

    def results(self) -> list[Path]:
        """What the workflow makes for each adapter, below the folder."""
        names = {"pair": self.pair, "method": self.method}
        folders = (Path(layout.path(layout.BY_METHOD, app=app, **names)) for app in self.apps)
        return [folder / layout.TRANSFERRED for folder in folders]


def plain_name(source: str) -> str:
    """A name that the workflow takes, from the last part of a path or hub id."""
    source = str(Path(source).resolve()) if is_local(source) else source
    kept = re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(source).name).lstrip("_.-")
    return kept or "model"


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
            resolve(source)
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
    _write_table(table, request)
    config.write_text(yaml.safe_dump(configuration(request, root, table), sort_keys=False))
    targets = [str(result) for result in request.results()]
    if request.merged:
        targets += [str(result.with_name(layout.MODEL_MERGED)) for result in request.results()]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "Snakefile")]
    command += ["--directory", str(work), "--configfile", str(config)]
    command += ["--cores", str(request.cores), "--nocolor", "--rerun-incomplete"]
    command += ["--workflow-profile", "none", "--resources", "gpu=1", "--", *targets]
    _execute(command, home / "workflow.log")
    results = [work / result for result in request.results()]
    for result, out in zip(results, request.outs, strict=True):
        with atomic(out) as copy:
            shutil.copytree(result, copy, ignore=shutil.ignore_patterns(".snakemake_timestamp"))
    return results


def _write_table(path: Path, request: Request) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["app", "model", "source", "task"])
        for app, adapter in zip(request.apps, request.adapters, strict=True):
            writer.writerow([app, request.models["old"], str(adapter.resolve()), ""])


def _execute(command: Sequence[str], log: Path) -> None:
    """Run Snakemake with a progress bar over its steps; all that it says goes to `log`."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        env=environment(os.environ),
    )  # fmt: skip
    assert process.stdout is not None
    lines = []
    with log.open("w") as file, progress(0, "workflow") as bar:
        for line in process.stdout:
            file.write(line)
            lines.append(line.rstrip())
            if match := RULE.match(line):
                bar.set_postfix_str(match[1])
            elif match := TOTAL.match(line):
                bar.total = int(match[1])
            elif match := STEPS.search(line):
                bar.update(int(match[1]) - bar.n)
    if process.wait():
        raise LoraportError(f"{reason(lines)} All that the workflow said is in {log}")


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Of the workflow's processes: they import this very package."""
    paths = [str(PACKAGE.parent), *filter(None, [given.get("PYTHONPATH")])]
    return {**given, "PYTHONPATH": os.pathsep.join(paths), "TOKENIZERS_PARALLELISM": "false"}


def reason(lines: Sequence[str]) -> str:
    """What the workflow said went wrong: its rules' own errors, or else its last paragraph."""
    told = list(dict.fromkeys(_errors_of_rules(lines)))
    if not told:
        kept = [line.strip() for line in lines if line.strip() and not NOISE.match(line)]
        starts = [place for place, line in enumerate(kept) if ERROR.match(line)]
        told = kept[starts[0] :][:12] if starts else kept[-12:]
    return " ".join(told) or "the workflow failed and said nothing."


def _errors_of_rules(lines: Sequence[str]) -> Iterator[str]:
    """What the rules that failed said themselves, as `[rule] what. Got: … What to do: …`."""
    failed = {match[1] for line in lines if (match := re.search(r"Error in rule (\w+)", line))}
    for line in lines:
        match = re.match(r"\[(\w+)\] (.+)", line)
        if match and match[1] in failed and re.search(r"What to do:|Got:|^unexpected ", match[2]):
            yield match[2]
