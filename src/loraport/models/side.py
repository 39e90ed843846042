"""One model as a transfer sees it."""

from dataclasses import dataclass

from .families import Architecture, Dimensions


@dataclass(frozen=True)
class Side:
    """Names and sizes of a model, no weights."""

    family: Architecture
    dims: Dimensions
