"""Checks of an adapter against the model that it should be for, before any work."""

import math
from collections.abc import Collection
from typing import Any

import numpy as np

from ..errors import LoraportError
from ..models.families import Architecture, Dimensions
from .base_names import how_known, recorded_commit
from .experts import check_shape, is_routed
from .files import Adapter
from .lora_weights import LoraWeights
from .names import is_beside
from .own_names import use_own_names
from .patterns import is_safe, matches
from .trained_tokens import END
from .uncarried import leave_uncarried

FAINT_NORM, LOUD_NORM = 1e-4, 1e2  # update norms that are told, as multiples of the median
DIVERGED_RMS = 1e5  # root mean square of an update's entries; those of base weights are below 1


def audit(
    adapter: Adapter,
    family: Architecture,
    dims: Dimensions,
    known_as: Collection[str],
    revision: str = "",
    *,
    vocabulary: bool = False,
    experts: bool = False,
    partly: bool = False,
) -> dict[tuple[int, str], LoraWeights]:
    """Check an adapter against the model it should be for, before any work.

    Parameters
    ----------
    known_as : names under which the old model may be recorded in the adapter
    revision : of the old model on the hub, where it has one
    vocabulary : whether the caller carries an adapted embedding or head as well
    experts : the same of experts' own updates (`experts.gathered`)
    partly : whether the caller carries what it can: updates of modules that no map carries are
        dropped then, and told

    Returns
    -------
    (layer, module below the block) -> factors. The adapter's modules bear the family's own names
    then, and warnings are appended to `adapter.warnings`.
    """
    use_own_names(adapter, family)
    if partly:
        leave_uncarried(adapter, family, dims)
    located: dict[tuple[int, str], LoraWeights] = {}
    for path, weights in adapter.modules.items():
        if experts and is_routed(path, family):
            _check_expert(adapter, family, dims, path, weights)
            continue
        place = family.locate(path)
        if vocabulary and path in (family.head, family.embedding):
            _check_vocabulary(adapter, dims, path, weights)
            continue
        if place is None:
            raise _foreign_module(adapter, family, path)
        _check_shape(adapter, family, dims, path, place)
        located[place] = weights
    _check_copies(adapter, family)
    _take_added_rows(adapter, dims)
    _check_tokens(adapter, family, dims)
    _check_complete(adapter, family, dims, located)
    _check_base(adapter, known_as, revision)
    _check_sizes(adapter)
    _note_odd_norms(adapter)
    if adapter.config.get("bias", "none") != "none":
        adapter.warnings.append(
            f"bias = {adapter.config['bias']!r}, but its modules have none: carried without"
        )
    return located


def _check_shape(
    adapter: Adapter, family: Architecture, dims: Dimensions, path: str, place: tuple[int, str]
) -> None:
    """Refuse a module that the model has in no such layer, or in another shape."""
    layer, module = place
    weights = adapter.modules[path]
    there = layer < dims.layers and module in family.modules_of(dims.at(layer))
    wanted = family.module_shape(module, dims.at(layer) if there else dims)
    shape = weights.b.shape[0], weights.a.shape[1]
    if not there or shape != wanted:
        raise LoraportError(
            f"adapter {adapter.directory} is for another base model",
            got=f"{path}: {shape}",
            expected=f"{wanted} in one of {dims.layers} layers",
            todo="name the pair whose old model the adapter was trained on",
        )


def _foreign_module(adapter: Adapter, family: Architecture, path: str) -> LoraportError:
    if path in (family.head, family.embedding):
        return LoraportError(
            f"adapter {adapter.directory} adapts its model's vocabulary",
            got=path,
            expected=f"modules of {family.block} alone: this step leaves vocabularies as they are",
            todo="transfer it as it is, or train it without it among its target modules",
        )
    if family.is_of_experts(path):
        return LoraportError(
            f"adapter {adapter.directory} adapts a feed-forward network of a mixture of experts, "
            "or its experts or router where they are not carried",
            got=path,
            expected=f"modules of attention ({', '.join(family.modules)})"
            + (", and experts where adapters are transferred" if family.routed else ""),
            todo="train it on the modules of attention, or train this one anew on the new model",
        )
    if is_beside(path, family):
        return LoraportError(
            f"adapter {adapter.directory} adapts a part of its model beside the language model",
            got=f"{path}, whose update is not zero",
            expected=f"modules of {family.block}",
            todo="train it with target_modules that name the language model's layers alone",
        )
    return LoraportError(
        f"adapter {adapter.directory} adapts a module that its model's family lacks",
        got=path,
        expected=f"{family.block}.<one of {', '.join(family.modules)}> of {family.name}",
        todo="check that the adapter belongs to the pair's old model",
    )


def _check_expert(
    adapter: Adapter, family: Architecture, dims: Dimensions, path: str, weights: LoraWeights
) -> None:
    """An expert's module fits, and is plain LoRA."""
    if (wrong := check_shape(path, weights, family, dims)) is not None:
        raise LoraportError(
            f"adapter {adapter.directory} is for another base model",
            got=f"{path}: {wrong[0]}",
            expected=f"{wrong[1]} in one of {dims.layers} layers, of {dims.experts} experts",
            todo="name the pair whose old model the adapter was trained on",
        )
    if weights.magnitude is not None or weights.bias is not None or weights.init_rank:
        raise LoraportError(
            f"adapter {adapter.directory} adapts experts by another kind than LoRA",
            got=path,
            expected="LoRA or rsLoRA without biases there",
            todo="train experts by plain LoRA",
        )


def _check_vocabulary(adapter: Adapter, dims: Dimensions, path: str, weights: LoraWeights) -> None:
    """An adapted embedding or head has a row for each token; those behind the base's are of tokens
    that were added for the adapter.
    """
    (rows, width), wanted = (weights.b.shape[0], weights.a.shape[1]), (dims.vocabulary, dims.hidden)
    if rows < dims.vocabulary or width != dims.hidden:
        raise LoraportError(
            f"adapter {adapter.directory} is for another base model",
            got=f"{path}: {(rows, width)}",
            expected=f"{wanted}, a row for each token",
            todo="name the pair whose old model the adapter was trained on",
        )
    if added := rows - dims.vocabulary:
        adapter.warnings.append(
            f"{path}: the updates of its {added} rows behind the base's go with their tokens"
        )
    if weights.magnitude is not None:
        raise LoraportError(
            f"adapter {adapter.directory} adapts its model's vocabulary by DoRA",
            got=path,
            expected="plain LoRA there: magnitudes need the lengths of the base's own rows",
            todo="train it without it among its target modules, or as plain LoRA",
        )


def _check_copies(adapter: Adapter, family: Architecture) -> None:
    """The base's own weights beside an adapted embedding or head are left out; others are odd."""
    for path in adapter.copies:
        if path not in (family.head, family.embedding) or path not in adapter.modules:
            raise LoraportError(
                f"adapter {adapter.directory} holds a weight of its base",
                got=f"{path}.base_layer",
                expected="the adapter's own tensors",
                todo="save it again with save_embedding_layers=False",
            )
        adapter.warnings.append(
            f"the file holds the base's own {path} as well: it is taken to be unchanged, and left"
        )


def _take_added_rows(adapter: Adapter, dims: Dimensions) -> None:
    """Of tables that peft saved since the base was resized, the rows of the tokens that were added
    are the adapter's; the others are taken to be the base's own.
    """
    for path, values in adapter.tables.items():
        if len(values) < dims.vocabulary:
            raise LoraportError(
                f"adapter {adapter.directory} comes with a table of the vocabulary that was cut",
                got=f"{path} {values.shape}",
                expected=f"at least the base's {dims.vocabulary} rows, of which it is known which "
                "ones were added",
                todo="save the adapter again with save_embedding_layers=False, if its vocabulary "
                "was not trained",
            )
        added = range(dims.vocabulary, len(values))
        note = f"its {len(added)} rows behind the base's go with their tokens" if added else "left"
        adapter.warnings.append(
            f"the file holds the base's own {path} as well: it is taken to be unchanged, and {note}"
        )
        if added:
            adapter.saved[path + END] = values[dims.vocabulary :]
            adapter.tokens[path] = list(added)


def _check_tokens(adapter: Adapter, family: Architecture, dims: Dimensions) -> None:
    """Rows of trained tokens are of the embedding or the head, and as wide as the model."""
    for path in adapter.tokens:
        shape = adapter.saved[path + END].shape
        if path not in (family.head, family.embedding) or shape[1:] != (dims.hidden,):
            raise LoraportError(
                f"adapter {adapter.directory} is for another base model",
                got=f"rows of trained tokens at {path}, {shape}",
                expected=f"{family.embedding} or {family.head}, {dims.hidden} wide",
                todo="name the pair whose old model the adapter was trained on",
            )


def _targeted(targets: Any, path: str) -> bool:
    """Whether target_modules means a path; an expression that is not safe is taken to mean none."""
    if isinstance(targets, str):
        return is_safe(targets) and matches(targets, path, ending=False)
    return any(path == target or path.endswith(f".{target}") for target in targets or ())


def _check_complete(
    adapter: Adapter,
    family: Architecture,
    dims: Dimensions,
    located: Collection[tuple[int, str]],
) -> None:
    """Every layer must hold every target that the config names, unless it limits the layers."""
    targets = adapter.config.get("target_modules")
    limited = ("exclude_modules", "layers_pattern")
    if targets == "all-linear" or any(adapter.config.get(key) for key in limited):
        return
    chosen = adapter.config.get("layers_to_transform")
    if chosen is None or chosen == []:
        chosen = range(dims.layers)
    for layer in [chosen] if isinstance(chosen, int) else chosen:
        for module in family.modules_of(dims.at(layer)):
            path = family.path(layer, module)
            if _targeted(targets, path) and (layer, module) not in located:
                raise LoraportError(
                    f"adapter {adapter.directory} lacks tensors that its config promises",
                    got=f"nothing for {path}",
                    expected=f"what target_modules = {targets!r} means, in {dims.layers} layers",
                    todo="save the adapter again, or limit layers_to_transform in its config",
                )


def _check_base(adapter: Adapter, known_as: Collection[str], revision: str) -> None:
    recorded = adapter.config.get("base_model_name_or_path")
    if not recorded:
        adapter.warnings.append("the adapter does not record its base model; its shapes fit")
        return
    kinship = how_known(str(recorded), known_as)
    if kinship is None:
        raise LoraportError(
            f"adapter {adapter.directory} records another base model",
            got=recorded,
            expected=f"one of {', '.join(sorted(known_as))}",
            todo="name the right pair, or add the recorded name to the old model's `known_as` "
            "in config.yaml if it is the same model",
        )
    if kinship:
        adapter.warnings.append(f"its base is recorded as {recorded}: {kinship}")
    trained_on = adapter.config.get("revision") or recorded_commit(str(recorded))
    if trained_on and revision and trained_on != revision:
        adapter.warnings.append(
            f"it was trained on revision {trained_on} of its base, the pair's is {revision}"
        )


def _check_sizes(adapter: Adapter) -> None:
    """Refuse updates so large that their training can only have diverged."""
    for path, weights in adapter.modules.items():
        entries = weights.b.shape[0] * weights.a.shape[1]
        size = weights.norm() / math.sqrt(entries) if weights.rank else 0.0
        if not size <= DIVERGED_RMS:
            raise LoraportError(
                f"adapter {adapter.directory} has diverged: its update at {path} is absurdly large",
                got=f"{size:.3g} (root mean square of its entries)",
                expected=f"at most {DIVERGED_RMS:g}; base weights are below 1",
                todo="use a checkpoint from before the training diverged",
            )


def _note_odd_norms(adapter: Adapter) -> None:
    norms = {path: weights.norm() for path, weights in adapter.modules.items() if weights.rank}
    middle = float(np.median([norm for norm in norms.values() if norm > 0]))
    for path, norm in norms.items():
        if norm < FAINT_NORM * middle or norm > LOUD_NORM * middle:
            adapter.warnings.append(f"{path}: update norm {norm:.3g}, median {middle:.3g}")
