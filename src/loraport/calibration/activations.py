"""Pooled features of calibration texts at the output of every decoder block.

The model is walked block by block: `hidden_states[-1]` of transformers is after the final norm. Two
tokenizers see different tokens, so a text is one example. The first token carries activations so
massive that they swamp a mean: it is left out.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from ..errors import LoraportError, words
from ..models.blocks import open_blocks
from ..models.spec import Model
from ..numerics.linalg import chunks
from .batches import Batch
from .texts import check_texts, read_texts
from .walk import Walk

Pool = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def pool_mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the tokens that count: (b, t, d) and (b, t) -> (b, d) float64."""
    weights = mask.double()[..., None]
    return (states.double() * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def pool_last(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The last token that counts: (b, t, d) and (b, t) -> (b, d) float64."""
    last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1)
    return states[torch.arange(len(states), device=states.device), last].double()


class Keeper(Protocol):
    """Keeps a walk and its features while it lasts (`resume.KeptFeatures`)."""

    def load(self, walk: Walk, features: np.ndarray) -> None:
        """Move the walk to where it was kept, with the features (layers, n, d) behind it."""

    def save_if_due(self, walk: Walk, features: np.ndarray) -> None:
        """Keep both, if enough time has passed."""


POOLS: dict[str, Pool] = {"mean": pool_mean, "last": pool_last}


def load_texts(texts: str | dict[str, Any], examples: int) -> list[str]:
    """Calibration texts from a file, or from a data set: {dataset, name, split, column, revision}.

    Of a data set the first `examples` texts of at least 200 characters are taken.
    """
    if isinstance(texts, str):
        return read_texts(texts, examples)
    from datasets import load_dataset

    name, column = texts["dataset"], texts.get("column", "text")
    try:
        stream = load_dataset(
            name,
            texts.get("name"),
            split=texts.get("split", "train"),
            revision=texts.get("revision") or None,
            streaming=True,
        )
        long = (row[column] for row in stream if len((row[column] or "").strip()) >= 200)
        chosen = [text for text, _ in zip(long, range(examples), strict=False)]
    except Exception as error:  # the library raises many kinds, network errors among them
        raise LoraportError(
            f"calibration data set {name!r} cannot be read",
            got=words(error),
            expected=f"a data set of the hub with texts in its column {column!r}",
            todo="check the keys of calibration.texts (name, split, column, revision) and the "
            "network, or name a local text file",
        ) from error
    return check_texts(chosen, name)


def _padded(tokenizer: Any, rows: list[list[int]]) -> dict[str, torch.Tensor]:
    """Tokens of texts as one batch."""
    return dict(tokenizer.pad({"input_ids": rows}, return_tensors="pt"))


def _but_the_first(mask: torch.Tensor) -> torch.Tensor:
    """A mask (b, t) without the first token of each text."""
    mask = mask.clone()
    mask[:, 0] = 0
    return mask


def pooled_features(
    model: Model,
    texts: list[str],
    *,
    pooling: str = "mean",
    max_tokens: int = 256,
    batch_size: int = 16,
    device: str = "cpu",
    device_map: str = "",
    stream: str = "auto",
    remote_code: bool = False,
    progress: Callable[[int], Any] = lambda count: None,
    so_far: Keeper | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Features of every text at every block; `so_far` is where a run that was cut off left them.

    Returns
    -------
    features (layers, n, d) float32; kept (n,) bool: texts that hold a token besides the first. The
    features of the others are zero.

    Notes
    -----
    Batches hold texts of like length. Memory: the model, or two of its blocks where it is streamed
    (`models.blocks.open_blocks`), one batch inside a block, and the streams of all texts.
    `progress` is told how many texts have passed a block.
    """
    where = {"stream": stream, "device": device, "device_map": device_map}
    blocks, tokenizer = open_blocks(model, where, remote_code)
    tokenizer.padding_side = "right"
    encoded = [tokenizer(text, truncation=True, max_length=max_tokens).input_ids for text in texts]
    kept = np.array([len(ids) > 1 for ids in encoded])
    order = sorted(np.flatnonzero(kept), key=lambda place: (len(encoded[place]), place))
    places = [order[span] for span in chunks(len(order), batch_size)]
    batches = [_padded(tokenizer, [encoded[place] for place in mine]) for mine in places]
    masks = [_but_the_first(batch["attention_mask"]) for batch in batches]
    features = np.zeros((model.dims.layers, len(texts), model.dims.hidden), np.float32)
    walk = Walk(model, blocks, [Batch("", [batch]) for batch in batches], 0)
    if so_far:
        so_far.load(walk, features)
        progress(walk.layer * len(order))
    for layer in range(walk.layer, model.dims.layers):
        for mine, mask, states in zip(places, masks, walk.outputs(), strict=True):
            pooled = POOLS[pooling](states, mask.to(states.device))
            features[layer, mine] = pooled.cpu().numpy()
            progress(len(mine))
        if so_far and walk.layer < model.dims.layers:
            so_far.save_if_due(walk, features)
    if not np.isfinite(features).all():
        raise LoraportError(
            f"the activations of {model.directory} hold NaN or Inf",
            got="a forward pass that overflows",
            expected="finite features",
            todo="check the weights, or run calibration on a device with float32",
        )
    return features, kept
