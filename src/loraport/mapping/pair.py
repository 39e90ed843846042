"""A model pair as a method sees it: its artifacts, gathered by what the method needs."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..adapters.lora_weights import LoraWeights
from ..artifacts import H5Writer
from ..calibration.gradients import read_gradients
from ..calibration.moments import LayerMoments
from ..calibration.moments_file import StoredSites, read_moments
from ..calibration.ridge import Fit
from ..calibration.solutions import Regression
from ..models.spec import Model
from ..transfer.embedding_file import read_hidden_map
from .heads import MatchedHeads, read_matched_heads
from .layers import read_path


def _no_gradients(layer: int, role: str) -> Any:
    raise KeyError("the method does not declare gradients in NEEDS")


@dataclass(frozen=True)
class Adapted:
    """An adapter of the old model, and the texts on which its own maps are fitted.

    Attributes
    ----------
    directory : in PEFT's format
    weights : (layer, module) -> its factors
    texts : gives them, of (what opens the old model with the adapter in its weights, its tokenizer)
    max_tokens, batch_size : of reading them
    remote_code : for the old and the new model
    streamed : whether one block of each is in memory at a time
    """

    directory: Path
    weights: Mapping[tuple[int, str], LoraWeights]
    texts: Callable[[Callable[[], Any], Any], list[str]]
    max_tokens: int = 256
    batch_size: int = 16
    remote_code: tuple[bool, bool] = (False, False)
    streamed: tuple[bool, bool] = (False, False)


@dataclass(frozen=True)
class Pair:
    """What a method may use of a model pair; what it does not declare in NEEDS is empty.

    Attributes
    ----------
    settings : the `mapping` section of the config
    device : where to compute
    hidden_map : W_h (d_o, d_n) float64, or None for the identity
    path : (old, new) layers
    heads : new layer -> its matched heads and their blocks
    moments : new layer -> site -> second moments of the tokens to fit on and of those held out,
        in the machine's memory: a fit moves what it needs. They may be summed only then: ask in
        the order of the path, once for each layer (`summed`). Where one worker makes the maps, the
        next layer's may overwrite them
    gradients : (new layer, role) -> sums over output gradients, of both parts of the texts
    outputs : new layer -> site -> what the method's `outputs` made of it
    adapter : what is carried, for methods whose maps are its own
    workers : how many layers' maps may be made at a time
    """

    old: Model
    new: Model
    settings: dict[str, Any]
    device: str
    hidden_map: torch.Tensor | None
    path: list[tuple[int, int]]
    heads: Callable[[int], MatchedHeads]
    moments: Callable[[int], LayerMoments]
    outputs: Callable[[int], Mapping[str, Fit]] = lambda layer: {}
    adapter: Adapted | None = None
    workers: int = 1
    gradients: Callable[[int, str], tuple[Regression, Regression]] = _no_gradients

    def summed(self) -> Iterator[tuple[tuple[int, int], LayerMoments]]:
        """The layers of the path, with their moments."""
        for layers in self.path:
            yield layers, self.moments(layers[1])


def on_device(embedding: str | Path, device: str) -> torch.Tensor | None:
    """W_h (d_o, d_n) float64 of an embedding artifact; None for the identity."""
    hidden_map = read_hidden_map(embedding)
    return None if hidden_map is None else torch.from_numpy(hidden_map).to(device)


def write_outputs(writer: H5Writer, layer: int, fits: Mapping[str, Fit]) -> None:
    """Store the output maps of one new layer, float64: walks magnify what is rounded."""
    for site, fit in fits.items():
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
        hidden_map=on_device(inputs["embedding"], device) if "embedding" in inputs else None,
        path=read_path(inputs["layers"]) if "layers" in inputs else [],
        heads=lambda layer: read_matched_heads(inputs["heads"], layer),
        moments=lambda layer: read_moments(inputs["moments"], layer),
        outputs=lambda layer: read_outputs(inputs["outputs"], layer, device),
        adapter=adapter,
        workers=workers,
        gradients=lambda layer, role: read_gradients(inputs["gradients"], layer, role, device),
    )
