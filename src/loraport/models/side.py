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

    def maker(self, layer: int, role: str) -> tuple[int, str] | None:
        """The (layer, role) whose weight makes a role of attention in a layer; None where none
        does.

        Attention may read the keys and values of an earlier layer, and take its keys for values.
        """
        own = self.at(layer)
        if role in ("k", "v") and own.dims.borrows >= 0:
            return self.maker(own.dims.borrows, role)
        if role == "v" and role not in own.roles:
            role = "k"
        return (layer, role) if role in own.roles else None
