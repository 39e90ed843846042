"""What a model is: where it lies, its family, its dimensions and its weight files."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..artifacts import ADAPTER_FILES, SUMS, read_json, sha256
from ..errors import LoraportError, words
from .families import Architecture, Dimensions, families, family_of
from .folder import left_aside, refuse_pointer, weight_files
from .weights import Checkpoint

# of a model's repository: config, weights, tokenizer with its chat template, and code, which runs
# only where `remote_code` says so; not other formats' folders, nor the weights a second time
HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.tiktoken", "*.txt", "vocab.*"]
HUB_FILES += ["*.jinja", "*.py"]
NOT_FETCHED = ["*/*", "consolidated*"]


@dataclass(frozen=True)
class Model:
    """A model's identity as its spec.json states it; weights are read through `checkpoint`.

    Attributes
    ----------
    tied : whether the output head shares the input embedding's weight
    checksums : weight file -> tensor -> CRC-32 that what is read of it must have
    """

    architecture: Architecture
    dims: Dimensions
    directory: Path
    tied: bool = False
    checksums: Mapping[str, Mapping[str, int]] = field(
        default_factory=dict, compare=False, repr=False
    )

    def checkpoint(self) -> Checkpoint:
        """The weights, one tensor at a time."""
        return Checkpoint(self.directory, self.architecture.stored_names, self.checksums)

    def weight(self, checkpoint: Checkpoint, layer: int, role: str) -> np.ndarray:
        """A role's weight (d_out, d_in) in its stored dtype, cut out of a fused module."""
        family = self.architecture
        values = checkpoint.read(f"{family.path(layer, family.module_of(role))}.weight")
        rows = family.rows(role, self.dims.at(layer))
        return values if rows is None else values[rows]

    @property
    def residual(self) -> float:
        """What o's and down's outputs are multiplied by on their way into the residual stream."""
        if not self.architecture.residual:
            return 1.0
        where = str(self.directory / "config.json")
        return self.architecture.residual_factor(read_config(self.directory), where)

    def output_norm(self, layer: int, role: str) -> np.ndarray | None:
        """What the norm on a role's output multiplies by, (d,) float64; None where there is none.

        `N(y) = w ∘ y / rms(y)`: the `w` that is returned is the stored weight and the family's
        `norm_shift`.
        """
        norm = self.architecture.output_norms.get(role)
        if norm is None:
            return None
        stored = self.checkpoint().read(f"{self.architecture.path(layer, norm)}.weight")
        return stored.astype(np.float64) + self.architecture.norm_shift


def shared_roles(models: tuple[Model, Model], layers: tuple[int, int]) -> list[str]:
    """The roles that a layer of the old model and one of the new one both have."""
    old, new = (m.architecture.roles_of(m.dims.at(i)) for m, i in zip(models, layers, strict=True))
    return [role for role in old if role in new]


def is_local(source: str) -> bool:
    """Whether a config's `source` names a directory rather than a hub id (`owner/name`)."""
    return Path(source).is_dir() or source.startswith(("/", ".")) or source.count("/") != 1


def resolve(
    source: str,
    revision: str = "",
    *,
    offline: bool = False,
    patterns: Sequence[str] = HUB_FILES,
    what: str = "model",
) -> tuple[Path, str]:
    """Directory and resolved revision of a model, or of `what` else a repository holds.

    A local directory is used as it is (revision ""). From the hub only the `HUB_FILES` of the
    repository's own folder are fetched, or those of other `patterns`, into the hub's own cache; a
    revision that is a commit and lies there is asked for no more.
    """
    if is_local(source):
        path = Path(source)
        if not path.is_dir():
            raise LoraportError(
                f"{what} directory {source!r} is not there",
                got="no such directory",
                expected="a local directory, or a hub id of the form owner/name",
                todo="correct `source` in config.yaml (relative to the working directory)",
            )
        return path, ""
    from huggingface_hub import snapshot_download

    try:
        directory = snapshot_download(
            source,
            revision=revision or None,
            allow_patterns=list(patterns),
            ignore_patterns=NOT_FETCHED,
            local_files_only=offline,
        )
    except Exception as error:  # the library raises many kinds, those of its HTTP client among them
        raise LoraportError(
            f"{what} {source!r} could not be fetched from the hub",
            got=words(error),
            expected=f"{what} at revision {revision or 'newest'}",
            todo="check the id, the revision, the network and, for gated ones, your token, and run "
            "again (what was fetched is kept); or give a local directory as `source`",
        ) from error
    wanted = any(pattern.endswith(".safetensors") for pattern in patterns)
    if wanted and not any(Path(directory).glob("*.safetensors")):
        raise LoraportError(
            f"{what} {source!r} holds no safetensors on the hub",
            got=f"no such file at commit {Path(directory).name}",
            expected="*.safetensors; pickles can run code and are never fetched",
            todo="load it once where you trust it, save_pretrained() it as safetensors, and give "
            "that directory as `source`; or name another revision",
        )
    return Path(directory), Path(directory).name  # a snapshot folder is named by its commit


@cache
def adapter_directory(source: str) -> str:
    """Directory of an adapter; of one of the hub (owner/name, owner/name@revision) the snapshot.

    Only the config, the safetensors and their sums are fetched.
    """
    if not source or is_local(source):
        return source
    name, _, revision = source.partition("@")
    files = [*ADAPTER_FILES, SUMS]
    return str(resolve(name, revision, patterns=files, what="adapter")[0])


def read_config(directory: Path) -> dict[str, Any]:
    """config.json of a model directory."""
    path = directory / "config.json"
    try:
        refuse_pointer(path)
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LoraportError(
            f"{path} cannot be read",
            got=error,
            expected="the model's config.json",
            todo="correct the model's `source` in config.yaml, or download the model again",
        ) from error
    if not isinstance(config, dict):
        raise LoraportError(
            f"{path} is no JSON object",
            got=type(config).__name__,
            expected="{…}",
            todo="download the model again",
        )
    return config


def open_model(directory: Path) -> Model:
    """Family and dimensions from config.json; no weight is read."""
    config = read_config(directory)
    where = str(directory / "config.json")
    family = family_of(config, where)
    return Model(family, family.read_dimensions(config, where), directory, family.is_tied(config))


def _wanted(model: Model) -> Iterator[tuple[str, tuple[int, int]]]:
    """Weights that loraport uses and their shapes, one by one: a config may promise any number."""
    family, dims = model.architecture, model.dims
    yield f"{family.embedding}.weight", (dims.vocabulary, dims.hidden)
    if not model.tied:
        yield f"{family.head}.weight", (dims.vocabulary, dims.hidden)
    for layer in range(dims.layers):
        own = dims.at(layer)
        for module in family.modules_of(own):
            yield f"{family.path(layer, module)}.weight", family.module_shape(module, own)


def check_shapes(model: Model) -> None:
    """Compare every weight that loraport uses with what config.json promises; headers only."""
    checkpoint = model.checkpoint()
    for name, shape in _wanted(model):
        got = checkpoint.shape(name)
        if got != shape:
            rows = len(got) == 2 and got[1] == shape[1] and shape[0] == model.dims.vocabulary
            raise LoraportError(
                f"{model.directory}: weight {name!r} does not fit config.json",
                got=got,
                expected=shape,
                todo=f"set vocab_size in config.json to {got[0]} if the vocabulary was resized, "
                "or save the model again"
                if rows
                else "check that config.json and the weights belong to the same model",
            )


def describe(directory: Path, source: str, revision: str) -> dict[str, Any]:
    """Content of spec.json; reads every weight (for NaN and Inf) and hashes tensors and files.

    O(bytes of the model) time, one matrix of memory. Holds no local path: it can be shared.
    """
    model = open_model(directory)
    check_shapes(model)
    checkpoint = model.checkpoint()
    family = model.architecture
    for name in checkpoint.names():
        if not family.is_buffer(name):
            for part in _parts(checkpoint.shape(name)):
                checkpoint.read(name, part)
    others = [directory / name for name in ("config.json", "tokenizer.json", "tokenizer.model")]
    hashed = weight_files(directory) + [path for path in others if path.is_file()]
    aside = left_aside(directory)
    return {
        **({"left_aside": aside} if aside else {}),
        "family": family.name,
        "dimensions": model.dims.record(),
        "attention": model.dims.attention,
        "tied": model.tied,
        "other_tensors": sorted(name for name in checkpoint.names() if not family.describes(name)),
        "hub_id": "" if is_local(source) else source,
        "revision": revision,
        "files": {
            path.name: {"sha256": digest, "bytes": path.stat().st_size}
            for path, digest in zip(hashed, _hashes(hashed), strict=True)
        },
        "tensors": {
            file.path.name: {name: file.checksum(name) for name in sorted(file.tensors)}
            for file in checkpoint.files
        },
    }


def _parts(shape: tuple[int, ...]) -> list[slice | None]:
    """The whole of a tensor, or of one that stacks matrices each of them."""
    return [None] if len(shape) < 3 else [slice(place, place + 1) for place in range(shape[0])]


def _hashes(paths: Sequence[Path]) -> list[str]:
    """SHA-256 of files, as many at once as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(sha256, paths))


def load_spec(
    path: str | Path, source: str = "", revision: str = "", *, streamed: bool = False
) -> Model:
    """A model by its spec.json.

    Parameters
    ----------
    source : needed only where the model's weights will be read; they must be those of spec.json
    streamed : the weights are read through `Model.checkpoint`, which checks each tensor that it
        reads; else all weight files are hashed here, O(bytes of the model) time
    """
    content = read_json(path, "spec")
    directory = Path()
    if source:
        directory, _ = resolve(source, content["revision"] or revision)
        _check_unchanged(directory, content["files"], path, streamed)
    family, dims = families()[content["family"]], Dimensions.of(content["dimensions"])
    return Model(family, dims, directory, content["tied"], content.get("tensors", {}))


def _check_unchanged(
    directory: Path, files: Mapping[str, Any], spec: str | Path, streamed: bool
) -> None:
    """Compare a model's files with spec.json: sizes first, then hashes; of weights as asked."""
    paths = {directory / name: recorded for name, recorded in files.items()}
    for path, recorded in paths.items():
        size = path.stat().st_size if path.is_file() else None
        if size != recorded["bytes"]:
            got = f"{size} bytes" if size is not None else "no such file"
            raise _changed(path, spec, got, f"{recorded['bytes']} bytes")
    hashed = [path for path in paths if not (streamed and path.suffix == ".safetensors")]
    for path, actual in zip(hashed, _hashes(hashed), strict=True):
        if actual != (expected := paths[path]["sha256"]):
            raise _changed(path, spec, f"sha256 {actual[:12]}…", f"{expected[:12]}…")


def _changed(path: Path, spec: str | Path, got: str, expected: str) -> LoraportError:
    return LoraportError(
        f"{path} is not the file that {spec} describes",
        got=got,
        expected=expected,
        todo=f"restore the model, or delete {spec} to map the changed one",
    )
