"""Whether two folders hold the same model, whatever they are called."""

from pathlib import Path

from ..errors import LoraportError
from .spec import Model, is_local, open_model
from .tokens import read_vocabulary

SAMPLE_ROWS = 4  # of each tensor that are compared


def folder_at_hand(source: str) -> Path | None:
    """The folder of a model that lies on this machine: a path, or a hub id's newest snapshot."""
    path = Path(source)
    if path.is_dir():
        return path if (path / "config.json").is_file() else None
    if is_local(source):
        return None
    from huggingface_hub import try_to_load_from_cache

    try:
        config = try_to_load_from_cache(source, "config.json")
    except ValueError:  # not a name that the hub could have
        return None
    return Path(config).parent if isinstance(config, str) else None


def why_same(one: Path, other: Path) -> str:
    """What two folders have in common where they hold one model; empty where they do not.

    Compared are family and dimensions, the tokenizers where both have one, and, where both have
    weights, the first rows of every tensor.
    """
    try:
        models = [open_model(folder) for folder in (one, other)]
        if len({(m.architecture.name, m.dims, m.tied) for m in models}) != 1:
            return ""
        vocabularies = [read_vocabulary(folder).raw for folder in (one, other)]
    except LoraportError:
        return ""
    if vocabularies[0] != vocabularies[1]:
        return ""
    return _compared(*models)


def _compared(one: Model, other: Model) -> str:
    alike = "the same config and tokenizer"
    try:
        held = one.checkpoint(), other.checkpoint()
    except LoraportError:
        return f"{alike}; its weights could not be compared"
    if set(held[0].names()) != set(held[1].names()):
        return ""
    for name in held[0].names():
        if held[0].shape(name) != held[1].shape(name) or held[0].dtype(name) != held[1].dtype(name):
            return ""
        rows = slice(0, SAMPLE_ROWS) if held[0].shape(name) else None
        first, second = (each.read_raw(name, rows).tobytes() for each in held)
        if first != second:
            return ""
    return f"{alike}, and the same weights"
