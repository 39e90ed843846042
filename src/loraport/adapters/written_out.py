"""An adapter's folder as peft should read it: every target by its name, and names as the model's.

peft finds modules by the expressions of a config, which may come from anywhere and may take
exponential time, and tensors by their exact names. What the file holds says both without matching.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..artifacts import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from ..errors import LoraportError
from ..models.families import Architecture, family_of
from ..models.weights import TensorFile, save_tensors
from .files import ORIGINAL, held_twice, read_config
from .kinds import kind_of
from .names import PREFIX, plain_name
from .patterns import by_pattern, has_unsafe
from .trained_tokens import FIELD

BY_PATTERN = {"rank_pattern": "r", "alpha_pattern": "lora_alpha"}
# what chooses modules beside `target_modules`, and has nothing to choose where they are listed
CHOOSING = ("exclude_modules", "layers_pattern", "layers_to_transform")
TWIN = ".modules_to_save."  # in the second name of a whole table, whose first one is plain
ENDS = (".lora_embedding_A", ".lora_embedding_B", ".token_adapter.")


@contextmanager
def written_out(directory: Path, config: Mapping[str, Any]) -> Iterator[Path]:
    """An adapter's folder for peft: itself where its names and expressions are plain, else a copy.

    Parameters
    ----------
    config : of the model that the adapter is put on, as a config.json holds it
    """
    own, file = read_config(directory), TensorFile(directory / ADAPTER_WEIGHTS)
    family = _family(config)
    names = {name: _own_name(name, family) for name in file.tensors if ORIGINAL not in name}
    twins = {name for name, plain in names.items() if TWIN in name and plain in names}
    names = {name: plain for name, plain in names.items() if name not in twins}
    plain = list(names) == list(names.values()) and len(names) == len(file.tensors)
    if plain and not has_unsafe(own):
        yield directory
        return
    if len(set(names.values())) != len(names):
        counts = Counter(names.values())
        raise held_twice(directory, next(name for name in names if counts[names[name]] > 1))
    with TemporaryDirectory(prefix="loraport_") as folder:
        copy = Path(folder)
        save_tensors(copy / ADAPTER_WEIGHTS, {own: file.read(name) for name, own in names.items()})
        (copy / ADAPTER_CONFIG).write_text(json.dumps(_listed(own, names, copy, family)))
        yield copy


def _family(config: Mapping[str, Any]) -> Architecture | None:
    try:
        return family_of({**config, "quantization_config": None}, "the model")
    except LoraportError:
        return None


def _own_name(name: str, family: Architecture | None) -> str:
    """A tensor's name with peft's prefix, below it the module as the model has it."""
    plain = plain_name(name)
    for end in (*ENDS, ".lora_", ".base_layer."):
        path, found, part = plain.partition(end)
        if found:
            own = path if family is None else family.own_path(path)
            return f"{PREFIX}{own}{end}{part}"
    module, _, end = plain.rpartition(".")
    own = module if family is None else family.own_path(module)
    return f"{PREFIX}{own}.{end}"


def _listed(
    config: Mapping[str, Any], names: Mapping[str, str], where: Path, family: Architecture | None
) -> dict[str, Any]:
    """A config that names each module, with its rank and alpha where they differ."""
    parts = kind_of(config, where).PARTS
    paths: dict[str, str] = {}  # module of the model -> the same as the file calls it
    for name, own in names.items():
        end = next((f".{part}" for part in parts if own.endswith(f".{part}")), None)
        if end is not None:
            paths[own.removeprefix(PREFIX).removesuffix(end)] = plain_name(name).removesuffix(end)
    listed = {**config, "target_modules": sorted(paths), **dict.fromkeys(CHOOSING)}
    for key, usual in BY_PATTERN.items():
        values = {
            own: by_pattern(config.get(key) or {}, path, config.get(usual))
            for own, path in paths.items()
        }
        listed[key] = {own: each for own, each in values.items() if each != config.get(usual)}
    if config.get("modules_to_save") and family is not None:
        listed["modules_to_save"] = [family.own_path(each) for each in config["modules_to_save"]]
    if isinstance(config.get(FIELD), dict) and family is not None:
        listed[FIELD] = {family.own_path(each): ids for each, ids in config[FIELD].items()}
    return listed
