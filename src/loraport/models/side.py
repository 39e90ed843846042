"""One model as a transfer sees it."""

from dataclasses import dataclass

from .families import Architecture, Dimensions


@dataclass(frozen=True)
class Side:
    """Names and sizes of a model, no weights."""

    family: Architecture
    dims: Dimensions

    def at(self, layer: int) -> "Side":
        """One layer of it, where layers differ."""
        return Side(self.family, self.dims.at(layer))

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that it has; of a model, those that any of its layers has."""
        return self.family.roles_of(self.dims)

    @property
    def modules(self) -> dict[str, tuple[str, ...]]:
        """Its modules, below a block, with the roles that each holds."""
        return self.family.modules_of(self.dims)
