"""How likely a model finds tokens, from logits that are made for these tokens alone."""

from functools import cache
from inspect import signature
from typing import Any

import torch
from torch.nn import functional

from .data import IGNORED


def needed_logits(model: Any, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a model is called with, so that it gives no logits in front of the first label.

    A row of logits is as long as the vocabulary: of a prompt they can take more memory than all
    else, and in a small model most of the time.

    Parameters
    ----------
    labels : (n, length), IGNORED where none is

    Returns
    -------
    `logits_to_keep`, the positions (kept,), or nothing where all are needed or the model's code
    does not know it. A count in their place lets some models drop positions before the head, too.
    """
    first = int((labels != IGNORED).any(dim=0).int().argmax())  # 0 where there is no label
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if first < 2 or not _keeps(base.__class__):
        return {}
    return {"logits_to_keep": torch.arange(first - 1, labels.shape[1])}


@cache
def _keeps(kind: Any) -> bool:
    return "logits_to_keep" in signature(kind.forward).parameters


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """−log p of each labelled token, (n, length − 1); zero elsewhere.

    Parameters
    ----------
    logits : (n, length, vocabulary), or of the last positions alone
    labels : (n, length), IGNORED where nothing is learned
    """
    length, width = labels.shape[1], logits.shape[1]
    losses = functional.cross_entropy(
        logits[:, :-1].transpose(1, 2).float(),
        labels[:, length - width + 1 :].to(logits.device),
        ignore_index=IGNORED,
        reduction="none",
    )
    return functional.pad(losses, (length - width, 0))
