"""Adapters in PEFT's format: read and written with numpy alone."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np

from ..artifacts import ADAPTER_CONFIG, ADAPTER_WEIGHTS, check_weights, sha256
from ..errors import LoraportError
from ..models.families import Architecture
from ..models.folder import refuse_pointer
from ..models.weights import TensorFile, is_finite, save_tensors
from .experts import FIELD as TARGETS
from .experts import WRAPPED, Experts, split_parameters, wrapped
from .kinds import kind_of, lora
from .lora_weights import LoraWeights
from .names import PREFIX, plain_name
from .supported import CARRIED_FIELDS, refuse_what_is_not_carried
from .trained_tokens import END, FIELD, trained_ids

# the base's own part behind one that was trained whole, which peft writes with a resized embedding
ORIGINAL = ".original_module."
COPIES = (".base_layer.weight", ".base_layer.bias")
# what transformers calls embeddings and heads
TABLES = ("embed_tokens", "lm_head", "embed_in", "embed_out", "word_embeddings", "wte")
VOCABULARY = ("embedding_a", "embedding_b")  # parts of an adapted embedding
Parts = dict[str, dict[str, np.ndarray]]  # module -> part -> array
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@dataclass(frozen=True)
class Adapter:
    """An adapter as it lies on disk.

    Attributes
    ----------
    config : content of adapter_config.json
    modules : full module path -> its factors
    saved : name of a whole tensor that stands in for the base's (modules_to_save) -> array
    warnings : what the audit noticed
    copies : modules of which the file holds the base's own weight as well
    tokens : module of which `saved` holds rows of some tokens alone -> their ids
    tables : module -> its weight, of an embedding or a head that peft saved since it was resized
    """

    directory: Path
    config: dict[str, Any]
    modules: dict[str, LoraWeights]
    saved: dict[str, np.ndarray] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)
    tokens: dict[str, list[int]] = field(default_factory=dict)
    tables: dict[str, np.ndarray] = field(default_factory=dict)

    def hashes(self) -> dict[str, str]:
        """SHA-256 of both files."""
        return {name: sha256(self.directory / name) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)}


def folder_of(given: str | Sequence[str]) -> Path:
    """The folder of an adapter that a rule was given: by its name, or by its files."""
    path = Path(given if isinstance(given, str) else given[0])
    return path if path.is_dir() else path.parent


def read_adapter(directory: str | Path, *, zero: bool = False) -> Adapter:
    """Read an adapter whose kind loraport carries; anything it would have to drop is refused.

    Parameters
    ----------
    zero : take an update of zero as well, such as one that was carried with a gain of 0

    Raises
    ------
    LoraportError
        For another kind of adapter, a missing or unknown tensor, NaN or Inf, and unless `zero` for
        an update of zero.
    """
    directory = Path(directory)
    config = read_config(directory)
    kind = kind_of(config, directory)
    refuse_what_is_not_carried(directory, config, kind.FIELDS)
    pickles = sorted(directory.glob("*.bin"))
    if not (directory / ADAPTER_WEIGHTS).is_file() and pickles:
        raise LoraportError(
            f"adapter {directory} is stored as a pickle",
            got=pickles[0].name,
            expected=f"{ADAPTER_WEIGHTS}; a pickle can run code and is never loaded",
            todo="load it once where you trust it and save it again with save_pretrained()",
        )
    parts, saved, copies = _sort_tensors(directory, config, kind)
    check_weights(directory)
    of_experts = {path: parts.pop(path) for path in _wrappers(config, parts)}
    modules = {path: _module(directory, config, kind, path, held) for path, held in parts.items()}
    modules |= split_parameters(directory, config, of_experts) if of_experts else {}
    if not zero and not any(weights.rank and weights.norm() > 0 for weights in modules.values()):
        raise LoraportError(
            f"adapter {directory} changes nothing: every update is zero",
            got=f"{len(modules)} modules of norm 0",
            expected="a trained adapter",
            todo="check that training ran and that its last checkpoint was saved",
        )
    tokens = trained_ids(directory, config, saved)
    tables = {name.removesuffix(".weight"): saved.pop(name) for name in _resized(config, saved)}
    return Adapter(directory, config, modules, saved, [], sorted(set(copies)), tokens, tables)


def _wrappers(config: Mapping[str, Any], parts: Parts) -> list[str]:
    """Paths that are parameters of experts to peft, and no modules."""
    return [path for path in parts if path.endswith(WRAPPED)] if config.get(TARGETS) else []


def _resized(config: Mapping[str, Any], saved: Mapping[str, np.ndarray]) -> list[str]:
    """Whole embeddings and heads that the config does not name: peft adds them to the file where
    the base was resized.
    """
    kept = tuple(config.get("modules_to_save") or ())
    return [name for name in saved if _is_table(name) and not _is_kept(name, kept)]


def _is_table(name: str) -> bool:
    parts = name.split(".")
    return parts[-1] == "weight" and len(parts) > 1 and parts[-2] in TABLES


def _is_kept(name: str, kept: Sequence[str]) -> bool:
    return any(name.rpartition(".")[0].endswith(each) for each in kept)


def read_config(directory: Path) -> dict[str, Any]:
    """adapter_config.json of a PEFT directory."""
    path = directory / ADAPTER_CONFIG
    try:
        refuse_pointer(path)
        config = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(config, dict):
            return config
        error: Any = "not a JSON object"
    except (OSError, ValueError, RecursionError) as problem:
        error = problem
    raise LoraportError(
        f"{path} cannot be read",
        got=error,
        expected="a PEFT adapter directory",
        todo="correct the adapter's `source` in the adapters table",
    )


def _dora_on_embedding(directory: Path, path: str) -> LoraportError:
    return LoraportError(
        f"adapter {directory} adapts its model's vocabulary by DoRA",
        got=path,
        expected="plain LoRA there: magnitudes need the lengths of the base's own rows",
        todo="train it without it among its target modules, or as plain LoRA",
    )


def _sort_tensors(
    directory: Path, config: Mapping[str, Any], kind: ModuleType
) -> tuple[Parts, dict[str, np.ndarray], list[str]]:
    """Tensors as module path -> part -> array, float32; whole tensors of modules_to_save; paths of
    which the file holds a copy of the base's own weight, as peft adds them to adapted embeddings.
    """
    file = TensorFile(directory / ADAPTER_WEIGHTS)
    kept = tuple(config.get("modules_to_save") or ())
    parts: Parts = {}
    saved: dict[str, np.ndarray] = {}
    copies: list[str] = []
    trained = config.get("bias", "none") != "none"  # then a bias of the base is no mere copy
    ends = COPIES[:1] if trained else COPIES
    for name in sorted(file.tensors):
        if ORIGINAL in name:
            continue
        plain = plain_name(name)
        end = next((each for each in kind.PARTS if plain.endswith(f".{each}")), None)
        values = file.read(name)
        if not is_finite(values):
            raise LoraportError(
                f"adapter {directory} holds NaN or Inf",
                got=f"in {name}",
                expected="finite weights",
                todo="use a checkpoint from before the training diverged",
            )
        if plain.endswith(ends):
            copies.append(plain.partition(".base_layer.")[0])
        elif end is not None:
            held = parts.setdefault(plain.removesuffix(f".{end}"), {})
            if kind.PARTS[end] in held:
                raise held_twice(directory, name)
            held[kind.PARTS[end]] = values.astype(np.float32)
        elif plain.endswith(END) or _is_table(plain) or _is_kept(plain, kept):
            if not np.array_equal(saved.setdefault(plain, values), values):
                raise held_twice(directory, name)
        else:
            raise _unknown_tensor(directory, config, kind, name, values.shape)
    for path, held in parts.items():
        if held.keys() >= set(VOCABULARY):  # (r, tokens) and (d, r): the weight is (tokens, d)
            held["b"], held["a"] = (held.pop(part).T for part in VOCABULARY)
            if "magnitude" in held:
                raise _dora_on_embedding(directory, path)
    return parts, saved, copies


def held_twice(directory: Path, name: str) -> LoraportError:
    """The error of a file with two names of one tensor."""
    return LoraportError(
        f"adapter {directory} holds a tensor twice, under names that mean the same",
        got=name,
        expected="one adapter, named once",
        todo="save the adapter again with save_pretrained()",
    )


def _unknown_tensor(
    directory: Path, config: Mapping[str, Any], kind: ModuleType, name: str, shape: tuple[int, ...]
) -> LoraportError:
    if name.endswith(".bias") and config.get("bias", "none") != "none":
        return LoraportError(
            f"adapter {directory} was trained together with its base's biases",
            got=f"bias = {config['bias']!r}, {name} {shape}",
            expected="biases of the base as they are; `lora_bias` is carried",
            todo="train it with bias='none' or lora_bias=True",
        )
    return LoraportError(
        f"adapter {directory} holds a tensor that loraport does not carry",
        got=f"{name} {shape}",
        expected=f"{PREFIX}<module>.<one of {', '.join(kind.PARTS)}>",
        todo="remove it, or convert the adapter to a plain LoRA one",
    )


def _module(
    directory: Path,
    config: Mapping[str, Any],
    kind: ModuleType,
    path: str,
    held: Mapping[str, np.ndarray],
) -> LoraWeights:
    """One module's weights, complete and of shapes that fit together."""
    wanted = set(kind.PARTS.values()) - set(kind.OPTIONAL)
    if config.get("lora_bias"):
        wanted |= {"bias"}
    shapes = ", ".join(f"{part} {held[part].shape}" for part in sorted(held))
    whole = wanted <= set(held) and held["a"].ndim == held["b"].ndim == 2
    if not whole or held["b"].shape[1] != held["a"].shape[0]:
        raise LoraportError(
            f"adapter {directory} is incomplete at {path}",
            got=f"only {shapes}" if not wanted <= set(held) else shapes,
            expected=f"{', '.join(sorted(wanted))}, with a (r, d_in) and b (d_out, r)",
            todo="save the adapter again",
        )
    try:
        return kind.read(config, path, held)
    except LoraportError as error:
        raise LoraportError(
            f"adapter {directory}: {error.what}",
            got=error.got,
            expected=error.expected,
            todo=error.todo,
        ) from error


def write_adapter(
    directory: Path,
    source: Mapping[str, Any],
    base: str,
    revision: str,
    family: Architecture,
    layers: int,
    weights: Mapping[tuple[int, str], LoraWeights],
    dtype: str,
    saved: Mapping[str, np.ndarray] | None = None,
    vocabulary: Mapping[str, LoraWeights] | None = None,
    tokens: Mapping[str, list[int]] | None = None,
    experts: Mapping[int, Experts] | None = None,
) -> None:
    """Write factors for a new base as a PEFT directory; the same input gives the same bytes.

    Parameters
    ----------
    directory : an existing folder
    source : the config of the adapter that was carried; what still holds is copied
    base, revision : recorded as the new base model
    weights : (layer, module below the block) -> factors
    dtype : `float32` or `bfloat16`
    saved : whole tensors of the new model's own names that stand in for the base's
    vocabulary : path -> factors of the input embedding and of the output head
    tokens : path of which `saved` holds rows of some tokens alone -> their ids
    experts : layer -> updates of its experts
    """
    kind, saved, vocabulary = kind_of(source, directory), saved or {}, vocabulary or {}
    places = {family.path(*place): each for place, each in sorted(weights.items())}
    places |= vocabulary
    modules = {module for _, module in weights}
    full = len(weights) == layers * len(modules) and not family.beside
    beside, named, rank = wrapped(experts, family) if experts else ({}, [], None)
    config = {
        **_fields(kind, source, directory, places, rank),
        "base_model_name_or_path": base,
        "revision": revision or None,
        "target_modules": sorted(
            {module.rpartition(".")[2] for module in {*modules, *vocabulary}} if full else places
        ),
        **({FIELD: dict(tokens)} if tokens else {}),
        **({TARGETS: named, "lora_dropout": 0.0} if named else {}),
        "modules_to_save": sorted({n.rpartition(".")[0] for n in saved if not n.endswith(END)})
        or None,
        "bias": "none",
        "auto_mapping": None,
        "exclude_modules": None,
        "layers_pattern": None,
        "layers_to_transform": None,
        "inference_mode": True,
    }
    tensors = {f"{PREFIX}{name}": values for name, values in saved.items()}
    for name, values in {**beside, **_factors(kind, family, places)}.items():
        tensors[f"{PREFIX}{name}"] = values.astype(DTYPES[dtype])
    for name, values in tensors.items():
        if not is_finite(values):
            raise LoraportError(f"the carried adapter would hold NaN or Inf in {name}")
    save_tensors(directory / ADAPTER_WEIGHTS, tensors)
    (directory / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _fields(
    kind: Any,
    source: Mapping[str, Any],
    directory: Path,
    places: Mapping[str, LoraWeights],
    experts_rank: int | None,
) -> dict[str, Any]:
    """What still holds of the source's config, and what the kind says of the factors."""
    fields = kind.fields(places) if places else {}
    if experts_rank is not None:
        fields |= _at_rank(places, experts_rank, bool(source.get("use_rslora")))
    written = kind_of({**source, **fields}, directory)  # a kind may be written as another
    carried = CARRIED_FIELDS | set(written.FIELDS)
    return {**{key: value for key, value in source.items() if key in carried}, **fields}


def _factors(
    kind: Any, family: Architecture, places: Mapping[str, LoraWeights]
) -> dict[str, np.ndarray]:
    """Name of a tensor below `PREFIX` -> factors, or what else the kind has of a module."""
    tensors: dict[str, np.ndarray] = {}
    for path, each in places.items():
        of_module = lora.embedding if path == family.embedding else kind.tensors
        tensors |= {f"{path}.{end}": values for end, values in of_module(each).items()}
    return tensors


def _at_rank(places: Mapping[str, LoraWeights], rank: int, rslora: bool) -> dict[str, Any]:
    """Fields that say the rank of experts, at a scale of 1, for all, and of the modules by name."""
    alpha = math.sqrt(rank) if rslora else rank
    return {
        "r": rank,
        "lora_alpha": lora.whole(alpha),
        "rank_pattern": {path: each.rank for path, each in places.items() if each.rank != rank},
        "alpha_pattern": {
            path: lora.whole(each.alpha) for path, each in places.items() if each.alpha != alpha
        },
    }
