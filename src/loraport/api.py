"""loraport from Python: `loraport.inspect` and `loraport.transfer`.

    import loraport

    print(loraport.inspect("tickets"))
    carried = loraport.transfer("old/", "new/", "tickets", "carried", method="aligned")

Maps of a pair are made once, in a cache folder and by the workflow, which needs Snakemake
(`pip install 'loraport[workflow]'`). Where they are at hand, neither Snakemake nor a base model is
read. What goes wrong is a `LoraportError`.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .adapters.files import Adapter
from .adapters.kinds import kind_of
from .artifacts import atomic, identities, read_json
from .commands import _one_run
from .errors import LoraportError
from .models.spec import adapter_directory, is_local, load_spec
from .planning import checks, layout, preflight
from .planning.lookups import Lookups
from .planning.prospect import look_at
from .provenance import code_hash
from .transfer.files import transfer_files

CACHE = "LORAPORT_CACHE"  # of the environment: the folder of maps


@dataclass(frozen=True)
class Modules:
    """The modules of one name in an adapter.

    Attributes
    ----------
    name : such as `q_proj`
    count : layers that have it
    ranks : every rank that occurs
    shape : (outputs, inputs) of the weight that is changed; where layers differ, of the first one
    norms : least and greatest Frobenius norm of the update
    """

    name: str
    count: int
    ranks: tuple[int, ...]
    shape: tuple[int, int]
    norms: tuple[float, float]


@dataclass(frozen=True)
class Inspection:
    """What an adapter is.

    Attributes
    ----------
    kind : `lora`, `rslora`, `dora`, …
    base, revision : as the adapter records them; empty where it does not
    modules : a row for each name of a module
    whole : name -> shape of each tensor that stands in for the base's own
    warnings : what was noticed
    carried : where a new model was named: `copied or by maps`, `by maps`, or `no`; else empty
    refused : why it can't be carried, all reasons
    left : what of it will not be carried
    """

    kind: str
    base: str
    revision: str
    modules: tuple[Modules, ...]
    whole: Mapping[str, tuple[int, ...]]
    warnings: tuple[str, ...]
    carried: str = ""
    refused: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class Carried:
    """A carried adapter.

    Attributes
    ----------
    directory : in PEFT's format, for the new model
    report : content of its transfer.json: what was carried from where, with norms and hashes
    """

    directory: Path
    report: Mapping[str, Any]


def inspect(
    adapter: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] = "",
    to: str | os.PathLike[str] = "",
) -> Inspection:
    """Read an adapter, and audit it where its base is at hand.

    Parameters
    ----------
    adapter : a PEFT directory, or an adapter of the hub (owner/name, owner/name@revision)
    base : its base model, a directory or a hub id; else what it records
    to : a new model, a directory or a hub id: can it be carried there, how, and what is left

    Raises
    ------
    LoraportError
        If it can't be read, or does not fit a base that is named. That it can't be carried to a
        model is no error: `carried` is `no` then, and `refused` says why.
    """
    seen = look_at(os.fspath(adapter), os.fspath(base), os.fspath(to))
    told = seen.prospect
    if base and not to and told.refused:
        raise LoraportError(told.refused[0])
    return replace(
        inspection(seen.adapter),
        warnings=tuple(told.notes),
        carried=told.how if to else "",
        refused=tuple(told.refused),
        left=tuple(told.left),
    )


def inspection(adapter: Adapter) -> Inspection:
    """What an adapter is that was read."""
    config = adapter.config
    kind = kind_of(config, adapter.directory).__name__.rpartition(".")[2]
    by_name: dict[str, list[Any]] = {}
    for path, weights in adapter.modules.items():
        by_name.setdefault(path.rpartition(".")[2], []).append(weights)
    return Inspection(
        kind="rslora" if kind == "lora" and config.get("use_rslora") else kind,
        base=str(config.get("base_model_name_or_path") or ""),
        revision=str(config.get("revision") or ""),
        modules=tuple(_modules(name, held) for name, held in sorted(by_name.items())),
        whole={name: values.shape for name, values in adapter.saved.items()},
        warnings=tuple(adapter.warnings),
    )


def _modules(name: str, held: Sequence[Any]) -> Modules:
    norms = sorted(float(weights.norm()) for weights in held)
    return Modules(
        name=name,
        count=len(held),
        ranks=tuple(sorted({weights.rank for weights in held})),
        shape=(held[0].b.shape[0], held[0].a.shape[1]),
        norms=(norms[0], norms[-1]),
    )


def transfer(
    old: str | os.PathLike[str],
    new: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    method: str = "lorasuite",
    texts: str | os.PathLike[str] = "",
    known_as: Sequence[str] = (),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    cache: str | os.PathLike[str] = "",
    cores: int = 0,
) -> Carried:
    """Carry an adapter of an old model to a new one.

    Parameters
    ----------
    old, new : directories or hub ids
    adapter : a PEFT directory, or an adapter of the hub
    out : a new folder
    method : a transfer method
    texts : a file of calibration texts, one a line, that both models read; else Wikitext-2.
        `upgrade` calls it `calibration`
    known_as : further names under which the adapter may record the old model
    settings : over those of config.yaml, as `{"transfer": {"scale": "norm"}}`
    cache : folder of maps; else $LORAPORT_CACHE, or loraport/ in the user's cache folder
    cores : for making maps, and up to eight for carrying; 0: all

    Raises
    ------
    LoraportError
        If something can't be carried, `out` is there already, or maps have to be made and
        Snakemake is not installed.
    """
    request = _one_run.Request(
        old=os.fspath(old),
        new=os.fspath(new),
        adapters=(Path(adapter_directory(os.fspath(adapter))),),
        outs=(Path(out),),
        method=method,
        texts=os.fspath(texts),
        known_as=tuple(known_as),
        settings=tuple(
            f"{section}.{key}={json.dumps(value)}"
            for section, part in (settings or {}).items()
            for key, value in part.items()
        ),
        work=Path(cache or _cache()),
        cores=cores or os.cpu_count() or 1,
    )
    _one_run.check_outs(request.outs)
    root = _one_run.workflow_root()
    look, names = _lookups(request, root)
    stamp = _stamp(request, look)
    if _are_at_hand(request, look, names, stamp):
        _carry(request, look, names)
    else:
        _one_run.run(request)
        _stamp_file(request).write_text(json.dumps(stamp))
    return Carried(Path(out), read_json(Path(out) / "transfer.json", "transfer"))


def _cache() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(CACHE) or home / "loraport")


def _lookups(request: _one_run.Request, root: Path) -> tuple[Lookups, Any]:
    """The look-ups of the configuration that the workflow would run with, and the wildcards."""
    home = request.work.resolve() / layout.home(request.pair) / "logs"
    home.mkdir(parents=True, exist_ok=True)
    table = home / "adapters.tsv"
    _one_run.write_table(table, request)
    content = _one_run.configuration(request, root, table)
    config = checks.load(content, root / "workflow" / "schemas")
    names = SimpleNamespace(pair=request.pair, app=request.apps[0], method=request.method)
    return Lookups(config, given=str, source=root.joinpath), names


def _stamp(request: _one_run.Request, look: Lookups) -> dict[str, Any]:
    """What the maps depend on beside the models, whose specs name their files."""
    content = look.config.content
    texts = look.config.texts(request.models["old"])
    return {
        "texts": preflight.texts_version(texts),
        "calibration": {
            key: value for key, value in content["calibration"].items() if key != "texts"
        },
        "mapping": content["mapping"],
        "code": code_hash(f"methods.{look.config.method(request.method)}"),
    }


def _stamp_file(request: _one_run.Request) -> Path:
    home = request.work.resolve() / layout.home(request.pair)
    return home / "logs" / f"{request.method}.made_with.json"


def _files(request: _one_run.Request, look: Lookups, names: Any) -> dict[str, Path]:
    """Specs, maps and what else a transfer reads, in the cache folder."""
    work = request.work.resolve()
    inputs = {**look.transfer_inputs(names), **look.other_inputs(names)}
    return {key: work / str(path) for key, path in inputs.items() if key != "adapter"}


def _are_at_hand(
    request: _one_run.Request, look: Lookups, names: Any, stamp: Mapping[str, Any]
) -> bool:
    """Whether the maps are there, made with these settings and from the models as they are."""
    try:
        if json.loads(_stamp_file(request).read_text()) != json.loads(json.dumps(stamp)):
            return False
        files = _files(request, look, names)
        for side in ("old", "new"):
            source = getattr(request, side)
            there = is_local(source) and Path(source).is_dir()
            load_spec(files[f"{side}_spec"], source if there else "", streamed=True)
        return all(path.is_file() for path in files.values())
    except (OSError, ValueError, LoraportError):
        return False


def _carry(request: _one_run.Request, look: Lookups, names: Any) -> None:
    """What the rule `transferred` does, with the same settings and words."""
    files = {key: str(path) for key, path in _files(request, look, names).items()}
    with atomic(request.outs[0]) as folder:
        folder.mkdir()
        params = look.transfer_params(names)
        carried = request.adapters[0], files, identities(files), folder, params
        transfer_files(*carried, workers=request.carrying)


__all__ = ["Carried", "Inspection", "LoraportError", "Modules", "inspect", "transfer"]
