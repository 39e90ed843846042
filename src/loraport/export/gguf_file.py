"""A LoRA as GGUF, the format of llama.cpp: names, row order and scale as that program reads them.

It computes `α / r · B A x` for each tensor, with one α for the file and r from the tensor's shape.
Names of tensors are those of the package `gguf`; the order of rows and the metadata are those of
llama.cpp's converter, convert_lora_to_gguf.py (`gguf_rows`).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ..adapters.audit import audit
from ..adapters.files import Adapter, read_adapter
from ..adapters.lora_weights import LoraWeights
from ..artifacts import atomic
from ..errors import LoraportError
from ..models.spec import Model, read_config
from .gguf_rows import column_order, row_order

SAME_SCALE = float(np.finfo(np.float32).eps)  # relative difference below which two scales are one


@dataclass(frozen=True)
class Tensor:
    """One tensor of a GGUF file: its name, and its values (rows, columns) in float32."""

    name: str
    values: np.ndarray


@dataclass(frozen=True)
class Written:
    """What a GGUF file holds.

    Attributes
    ----------
    architecture : of the base, as llama.cpp calls it
    modules : how many are adapted
    alpha : the file's one α; modules of another scale have the ratio in their B
    rescaled : modules whose B holds such a ratio
    """

    architecture: str
    modules: int
    alpha: float
    rescaled: int


@cache
def known() -> dict[str, dict[str, Any]]:
    """`model_type` -> llama.cpp's name of the architecture, and the roles whose rows it pairs."""
    return json.loads(files(__package__).joinpath("gguf_names.json").read_text(encoding="utf-8"))


def export_gguf(directory: Path, model: Model, out: Path, base: str = "") -> Written:
    """Write an adapter as GGUF, and read the file back.

    Parameters
    ----------
    directory : PEFT directory of the adapter
    model : its base, of which config.json alone is read
    base : the base's id on the hub, for the file's metadata

    Raises
    ------
    LoraportError
        If `gguf` is not installed, llama.cpp can't take what the adapter holds, or what was read
        back is not what was written.
    """
    gguf = _package()
    kind = known_form(model)
    adapter = read_adapter(directory)
    refuse_what_gguf_lacks(adapter, model)
    names = {str(directory), str(adapter.config.get("base_model_name_or_path"))}
    audit(adapter, model.architecture, model.dims, names, vocabulary=True)
    modules = {path: each for path, each in adapter.modules.items() if each.rank}
    alpha = _alpha(modules)
    tensors = list(_tensors(gguf, modules, model, kind, alpha))
    with atomic(out) as temporary:
        _write(gguf, temporary, kind["architecture"], alpha, tensors, directory.name, base)
        _compare(gguf, temporary, alpha, tensors)
    return Written(
        kind["architecture"],
        len(modules),
        alpha,
        sum(abs(_ratio(each, alpha) - 1) > SAME_SCALE for each in modules.values()),
    )


def _package() -> Any:
    try:
        import gguf  # of the extra `export`
    except ImportError as error:
        raise LoraportError(
            "GGUF files are written by the package `gguf`, which is not installed",
            expected="gguf 0.18 or newer",
            todo="pip install 'loraport[export]'",
        ) from error
    return gguf


def known_form(model: Model) -> dict[str, Any]:
    """How llama.cpp's converter treats a model's family."""
    kind = read_config(model.directory).get("model_type")
    if kind not in known():
        raise LoraportError(
            f"how llama.cpp names the tensors of {model.directory} is not known here",
            got=f"model_type {kind!r}",
            expected=f"one of {', '.join(sorted(known()))}",
            todo="convert the adapter by llama.cpp's own convert_lora_to_gguf.py",
        )
    return known()[kind]


def refuse_what_gguf_lacks(adapter: Adapter, model: Model) -> None:
    """Raise for what has no place in the file: magnitudes, biases, whole modules, experts (whose
    tensors hold all of them at once), tied heads.
    """
    family = model.architecture
    magnitudes = [path for path, each in adapter.modules.items() if each.magnitude is not None]
    biases = [path for path, each in adapter.modules.items() if each.bias is not None]
    experts = [path for path in adapter.modules if family.is_of_experts(path)]
    tied = [path for path in adapter.modules if family.own_path(path) == family.head and model.tied]
    kinds = {
        "DoRA's magnitudes": magnitudes,
        "biases of the adapter's own": biases,
        "whole modules (modules_to_save)": sorted(adapter.saved),
        "experts of a mixture, or their router": experts,
        "an output head that shares the embedding's weight": tied,
    }
    got = [f"{what}, such as {which[0]}" for what, which in kinds.items() if which]
    if got:
        raise LoraportError(
            f"adapter {adapter.directory} holds what llama.cpp does not load as a LoRA",
            got="; ".join(got),
            expected="plain LoRA, rsLoRA or AdaLoRA on linear modules and the input embedding",
            todo="merge it into the model (loraport transfer --merged) and convert that; whole "
            "modules may stay as LoRA by `loraport export --vllm --stand-in RANK`",
        )


def _alpha(modules: Mapping[str, LoraWeights]) -> float:
    """The file's α: that of the first module, as alpha = scale · r has it."""
    first = modules[min(modules)]
    return float(np.float32(first.scale * first.rank))


def _ratio(weights: LoraWeights, alpha: float) -> float:
    """By what B is multiplied, so that α / r gives the module's own scale."""
    ratio = weights.scale * weights.rank / alpha
    return 1.0 if abs(ratio - 1) < SAME_SCALE else ratio


def _tensors(
    gguf: Any, modules: Mapping[str, LoraWeights], model: Model, kind: Mapping[str, Any],
    alpha: float,
) -> Iterator[Tensor]:  # fmt: skip
    family = model.architecture
    number = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}[kind["architecture"]]
    table = gguf.get_tensor_name_map(number, model.dims.layers)
    for path, weights in sorted(modules.items()):
        name = _tensor_name(table, path)
        b = weights.b.astype(np.float64)
        a = weights.a.astype(np.float64)
        if path == family.embedding:  # rows of tokens are looked up in a; b multiplies them
            a, b = b, a.T
        else:
            rows = row_order(model, path, kind.get("interleaved", ()))
            columns = column_order(model, path)
            b = b if rows is None else b[rows]
            a = a if columns is None else a[:, columns]
        b = b * _ratio(weights, alpha)
        yield Tensor(f"{name}.lora_a", np.ascontiguousarray(a, np.float32))
        yield Tensor(f"{name}.lora_b", np.ascontiguousarray(b, np.float32))


def _tensor_name(table: Any, path: str) -> str:
    """llama.cpp's name of a module's weight; its table leaves out what stands around the model."""
    plain = path.replace("language_model.", "")
    for each in (path, plain, plain.removeprefix("transformer.")):
        name = table.get_name(f"{each}.weight", try_suffixes=(".weight",))
        if name is not None:
            return name
    raise LoraportError(
        "llama.cpp has no tensor for a module that the adapter adapts",
        got=path,
        expected="a module of the base that the package `gguf` names",
        todo="take a newer `gguf`, or llama.cpp's own convert_lora_to_gguf.py",
    )


def _write(
    gguf: Any, path: Path, architecture: str, alpha: float, tensors: list[Tensor], name: str,
    base: str,
) -> None:  # fmt: skip
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    writer.add_name(name)
    if base:
        owner, _, last = base.rpartition("/")
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, last)
        if owner:
            writer.add_base_model_organization(0, owner)
            writer.add_base_model_repo_url(0, f"https://huggingface.co/{base}")
    for each in tensors:
        writer.add_tensor(each.name, each.values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Metadata and tensors of a GGUF file; a tensor's axes are in numpy's order."""
    reader = _package().GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items() if "." in name}
    return fields, {each.name: np.array(each.data) for each in reader.tensors}


def _compare(gguf: Any, path: Path, alpha: float, tensors: list[Tensor]) -> None:
    """Raise where a file does not hold what was to be written."""
    fields, held = read_gguf(path)
    wrong = [
        each.name
        for each in tensors
        if each.name not in held or not np.array_equal(held[each.name], each.values)
    ]
    if wrong or len(held) != len(tensors) or fields[gguf.Keys.Adapter.LORA_ALPHA] != alpha:
        raise LoraportError(
            f"{path} does not hold the adapter that was written to it",
            got=f"{len(held)} tensors; other values in {', '.join(wrong[:3]) or 'none'}",
            expected=f"{len(tensors)} tensors as they were written, alpha {alpha:g}",
            todo="check the disk, and the version of the package `gguf`",
        )
