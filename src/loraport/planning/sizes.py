"""Numbers that the plan counts with: of a model's weights, and of the sums and fits of a pair."""

import math
from collections.abc import Collection
from typing import NamedTuple

from ..models.families import FEED_FORWARD, ROLES, Dimensions

DOUBLE_BYTES, SINGLE_BYTES, HALF_BYTES = 8, 4, 2
RIDGES_TRIED = 8  # of the grid, where each costs a factorisation (solutions.Factored)
# role -> where it reads (calibration.sites); others read what linear attention does
READS_AT = {"q": "attention", "k": "attention", "v": "attention", "q_gate": "attention",
            "o": "heads", "gate": "mlp", "up": "mlp", "down": "inner",
            "linear_o": "linear_heads"}  # fmt: skip
STREAM_ROLES = ("o", "down", "linear_o")  # that write into the residual stream


def parameters(dims: Dimensions) -> int:
    """Weights of all linear modules and of both embeddings, a close upper bound."""
    blocks = sum(block_parameters(dims.at(layer)) for layer in range(dims.layers))
    return blocks + dims.vocabulary * dims.hidden + around_blocks(dims)


def around_blocks(dims: Dimensions) -> int:
    """Weights that stay while blocks are streamed: the input embedding, and that of the layers'
    own inputs.
    """
    return dims.vocabulary * (dims.hidden + dims.layers * dims.per_layer_input)


def kept_widths(dims: Dimensions) -> int:
    """Numbers a token that are kept between blocks: the stream, and of two layer types the keys and
    values that later layers read.
    """
    borrow = any(dims.at(layer).borrows >= 0 for layer in range(dims.layers))
    return dims.hidden + (4 * dims.kv_heads * dims.head_dim if borrow else 0)


def block_parameters(dims: Dimensions) -> int:
    """Weights of the linear modules of one block."""
    held = [role for role in ROLES if role not in dims.lacks]
    sizes = {role: math.prod(dims.shape(role)) for role in held}
    feed_forward = sum(size for role, size in sizes.items() if role in FEED_FORWARD)
    return sum(sizes.values()) + (dims.experts - 1) * feed_forward


def held_roles(dims: Dimensions) -> list[str]:
    """Roles that a model of these sizes may have."""
    return [role for role in ROLES if all(dims.shape(role))]


def shared_roles(old: Dimensions, new: Dimensions, roles: Collection[str] = ROLES) -> list[str]:
    """Those of some roles that both models of a pair may have."""
    return [role for role in held_roles(old) if role in held_roles(new) and role in roles]


def read_sites(
    old: Dimensions, new: Dimensions, roles: Collection[str] = ROLES
) -> dict[str, tuple[int, int]]:
    """Site that a module of some roles reads -> widths there, of the old and of the new model."""
    widths = [
        {
            "attention": d.hidden,
            "heads": d.heads * d.head_dim,
            "linear": d.hidden,
            "linear_heads": d.linear_values,
            "mlp": d.hidden,
            "inner": d.intermediate,
        }
        for d in (old, new)
    ]
    read = {READS_AT.get(role, "linear") for role in shared_roles(old, new, roles)}
    return {site: (width, widths[1][site]) for site, width in widths[0].items() if site in read}


def site_sums(old: Dimensions, new: Dimensions, roles: Collection[str] = ROLES) -> float:
    """Bytes of one layer pair's moments, of both parts of the texts, for maps of some roles."""
    both = shared_roles(old, new, roles)
    total = 0
    read = read_sites(old, new, roles)
    for o, n in read.values():  # Σ x yᵀ and Σ y yᵀ
        total += o * n + n * n
    if {"gate", "up"} & set(both):  # what they write is what down reads
        total += old.intermediate**2
        total += 0 if "inner" in read else old.intermediate * new.intermediate
    stream = old.hidden**2 + old.hidden * new.hidden + new.hidden**2
    total += _streams(both) * stream  # behind o and behind down
    for role in both:  # Σ x yᵀ and Σ x xᵀ of what is written
        if role not in ("gate", "up"):
            o, n = old.shape(role)[0], new.shape(role)[0]
            total += o * n + o * o
    return 2 * DOUBLE_BYTES * total


def read_widths(dims: Dimensions) -> tuple[int, int, int, int]:
    """Of what attention, o, gate with up, and down read."""
    return dims.hidden, dims.heads * dims.head_dim, dims.hidden, dims.intermediate


class FitShape(NamedTuple):
    """A ridge map of a layer pair, as `aligned` fits it from second moments.

    Attributes
    ----------
    targets, sources : widths of what is predicted, and of what it is predicted from
    tries : values of the ridge that are tried where each costs a factorisation
    prior : whether it is drawn to a rotation
    kept : whether its map waits in float64 for the others of its layer
    """

    targets: int
    sources: int
    tries: int
    prior: bool
    kept: bool = False

    @property
    def sums(self) -> int:
        """Numbers of its sums, of one part of the texts."""
        return self.sources * (self.targets + self.sources)


def input_fits(old: Dimensions, new: Dimensions, roles: Collection[str] = ROLES) -> list[FitShape]:
    """Of what the old model's modules read from what the new one's read, at each site."""
    widths = read_sites(old, new, roles).values()
    return [FitShape(o, n, RIDGES_TRIED, True, True) for o, n in widths]


def output_fits(old: Dimensions, new: Dimensions, roles: Collection[str] = ROLES) -> list[FitShape]:
    """Of what the new model's modules write from what the old one's write, and of both streams."""
    both = shared_roles(old, new, roles)
    apart = [role for role in both if role not in ("gate", "up", *STREAM_ROLES)]
    widths = [(new.shape(role)[0], old.shape(role)[0]) for role in apart]
    if {"gate", "up"} & set(both):
        widths.append((new.intermediate, old.intermediate))
    behind = [FitShape(old.hidden, new.hidden, 2, False)] * _streams(both)
    return [FitShape(t, s, 2, True) for t, s in widths] + behind


def fits(old: Dimensions, new: Dimensions, roles: Collection[str] = ROLES) -> list[FitShape]:
    """All of a layer pair, in their order."""
    return [*input_fits(old, new, roles), *output_fits(old, new, roles)]


def _streams(roles: Collection[str]) -> int:
    """How many places of the residual stream some roles write into: behind o, and behind down."""
    return len({role.removeprefix("linear_") for role in roles if role in STREAM_ROLES})
