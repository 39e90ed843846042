"""Whole tensors that an adapter trained in place of its base's (modules_to_save)."""

from typing import TYPE_CHECKING

import numpy as np

from ..errors import LoraportError
from ..models.side import Side

if TYPE_CHECKING:
    from ..adapters.files import Adapter


def keep_saved(adapter: "Adapter", old: Side, new: Side) -> dict[str, np.ndarray]:
    """An adapter's whole tensors under the new model's names, where the shapes agree.

    Input embedding and output head are kept as they are, and norms outside the blocks within one
    family; a warning says so. Anything else is refused by name.
    """
    names = {old.family.embedding: new.family.embedding, old.family.head: new.family.head}
    table = (new.dims.vocabulary, new.dims.hidden)
    shapes = {old.family.embedding: table, old.family.head: table}
    if old.family == new.family:
        names |= {path: path for path in old.family.norms if "{layer}" not in path}
    kept: dict[str, np.ndarray] = {}
    for name, values in sorted(adapter.saved.items()):
        path, _, end = name.rpartition(".")
        wanted = shapes.get(path, (new.dims.hidden,))
        if path not in names or end not in ("weight", "bias") or values.shape != wanted:
            raise LoraportError(
                f"adapter {adapter.directory} holds a whole module that has no place in the new "
                "model",
                got=f"modules_to_save: {name} {values.shape}",
                expected=f"{' or '.join(sorted(names))}, of the new model's shape {wanted}",
                todo="train it without that module in modules_to_save; LoRA on an embedding or a "
                "head, among its target modules, is carried by W_h",
            )
        kept[f"{names[path]}.{end}"] = values
    if kept:
        adapter.warnings.append(
            f"kept as they are: {', '.join(sorted(kept))}; rows of a vocabulary must stand for the "
            "same tokens in both models"
        )
    return kept
