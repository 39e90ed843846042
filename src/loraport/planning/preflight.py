"""Checks that need no work: done while the workflow is planned, before any rule runs."""

import json
import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from .. import methods
from ..adapters import experts
from ..adapters.audit import audit
from ..adapters.files import read_adapter, read_config
from ..artifacts import ADAPTER_CONFIG, ADAPTER_FILES, ADAPTER_WEIGHTS, sha256
from ..calibration.texts import read_texts
from ..errors import LoraportError
from ..models.families import Dimensions
from ..models.folder import weight_files
from ..models.identity import folder_at_hand, why_same
from ..models.spec import check_shapes, is_local, open_model, resolve
from . import layout
from .prospect import Prospect, config_at_hand, prospect, tokens_at_hand

ModelAt = tuple[str, str]  # where a model is, and the revision that is asked for
# wildcards that stand in words
AS_WRITTEN = {"pair": "{pair}", "app": "{app}", "method": "{method}"}


def check_writable(paths: Iterable[str | Path]) -> None:
    """Refuse paths that this user may not make; what is there on the way to them is asked.

    A link to nowhere is there, and nothing can be written in it.
    """
    first: dict[Path, Path] = {}
    for path in (Path(each).absolute() for each in paths):
        first.setdefault(path.parent, path)
    for parent, path in first.items():
        place = next(each for each in (parent, *parent.parents) if os.path.lexists(each))
        if not os.access(place, os.W_OK | os.X_OK):
            raise LoraportError(
                f"{path} cannot be written",
                got=f"no right to write in {place}, or a read-only disk",
                expected="a working directory and an artifacts/ in it that this user may write",
                todo="give the right to it, or run in a folder of your own: docs/sharing.md says "
                "how to use what others have made",
            )


def is_reachable(entry: Mapping[str, Any]) -> bool:
    """Whether a model's source is on the hub or lies on this disk."""
    return not is_local(entry["source"]) or Path(entry["source"]).is_dir()


def check_place(method: str, *, own: bool) -> None:
    """Refuse maps that a method does not have: of one adapter (`own`), or of a whole pair."""
    if methods.per_adapter(method) != own:
        places = {True: layout.ADAPTER_MAPS, False: layout.MAPS}
        asked, right = (layout.path(places[each], **AS_WRITTEN) for each in (own, not own))
        raise LoraportError(
            f"maps of method {method!r} have another place",
            got=asked,
            expected=f"{right}: they serve {'all adapters' if own else 'one adapter'}",
            todo="ask for them there",
        )


@cache
def local_files(source: str) -> list[str]:
    """Config, tokenizer and weight files of a local model; none for a hub id or a missing one."""
    path = Path(source)
    if not is_local(source) or not path.is_dir():
        return []
    patterns = ("*.json", "*.tiktoken", "tokenizer.model")
    beside = [file for pattern in patterns for file in sorted(path.glob(pattern))]
    beside = [file for file in beside if file.name not in ADAPTER_FILES]
    return [str(file) for file in (*beside, *weight_files(path))]


@cache
def dimensions(source: str) -> Dimensions | None:
    """Sizes of a local model by its config.json; None for one of the hub."""
    return open_model(resolve(source)[0]).dims if is_local(source) else None


@cache
def check_model(source: str) -> None:
    """Refuse a local model that can't be mapped: by its config and the headers of its weights."""
    if is_local(source):
        directory, _ = resolve(source)
        check_shapes(open_model(directory))


_config_at_hand, _tokens_at_hand = cache(config_at_hand), cache(tokens_at_hand)


@cache
def _audited(directory: str, model: str, revision: str, known_as: tuple[str, ...]) -> None:
    adapter = read_adapter(directory)
    base = _config_at_hand(model, revision)
    if base is not None:
        family, dims = base.architecture, base.dims
        audit(adapter, family, dims, known_as, vocabulary=True, experts=True, partly=True)


def check_adapter(directory: str, model: str, known_as: list[str], revision: str = "") -> None:
    """Read an adapter and audit it against its base's dimensions, where the base's config.json is
    here or on the hub.
    """
    _audited(directory, model, revision, tuple(known_as))


def refused_together(refused: Mapping[str, list[str]]) -> LoraportError:
    """One error for all that stands against adapters: the reasons of each, in a list."""
    reasons = [why for every in refused.values() for why in every]
    if len(reasons) == 1:
        return LoraportError(reasons[0])
    shown = "\n".join(f"- {why}" for why in reasons)
    which = "an adapter" if len(refused) == 1 else f"{len(refused)} adapters"
    return LoraportError(f"{which} can't be carried, for {len(reasons)} reasons:\n{shown}")


@cache
def told_of_transfer(
    directory: str, old: ModelAt, new: ModelAt, known_as: tuple[str, ...]
) -> Prospect:
    """What both configs, both tokenizers and an adapter's tensors tell of carrying it.

    Raises
    ------
    LoraportError
        For a config that can't be used.
    """
    models = _config_at_hand(*old), _config_at_hand(*new)
    return prospect(
        directory, *models, known_as, lambda: (_tokens_at_hand(*old), _tokens_at_hand(*new))
    )


@cache
def recorded_names(directory: str, model: str) -> tuple[str, ...]:
    """The base that an adapter records, where its folder is at hand and holds the same model."""
    recorded = read_config(Path(directory)).get("base_model_name_or_path")
    if not isinstance(recorded, str) or not recorded:
        return ()
    base, other = folder_at_hand(model), folder_at_hand(recorded)
    return (recorded,) if base and other and why_same(other, base) else ()


@cache
def adapts_vocabulary(directory: str) -> bool:
    """Whether an adapter adapts an embedding or a head, a module of no decoder block, or holds one
    whole: a matrix.
    """
    adapter = read_adapter(directory)
    whole = any(v.ndim == 2 for v in (*adapter.saved.values(), *adapter.tables.values()))
    blocks = (any(part.isdigit() for part in path.split(".")) for path in adapter.modules)
    return whole or not all(blocks)


@cache
def adapts_experts(directory: str) -> bool:
    """Whether an adapter adapts experts of a mixture, or its router."""
    return experts.adapts_experts(read_adapter(directory).modules)


def check_experts_method(method: str) -> None:
    """Refuse a method whose maps are one adapter's own for an adapter of experts: it runs the old
    model with what it carries, and it carries no experts.
    """
    if methods.per_adapter(method):
        raise LoraportError(
            f"method {method!r} does not carry adapters of experts",
            got="an adapter that adapts experts",
            expected="a method whose maps serve all adapters of a pair, such as aligned",
            todo="choose another method",
        )


@cache
def whole_tables(directory: str, rows: int) -> tuple[int, int]:
    """Numbers in an adapter's tables of the vocabulary, and in those of them that will be written
    for a model of so many rows.
    """
    adapter = read_adapter(directory)
    tables = [values for values in adapter.saved.values() if values.ndim == 2]
    held = sum(values.size for values in (*tables, *adapter.tables.values()))
    return held, rows * sum(values.shape[1] for values in tables)


def adapter_files(directory: str) -> list[str]:
    """The files of an adapter that a transfer reads."""
    return [str(Path(directory) / name) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)]


@cache
def _file_version(path: str) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise LoraportError(
            f"calibration texts {path!r} cannot be read",
            got=error,
            expected="a UTF-8 text file, one text a line",
            todo="correct calibration.texts",
        ) from error


@cache
def _check_texts(path: str, examples: int) -> None:
    read_texts(path, examples)


def check_texts(texts: Any, examples: int) -> None:
    """Read a calibration file as far as it will be read; a data set is not asked for."""
    if isinstance(texts, str):
        _check_texts(texts, examples)


def texts_version(texts: Any) -> str:
    """SHA-256 of a text file, or what names a data set, as JSON."""
    return _file_version(texts) if isinstance(texts, str) else json.dumps(texts, sort_keys=True)
