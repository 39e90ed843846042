"""Whether and how an adapter can be carried to a model, as far as configs and tensors' names tell.

No weight of a base model is read, so that a pair of the hub is told of by two small files.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from ..adapters.audit import audit
from ..adapters.files import Adapter, read_adapter
from ..errors import LoraportError
from ..models.identity import folder_at_hand
from ..models.side import Side
from ..models.spec import Model, open_model, resolve
from ..transfer.modules_to_save import check_saved

COPY, MAPS, NOT = "copied or by maps", "by maps", "no"


@dataclass(frozen=True)
class Prospect:
    """What is known of a transfer before anything runs.

    Attributes
    ----------
    how : `copied or by maps` where every shape is the same, `by maps`, or `no`
    refused : why not, all reasons
    left : what of the adapter will not be carried
    notes : what else was noticed
    """

    how: str
    refused: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def config_at_hand(source: str, revision: str = "") -> Model | None:
    """A model by its config.json, fetched for one of the hub; None where it can't be had.

    Raises
    ------
    LoraportError
        For a config that is there and can't be used.
    """
    folder = None if revision else folder_at_hand(source)
    if folder is None:
        try:
            folder, _ = resolve(source, revision, patterns=["config.json"])
        except LoraportError:
            return None
        if not (folder / "config.json").is_file():
            return None
    return open_model(folder)


def prospect(
    directory: str | Path, old: Model | None, new: Model | None, known_as: Collection[str]
) -> Prospect:
    """What can be told of carrying an adapter from one model to another.

    Parameters
    ----------
    old, new : by their configs; what is None is not asked
    known_as : names under which the adapter may record the old model
    """
    refused: list[str] = []
    try:
        adapter = read_adapter(directory)
    except LoraportError as error:
        return Prospect(NOT, [str(error)])
    places: Collection[tuple[int, str]] = ()
    if old is not None:
        try:
            places = audit(adapter, old.architecture, old.dims, known_as, vocabulary=True)
        except LoraportError as error:
            refused.append(str(error))
    if old is None or new is None:
        return Prospect(NOT if refused else MAPS, refused, [], adapter.warnings)
    sides = Side(old.architecture, old.dims), Side(new.architecture, new.dims)
    try:
        check_saved(adapter, *sides)
    except LoraportError as error:
        refused.append(str(error))
    left, lacking = _left(places, *sides)
    if places and not lacking:
        told = f"{new.architecture.name} has none of the modules that it adapts"
        refused.append(f"adapter {directory} has no place in the new model: {told}.")
    same = old.architecture == new.architecture and _same_sizes(adapter, *sides)
    how = NOT if refused else COPY if same else MAPS
    return Prospect(how, refused, left, adapter.warnings)


def _same_sizes(adapter: Adapter, old: Side, new: Side) -> bool:
    """Whether every module of an adapter has the same shape in both models."""
    if adapter.saved and old.dims.vocabulary != new.dims.vocabulary:
        return False
    return old.dims == new.dims


def _left(places: Collection[tuple[int, str]], old: Side, new: Side) -> tuple[list[str], set[str]]:
    """What is left behind, in words, and the adapted roles that the new model has."""
    modules = sorted({module for _, module in places})
    roles = {module: set(old.family.modules[module]) for module in modules}
    left = [
        f"{module}: {new.family.name} has no such role"
        for module in modules
        if not roles[module] & set(new.family.roles)
    ]
    kept = {role for each in roles.values() for role in each} & set(new.family.roles)
    adapted = {layer for layer, _ in places}
    if len(adapted) > new.dims.layers:
        left.append(f"{len(adapted) - new.dims.layers} or more of {len(adapted)} layers")
    return left, kept
