"""Dimensions of models, from the specs that rules read."""

import json
from pathlib import Path
from typing import Any

from ..models.families import Dimensions


def read_sizes(spec: str | Path) -> Dimensions:
    """Dimensions from a spec.json."""
    return Dimensions.of(json.loads(Path(spec).read_text())["dimensions"])


def read(inputs: Any) -> list[Dimensions]:
    """Dimensions from the specs among a rule's named inputs, the old model's first.

    Raises FileNotFoundError while a spec is still to be made: Snakemake then asks again.
    """
    names = [name for name in ("spec", "old_spec", "new_spec") if hasattr(inputs, name)]
    return [read_sizes(getattr(inputs, name)) for name in names]
