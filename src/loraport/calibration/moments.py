"""Second moments of what two models' modules read and write on the same tokens.

Both models read the same texts; tokens that end on the same character are one pair of rows. Only
sums of outer products are kept, in float64, so that memory does not grow with the texts. A part of
the texts is held out, for choices that must not be made on what was fitted.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import torch

from ..models.families import ROLES
from ..models.spec import Model
from ..numerics.linalg import chunks
from .batches import PARTS
from .sites import needed, width

ADDED_AT_ONCE = 2048  # rows of a triangle
MIRRORED_AT_ONCE = 1024  # rows of a matrix
SUMS = ("cross", "gram_old", "gram_new", "sum_old", "sum_new")
SIZES = ("square_old", "square_new", "rms_old", "rms_new")  # numbers, in the order of `sizes`


def no_sizes() -> torch.Tensor:
    """`sizes` of no token."""
    return torch.zeros(len(SIZES), dtype=torch.float64)


@dataclass
class Moments:
    """Sums over paired tokens at one site; `x` rows of the old model, `y` of the new one.

    Attributes
    ----------
    count : token pairs
    cross : Σ x yᵀ (d_o, d_n)
    gram_old, gram_new : Σ x xᵀ and Σ y yᵀ, None where no map needs them
    sum_old, sum_new : Σ x and Σ y
    sizes : the four numbers below, where the sums are: a GPU adds to them and nobody waits for it
    square_old, square_new : Σ ‖x‖² and Σ ‖y‖²
    rms_old, rms_new : at a site where the residual stream has taken a normed output in: Σ rms of
        what the module wrote, as its norm has it; 0 where the family has no such norm
    lower : of Σ x xᵀ and Σ y yᵀ only the lower triangles are summed, until they are mirrored
    """

    cross: torch.Tensor
    gram_old: torch.Tensor | None
    gram_new: torch.Tensor | None
    sum_old: torch.Tensor
    sum_new: torch.Tensor
    sizes: torch.Tensor = field(default_factory=no_sizes)
    count: int = 0
    lower: bool = False

    @property
    def square_old(self) -> float:
        """Σ ‖x‖²."""
        return float(self.sizes[0])

    @property
    def square_new(self) -> float:
        """Σ ‖y‖²."""
        return float(self.sizes[1])

    @property
    def rms_old(self) -> float:
        """Σ rms of what the old model's module wrote."""
        return float(self.sizes[2])

    @property
    def rms_new(self) -> float:
        """Σ rms of what the new model's module wrote."""
        return float(self.sizes[3])

    @classmethod
    def empty(
        cls, site: str, old: int, new: int, device: str, roles: Collection[str] = ROLES
    ) -> "Moments":
        """Of no token yet, for maps of `roles`; `old` and `new` are the widths at the site."""

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        written, read = needed(roles)[site]
        return cls(
            zeros(old, new),
            zeros(old, old) if written else None,
            zeros(new, new) if read else None,
            zeros(old),
            zeros(new),
        )

    def add(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        rms_old: torch.Tensor | None = None,
        rms_new: torch.Tensor | None = None,
    ) -> None:
        """Take in token pairs, (t, d_o) and (t, d_n); `rms_old` and `rms_new` are (t, 1)."""
        x, y = x.to(self.cross), y.to(self.cross)
        self.cross.addmm_(x.T, y)
        if self.gram_old is not None:
            self._add_square(self.gram_old, x)
        if self.gram_new is not None:
            self._add_square(self.gram_new, y)
        self.sum_old += x.sum(dim=0)
        self.sum_new += y.sum(dim=0)
        squares = [x.square().sum(), y.square().sum()]
        none = torch.zeros_like(squares[0])
        sizes = (none if each is None else each.sum().to(none) for each in (rms_old, rms_new))
        self.sizes = self.sizes.to(none) + torch.stack([*squares, *sizes])
        self.count += len(x)

    def _add_square(self, gram: torch.Tensor, x: torch.Tensor) -> None:
        if not self.lower:
            gram.addmm_(x.T, x)
            return
        for rows in chunks(len(gram), ADDED_AT_ONCE):
            gram[rows, : rows.stop].addmm_(x[:, rows].T, x[:, : rows.stop])

    def mirror(self) -> None:
        """Make Σ x xᵀ and Σ y yᵀ symmetric to the last bit, by their lower triangles, as they are
        once they were stored.
        """
        for gram in (self.gram_old, self.gram_new):
            if gram is not None:
                for rows in chunks(len(gram), MIRRORED_AT_ONCE):
                    gram[: rows.start, rows] = gram[rows, : rows.start].T
                    square = gram[rows, rows]
                    square.copy_(square.tril() + square.tril(-1).T)
        self.lower = False

    def leave(self, copied: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
        """Put the sums into the machine's memory; `copied` gives what there takes the place of a
        sum, by the sum's name.
        """
        for name in SUMS:
            values = getattr(self, name)
            if values is not None:
                setattr(self, name, copied(name, values))
        self.sizes = self.sizes.cpu()

    def __add__(self, other: "Moments") -> "Moments":
        def both(a: torch.Tensor | None, b: torch.Tensor | None) -> torch.Tensor | None:
            return None if a is None or b is None else a + b

        return Moments(
            self.cross + other.cross,
            both(self.gram_old, other.gram_old),
            both(self.gram_new, other.gram_new),
            self.sum_old + other.sum_old,
            self.sum_new + other.sum_new,
            self.sizes + other.sizes,
            self.count + other.count,
        )


def site_bytes(old: Model, new: Model, roles: Collection[str] = ROLES) -> int:
    """Memory that the sums of one layer pair take for maps of `roles`, in bytes."""
    total = 0
    families = [set(model.architecture.roles) for model in (old, new)]
    both = [role for role in roles if all(role in family for family in families)]
    for site, (written, read) in needed(both).items():
        o, n = width(old.dims, site), width(new.dims, site)
        total += o * n + o * o * written + n * n * read
    return total * len(PARTS) * 8


LayerMoments = Mapping[str, tuple[Moments, Moments]]
