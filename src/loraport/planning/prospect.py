"""Whether and how an adapter can be carried to a model, as far as configs and tensors' names tell.

No weight of a base model is read, so that a pair of the hub is told of by two small files.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..adapters.audit import audit
from ..adapters.experts import adapts_experts
from ..adapters.files import Adapter, read_adapter
from ..adapters.lora_weights import LoraWeights
from ..errors import LoraportError
from ..models.identity import folder_at_hand
from ..models.side import Side
from ..models.spec import Model, adapter_directory, open_model, resolve
from ..models.tokens import Vocabulary, read_vocabulary
from ..transfer.experts import check_experts
from ..transfer.left import check_magnitudes, fewer_layers, no_place
from ..transfer.modules_to_save import check_saved
from .token_notes import token_notes

TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "*.tiktoken", "vocab.*")
Vocabularies = Callable[[], tuple[Vocabulary | None, Vocabulary | None]]
UNCLEAR = "its experts are carried where they match one to one: both models on the texts tell"
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


def tokens_at_hand(source: str, revision: str = "") -> Vocabulary | None:
    """A model's tokens, its tokenizer fetched for one of the hub; None where they can't be had."""
    try:
        return read_vocabulary(resolve(source, revision, patterns=TOKENIZER_FILES)[0])
    except LoraportError:
        return None


@dataclass(frozen=True)
class Look:
    """An adapter, its base as far as it is at hand, and what is known of carrying it."""

    adapter: Adapter
    base: Model | None
    prospect: Prospect


def look_at(source: str, base: str = "", to: str = "", new: Model | None = None) -> Look:
    """Read an adapter, and tell what it is and whether it can be carried.

    Parameters
    ----------
    source : a PEFT directory, or an adapter of the hub
    base : its base model, a directory or a hub id; else what it records
    to : a new model; without one, carrying is not asked
    new : that model, where it is opened already

    Raises
    ------
    LoraportError
        For an adapter that can't be read, and a model that is named and can't be.
    """
    new = new or (named_model(to) if to else None)
    adapter = read_adapter(adapter_directory(source))
    recorded = str(adapter.config.get("base_model_name_or_path") or "")
    at = base or recorded
    old = named_model(base) if base else config_at_hand(recorded) if recorded else None
    known = {recorded, base, Path(base).name} - {""}  # the user says which it is
    vocabularies = (lambda: (tokens_at_hand(at), tokens_at_hand(to))) if to else None
    return Look(adapter, old, prospect(adapter.directory, old, new, known, vocabularies))


def named_model(source: str) -> Model:
    """A model that the user named, by its config.json."""
    model = config_at_hand(source)
    if model is None:
        raise LoraportError(
            f"model {source!r} can't be looked at",
            got="no config.json of it, here or on the hub",
            expected="a directory, or a hub id",
            todo="check its name and the network",
        )
    return model


def prospect(
    directory: str | Path,
    old: Model | None,
    new: Model | None,
    known_as: Collection[str],
    vocabularies: Vocabularies | None = None,
) -> Prospect:
    """What can be told of carrying an adapter from one model to another.

    Parameters
    ----------
    old, new : by their configs; what is None is not asked
    known_as : names under which the adapter may record the old model
    vocabularies : gives the tokens of both; asked for an adapter that trained tokens
    """
    refused: list[str] = []
    try:
        adapter = read_adapter(directory)
    except LoraportError as error:
        return Prospect(NOT, [str(error)])
    places: Mapping[tuple[int, str], LoraWeights] = {}
    if old is not None:
        try:
            family, dims = old.architecture, old.dims
            places = audit(
                adapter, family, dims, known_as, vocabulary=True, experts=True, partly=True
            )
        except LoraportError as error:
            refused.append(str(error))
    if old is None or new is None:
        return Prospect(NOT if refused else MAPS, refused, [], adapter.warnings)
    sides = Side(old.architecture, old.dims), Side(new.architecture, new.dims)
    checks: list[Callable[[], None]] = [
        lambda: check_saved(adapter, *sides),
        lambda: check_experts(adapter, *sides),
        lambda: check_magnitudes(places, *sides),
    ]
    for check in checks:
        try:
            check()
        except LoraportError as error:
            refused.append(str(error))
    left, kept = _left(places, *sides)
    if places and not kept:
        told = f"{new.architecture.name} has none of the modules that it adapts"
        refused.append(f"adapter {directory} has no place in the new model: {told}.")
    if vocabularies is not None and not refused:
        left += token_notes(adapter, *sides, vocabularies)
    if adapts_experts(adapter.modules) and not refused:
        adapter.warnings.append(UNCLEAR)
    same = old.architecture == new.architecture and _same_sizes(adapter, *sides)
    how = NOT if refused else COPY if same else MAPS
    return Prospect(how, refused, left, adapter.warnings)


def _same_sizes(adapter: Adapter, old: Side, new: Side) -> bool:
    """Whether every module of an adapter has the same shape in both models."""
    if adapter.saved and old.dims.vocabulary != new.dims.vocabulary:
        return False
    return old.dims == new.dims


def _left(
    places: Mapping[tuple[int, str], LoraWeights], old: Side, new: Side
) -> tuple[list[str], set[str]]:
    """What is left behind, in words, and the adapted roles that the new model has."""
    left = no_place(places, old, new)
    roles = {role for _, module in places for role in old.family.modules[module]}
    kept = roles & set(new.family.roles)
    adapted = {layer for layer, _ in places}
    if len(adapted) > new.dims.layers:
        left.append(f"{len(adapted) - new.dims.layers} or more of {len(adapted)} layers")
    left += fewer_layers(places, old, new)
    return left, kept
