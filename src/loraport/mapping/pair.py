"""The artifacts of a model pair as a method sees them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..artifacts import H5Writer, read_h5
from ..calibration.gradients import read_gradients
from ..calibration.moments import StoredSites, read_moments
from ..calibration.ridge import Fit
from ..methods import Adapted, MatchedHeads, Pair
from ..models.spec import Model
from .heads import ROLES
from .layers import read_path


def read_hidden_map(path: str | Path, device: str) -> torch.Tensor | None:
    """W_h (d_o, d_n) in float64, or None where the rule made it the identity."""
    with read_h5(path, "embedding") as file:
        if file.attrs["rule"] == "identity":
            return None
        return torch.from_numpy(file["W_h"][...]).double().to(device)


def read_heads(path: str | Path, layer: int) -> MatchedHeads:
    """Matched heads of one new layer."""
    with read_h5(path, "heads") as file:
        group = file[f"layer_{layer}"]
        blocks = {role: group[f"blocks_{role}"][...] for role in ROLES}
        return MatchedHeads(group["assignment"][...], blocks)


def write_outputs(writer: H5Writer, layer: int, found: Mapping[str, Fit]) -> None:
    """Store the output maps of one new layer, float64: walks magnify what is rounded."""
    for site, fit in found.items():
        group = f"layer_{layer}/{site}"
        writer.dataset(f"{group}/matrix", fit.matrix.cpu().numpy())
        writer.attributes(group, ridge=fit.ridge, error=fit.error, rank=fit.rank)


def read_outputs(path: str | Path, layer: int, device: str) -> Mapping[str, Fit]:
    """Output maps at the sites of one new layer; an adapter of few modules needs few of them."""

    def read(node: Any) -> Fit:
        numbers = {name: node.attrs[name].item() for name in ("ridge", "error", "rank")}
        return Fit(torch.from_numpy(node["matrix"][...]).to(device), **numbers)

    return StoredSites(path, layer, "output maps", "output maps", read)


def open_pair(
    old: Model,
    new: Model,
    inputs: Mapping[str, str],
    settings: dict[str, Any],
    device: str,
    adapter: Adapted | None = None,
    workers: int = 1,
) -> Pair:
    """Gather what a method declared to need; `inputs` holds the paths of just those artifacts."""
    return Pair(
        old=old,
        new=new,
        settings=settings,
        device=device,
        hidden_map=read_hidden_map(inputs["embedding"], device) if "embedding" in inputs else None,
        path=read_path(inputs["layers"]) if "layers" in inputs else [],
        heads=lambda layer: read_heads(inputs["heads"], layer),
        moments=lambda layer: read_moments(inputs["moments"], layer, device),
        outputs=lambda layer: read_outputs(inputs["outputs"], layer, device),
        adapter=adapter,
        workers=workers,
        gradients=lambda layer, role: read_gradients(inputs["gradients"], layer, role, device),
    )
