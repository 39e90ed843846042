"""LoRA adapters in PEFT's format: read, audited and written with numpy alone."""

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from .architectures import Architecture, Dimensions
from .artifacts import sha256
from .errors import LoraportError
from .weights import TensorFile, is_finite, save_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal")  # starts that leave the base as it is
CARRIED_FIELDS = frozenset(
    [
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "exclude_modules",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_dropout",
        "peft_type",
        "peft_version",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_rslora",
    ]
)
# set to these values a field asks for nothing
NEUTRAL: tuple[Any, ...] = (None, False, [], {}, "", "none")
IGNORED_FIELDS = frozenset({"megatron_core", "qalora_group_size"})  # read only beside other fields


@dataclass(frozen=True)
class LoraWeights:
    """One module's factors: the update is `scale · b @ a`.

    Attributes
    ----------
    b, a : (d_out, r) and (r, d_in)
    alpha : as stored
    rslora : whether the scale is alpha / √r in place of alpha / r
    """

    b: np.ndarray
    a: np.ndarray
    alpha: float
    rslora: bool = False

    @property
    def rank(self) -> int:
        """r."""
        return self.a.shape[0]

    @property
    def scale(self) -> float:
        """s."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def replaced(self, b: np.ndarray, a: np.ndarray, alpha: float | None = None) -> "LoraWeights":
        """The same kind with other factors, stored as float32."""
        alpha = self.alpha if alpha is None else alpha
        return LoraWeights(b.astype(np.float32), a.astype(np.float32), alpha, self.rslora)

    def norm(self) -> float:
        """‖scale · B A‖_F from the r×r Grams, float64."""
        b, a = self.b.astype(np.float64), self.a.astype(np.float64)
        return abs(self.scale) * math.sqrt(max(0.0, float(np.sum((b.T @ b) * (a @ a.T)))))


@dataclass(frozen=True)
class Adapter:
    """An adapter as it lies on disk.

    Attributes
    ----------
    config : content of adapter_config.json
    modules : full module path -> its factors
    warnings : what the audit noticed
    """

    directory: Path
    config: dict[str, Any]
    modules: dict[str, LoraWeights]
    warnings: list[str] = field(default_factory=list)

    def hashes(self) -> dict[str, str]:
        """SHA-256 of both files."""
        return {name: sha256(self.directory / name) for name in (CONFIG, WEIGHTS)}


def read_adapter(directory: str | Path) -> Adapter:
    """Read an adapter whose kind loraport carries; anything it would have to drop is refused.

    Raises
    ------
    LoraportError
        For another kind of adapter, a missing or unknown tensor, NaN or Inf, or an update of zero.
    """
    directory = Path(directory)
    config = _read_config(directory)
    _refuse_other_kinds(directory, config)
    pickles = sorted(directory.glob("*.bin"))
    if not (directory / WEIGHTS).is_file() and pickles:
        raise LoraportError(
            f"adapter {directory} is stored as a pickle",
            got=pickles[0].name,
            expected=f"{WEIGHTS}; a pickle can run code and is never loaded",
            todo="load it once where you trust it and save it again with save_pretrained()",
        )
    factors = _pair_up(directory, TensorFile(directory / WEIGHTS))
    modules = {path: _with_scale(directory, config, path, b, a) for path, (b, a) in factors.items()}
    if not any(weights.norm() > 0 for weights in modules.values()):
        raise LoraportError(
            f"adapter {directory} changes nothing: every update is zero",
            got=f"{len(modules)} modules of norm 0",
            expected="a trained adapter",
            todo="check that training ran and that its last checkpoint was saved",
        )
    return Adapter(directory, config, modules)


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(config, dict):
            return config
        error: Any = "not a JSON object"
    except (OSError, ValueError) as problem:
        error = problem
    raise LoraportError(
        f"{path} cannot be read",
        got=error,
        expected="a PEFT adapter directory",
        todo="correct the adapter's `source` in the adapters table",
    )


def _refuse_other_kinds(directory: Path, config: Mapping[str, Any]) -> None:
    way_out = "convert it to a plain LoRA adapter first (peft can merge and extract one)"
    if config.get("peft_type") != "LORA":
        raise LoraportError(
            f"adapter {directory} is of a kind that loraport does not carry",
            got=f"peft_type {config.get('peft_type')!r}",
            expected="LORA",
            todo=way_out,
        )
    if config.get("init_lora_weights", True) not in PLAIN_STARTS:
        raise LoraportError(
            f"adapter {directory} was started in a way that changed its base model",
            got=f"init_lora_weights {config['init_lora_weights']!r}",
            expected="a LoRA start that leaves the base as it is",
            todo="convert it with peft's path_initial_model_for_weight_conversion, then carry that",
        )
    asked = {
        key: value
        for key, value in config.items()
        if key not in CARRIED_FIELDS | IGNORED_FIELDS | {"init_lora_weights"}
        and value not in NEUTRAL
    }
    if config.get("bias", "none") != "none":
        asked["bias"] = config["bias"]
    if asked:
        raise LoraportError(
            f"adapter {directory} uses what loraport does not carry and will not drop silently",
            got=", ".join(f"{key} = {value!r}" for key, value in sorted(asked.items())),
            expected="plain LoRA or rsLoRA",
            todo=way_out,
        )


def _pair_up(directory: Path, file: TensorFile) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Tensors as module path -> (B, A); every tensor must be half of such a pair."""
    halves: dict[str, dict[str, np.ndarray]] = {}
    for name in sorted(file.tensors):
        match = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight", name)
        if match is None or len(file.tensors[name][1]) != 2:
            raise LoraportError(
                f"adapter {directory} holds a tensor that loraport does not carry",
                got=f"{name} {file.tensors[name][1]}",
                expected=f"{PREFIX}<module>.lora_A.weight and .lora_B.weight, two-dimensional",
                todo="remove it, or convert the adapter to a plain LoRA one",
            )
        values = file.read(name)
        if not is_finite(values):
            raise LoraportError(
                f"adapter {directory} holds NaN or Inf",
                got=f"in {name}",
                expected="finite weights",
                todo="use a checkpoint from before the training diverged",
            )
        halves.setdefault(match[1], {})[match[2]] = values.astype(np.float32)
    for path, held in halves.items():
        if len(held) != 2 or held["B"].shape[1] != held["A"].shape[0]:
            shapes = ", ".join(f"lora_{half} {held[half].shape}" for half in sorted(held))
            raise LoraportError(
                f"adapter {directory} is incomplete at {path}",
                got=f"only {shapes}" if len(held) != 2 else shapes,
                expected="lora_A (r, d_in) and lora_B (d_out, r)",
                todo="save the adapter again",
            )
    return {path: (held["B"], held["A"]) for path, held in halves.items()}


def _with_scale(
    directory: Path, config: Mapping[str, Any], path: str, b: np.ndarray, a: np.ndarray
) -> LoraWeights:
    rank = _by_pattern(directory, config.get("rank_pattern") or {}, path, config.get("r"))
    alpha = _by_pattern(
        directory, config.get("alpha_pattern") or {}, path, config.get("lora_alpha")
    )
    if type(rank) is not int or rank != a.shape[0] or rank < 1:
        raise LoraportError(
            f"adapter {directory} contradicts its config at {path}",
            got=f"tensors of rank {a.shape[0]}",
            expected=f"rank {rank}",
            todo="check that adapter_config.json and the weights belong together",
        )
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise LoraportError(f"adapter {directory} has no usable lora_alpha", got=repr(alpha))
    return LoraWeights(b, a, float(alpha), bool(config.get("use_rslora")))


def _by_pattern(directory: Path, pattern: Mapping[str, Any], path: str, default: Any) -> Any:
    """The value for a module; patterns are module names or their endings, as peft writes them."""
    for key, value in pattern.items():
        plain = key.removeprefix("^").replace("\\.", ".")
        if not re.fullmatch(r"[\w.]+", plain):
            raise LoraportError(
                f"adapter {directory} has a rank or alpha pattern that is a regular expression",
                got=key,
                expected="module names or endings of module names",
                todo="write the modules out by name in adapter_config.json",
            )
        if path == plain or (path.endswith(f".{plain}") and not key.startswith("^")):
            return value
    return default


def audit(
    adapter: Adapter, family: Architecture, dims: Dimensions, known_as: Collection[str]
) -> dict[tuple[int, str], LoraWeights]:
    """Check an adapter against the model it should be for, before any work.

    Parameters
    ----------
    known_as : names under which the old model may be recorded in the adapter

    Returns
    -------
    (layer, module below the block) -> factors. Warnings are appended to `adapter.warnings`.
    """
    located: dict[tuple[int, str], LoraWeights] = {}
    for path, weights in adapter.modules.items():
        place = family.locate(path)
        if place is None:
            raise LoraportError(
                f"adapter {adapter.directory} adapts a module that its model's family lacks",
                got=path,
                expected=f"{family.block}.<one of {', '.join(family.modules)}> of {family.name}",
                todo="check that the adapter belongs to the pair's old model",
            )
        layer, module = place
        wanted = family.module_shape(module, dims)
        if layer >= dims.layers or (weights.b.shape[0], weights.a.shape[1]) != wanted:
            raise LoraportError(
                f"adapter {adapter.directory} is for another base model",
                got=f"{path}: {(weights.b.shape[0], weights.a.shape[1])}",
                expected=f"{wanted} in one of {dims.layers} layers",
                todo="name the pair whose old model the adapter was trained on",
            )
        located[place] = weights
    _check_complete(adapter, family, dims, located)
    _check_base(adapter, known_as)
    _note_odd_norms(adapter)
    return located


def _check_complete(
    adapter: Adapter, family: Architecture, dims: Dimensions, located: Collection[tuple[int, str]]
) -> None:
    """Every layer must hold every target that the config names, unless it limits the layers."""
    targets = adapter.config.get("target_modules")
    limited = ("layers_to_transform", "exclude_modules", "layers_pattern")
    if not isinstance(targets, list) or any(adapter.config.get(key) for key in limited):
        return
    for layer in range(dims.layers):
        for module in family.modules:
            path = family.path(layer, module)
            named = any(path == target or path.endswith(f".{target}") for target in targets)
            if named and (layer, module) not in located:
                raise LoraportError(
                    f"adapter {adapter.directory} lacks tensors that its config promises",
                    got=f"nothing for {path}",
                    expected=f"target_modules {', '.join(sorted(targets))} in {dims.layers} layers",
                    todo="save the adapter again, or limit layers_to_transform in its config",
                )


def _check_base(adapter: Adapter, known_as: Collection[str]) -> None:
    recorded = adapter.config.get("base_model_name_or_path")
    if not recorded:
        adapter.warnings.append("the adapter does not record its base model; its shapes fit")
        return
    names = {str(recorded), Path(str(recorded)).name}
    if not names & set(known_as):
        raise LoraportError(
            f"adapter {adapter.directory} records another base model",
            got=recorded,
            expected=f"one of {', '.join(sorted(known_as))}",
            todo="name the right pair, or add the recorded name to the old model's `known_as` "
            "in config.yaml if it is the same model",
        )


def _note_odd_norms(adapter: Adapter) -> None:
    norms = {path: weights.norm() for path, weights in adapter.modules.items()}
    middle = float(np.median([norm for norm in norms.values() if norm > 0]))
    for path, norm in norms.items():
        if norm < 1e-4 * middle or norm > 1e2 * middle:
            adapter.warnings.append(f"{path}: update norm {norm:.3g}, median {middle:.3g}")


def write_adapter(
    directory: Path,
    source: Mapping[str, Any],
    base: str,
    revision: str,
    family: Architecture,
    layers: int,
    weights: Mapping[tuple[int, str], LoraWeights],
    dtype: str,
) -> None:
    """Write factors for a new base as a PEFT directory; the same input gives the same bytes.

    Parameters
    ----------
    directory : an existing folder
    source : the config of the adapter that was carried; what still holds is copied
    base, revision : recorded as the new base model
    weights : (layer, module below the block) -> factors
    dtype : `float32` or `bfloat16`
    """
    ranks = Counter(each.rank for each in weights.values())
    alphas = Counter(each.alpha for each in weights.values())
    rank, alpha = ranks.most_common(1)[0][0], alphas.most_common(1)[0][0]
    paths = {place: family.path(*place) for place in sorted(weights)}
    modules = {module for _, module in weights}
    full = len(weights) == layers * len(modules)
    config = {
        **{key: value for key, value in source.items() if key in CARRIED_FIELDS},
        "base_model_name_or_path": base,
        "revision": revision or None,
        "r": rank,
        "lora_alpha": _whole(alpha),
        "rank_pattern": {
            paths[place]: each.rank for place, each in sorted(weights.items()) if each.rank != rank
        },
        "alpha_pattern": {
            paths[place]: _whole(each.alpha)
            for place, each in sorted(weights.items())
            if each.alpha != alpha
        },
        "target_modules": sorted(
            {module.rpartition(".")[2] for module in modules} if full else paths.values()
        ),
        "auto_mapping": None,
        "exclude_modules": None,
        "layers_pattern": None,
        "layers_to_transform": None,
        "inference_mode": True,
    }
    tensors = {}
    for place, path in paths.items():
        tensors[f"{PREFIX}{path}.lora_A.weight"] = weights[place].a.astype(DTYPES[dtype])
        tensors[f"{PREFIX}{path}.lora_B.weight"] = weights[place].b.astype(DTYPES[dtype])
    for name, values in tensors.items():
        if not is_finite(values):
            raise LoraportError(f"the carried adapter would hold NaN or Inf in {name}")
    save_tensors(directory / WEIGHTS, tensors)
    (directory / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _whole(value: float) -> float | int:
    return int(value) if value == int(value) else value
