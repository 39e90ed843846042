"""Sites of a decoder block: where what modules read and write is caught, and for which maps."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from ..models.families import Dimensions
from ..models.spec import Model

# role -> site that its input stands at, and site that its output map is fitted at. gate and up are
# fitted behind the activation: their own outputs lie in a space of the hidden size, below theirs
LINEAR = ("linear_q", "linear_k", "linear_v", "linear_z", "linear_b", "linear_a")
READS = {"q": "attention", "k": "attention", "v": "attention", "q_gate": "attention", "o": "heads",
         **dict.fromkeys(LINEAR, "linear"), "linear_o": "linear_heads",
         "gate": "mlp", "up": "mlp", "down": "inner"}  # fmt: skip
WRITES = {role: "inner" if role in ("gate", "up") else role for role in READS}
# o and down write into the residual stream: role -> site where the stream has taken their output in
STREAM = {"o": "middle", "linear_o": "middle", "down": "stream"}
EXPERTS = "experts"  # site of what a mixture of experts reads, and its router; no role's
# site -> role of the module, and whether its input or its output is meant
SITES = {
    "middle": ("block", "input"),
    "stream": ("block", "output"),
    "attention": ("q", "input"),
    "heads": ("o", "input"),
    "mlp": ("up", "input"),
    "inner": ("down", "input"),
    "q": ("q", "output"),
    "k": ("k", "output"),
    "v": ("v", "output"),
    "o": ("o", "output"),
    "down": ("down", "output"),
    "q_gate": ("q_gate", "output"),
    "linear": ("linear_q", "input"),
    "linear_heads": ("linear_o", "input"),
    **{role: (role, "output") for role in (*LINEAR, "linear_o")},
}


def needed(roles: Collection[str]) -> dict[str, tuple[bool, bool]]:
    """Sites that maps of these roles are fitted at, and whether Σ x xᵀ and Σ y yᵀ are needed there.

    The first for a map that writes the new model's side, the second for one that reads it.
    """
    stream = {STREAM[role] for role in roles if role in STREAM}
    written = stream | {WRITES[role] for role in roles}
    read = stream | {READS[role] for role in roles}
    return {site: (site in written, site in read) for site in SITES if site in written | read}


@contextmanager
def caught_sites(
    base: Any, model: Model, layer: int, rows: Callable[[], torch.Tensor]
) -> Iterator[dict[str, torch.Tensor]]:
    """Catch what passes the sites of a layer: site -> (tokens, width) at the positions `rows()`.

    Where a norm or a factor stands on what o or down writes, `normed(site)` of the site behind it
    holds what the residual stream takes in; of a norm `rms(site)`, (tokens, 1), is the rms of what
    the module wrote. Where a block changes the stream once more behind down, `stream` is what it is
    before that.
    """
    family, dims = model.architecture, model.dims.at(layer)
    caught: dict[str, torch.Tensor] = {}
    roles = family.roles_of(dims)
    modules = dict(base.named_modules())
    catch = partial(_catch, caught, rows)
    handles = []
    for site, (role, where) in SITES.items():
        if site in STREAM.values():
            block = modules[family.block.format(layer=layer)]
            handles.append(block.register_forward_hook(catch(site, where, None)))
        elif role in roles:
            module = modules[family.path(layer, family.module_of(role))]
            hook = catch(site, where, family.rows(role, dims))
            handles.append(module.register_forward_hook(hook))
    if family.experts:
        module = modules[family.path(layer, family.experts[0])]
        handles.append(module.register_forward_hook(catch(EXPERTS, "input", None)))
    for role in STREAM if model.residual != 1 else ():
        if role not in roles:
            continue
        module = modules[family.path(layer, family.module_of(role))]
        handles.append(module.register_forward_hook(_scale(caught, role, model.residual)))
    for role, norm in family.output_norms.items():
        hook = _catch_norm(caught, STREAM[role], rows, family.norm_shift)
        handles.append(modules[family.path(layer, norm)].register_forward_hook(hook))
    block = modules[family.block.format(layer=layer)]

    def add_attention(module: Any, inputs: Any, output: Any) -> None:
        caught["middle"] = caught["middle"] + written(caught, "middle")
        if family.behind and "down" in roles:
            caught["stream"] = caught["middle"] + written(caught, "stream")

    handles.append(block.register_forward_hook(add_attention))
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def normed(site: str) -> str:
    """Name under which what a norm or a factor makes of a module's output is caught."""
    return f"{site} normed"


def rms(site: str) -> str:
    """Name under which the rms of what a module writes, before its norm, is caught."""
    return f"{site} rms"


def written(caught: Mapping[str, torch.Tensor], site: str) -> torch.Tensor:
    """What the residual stream has taken in behind o (`middle`) or down (`stream`)."""
    names = [normed(site), *(role for role, behind in STREAM.items() if behind == site)]
    return caught[next(name for name in names if name in caught)]


def _catch(
    caught: dict[str, torch.Tensor],
    rows: Callable[[], torch.Tensor],
    site: str,
    where: str,
    cut: np.ndarray | None,
) -> Callable:
    """Hook of a module whose input or output stands at a site; `cut` picks columns of an output."""

    def hook(module: Any, inputs: Any, output: Any) -> None:
        values = inputs[0] if where == "input" else output
        values = values[0] if isinstance(values, tuple) else values
        text, place = rows().to(values.device)
        picked = values[text, place]
        caught[site] = picked if cut is None or where == "input" else picked[:, cut]

    return hook


def _scale(caught: dict[str, torch.Tensor], role: str, factor: float) -> Callable:
    """Hook of a module whose output, caught before, is taken in by the stream times a factor."""

    def hook(module: Any, inputs: Any, output: Any) -> None:
        caught[normed(STREAM[role])] = caught[role] * factor

    return hook


def _catch_norm(
    caught: dict[str, torch.Tensor], site: str, rows: Callable[[], torch.Tensor], shift: float
) -> Callable:
    """Hook of a norm `N(y) = w ∘ y / rms(y)`: N(y), and rms(y) as the norm itself has it."""

    def hook(module: Any, inputs: Any, output: Any) -> None:
        text, place = rows().to(output.device)
        after = output[text, place].double()
        weighted = inputs[0][text, place].double() * (module.weight.double() + shift)
        square = weighted.square().sum(dim=1, keepdim=True)
        both = (weighted * after).sum(dim=1, keepdim=True)  # Σ (w ∘ y)² / rms
        caught[normed(site)] = output[text, place]
        caught[rms(site)] = torch.where(both > 0, square / both, 1.0)

    return hook


def width(dims: Dimensions, site: str) -> int:
    """Numbers a token at a site."""
    role, where = SITES[site]
    if site in STREAM.values():
        return dims.hidden
    return dims.shape(role)[1 if where == "input" else 0]
