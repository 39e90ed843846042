"""How likely a model finds answers to their prompts, in nats."""

from collections.abc import Sequence
from functools import cache
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from ..numerics.linalg import chunks
from ..training.data import IGNORED, Example, encode


class Answers(NamedTuple):
    """Answers that are read together, padded on the right.

    Attributes
    ----------
    places : of the answers among all, (b,)
    inputs : of the model: input_ids and attention_mask, (b, t)
    labels : (b, t), IGNORED where no answer is
    """

    places: list[int]
    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor

    def losses(self, logits: torch.Tensor) -> np.ndarray:
        """Negative log-likelihood of each answer, in nats, (b,) float64; `logits` are as for
        `token_losses`.
        """
        return token_losses(logits, self.labels).double().sum(dim=1).cpu().numpy()


def batches_of(
    tokenizer: Any, examples: Sequence[Example], cutoff: int, batch_size: int
) -> list[Answers]:
    """Examples in batches of like length; `cutoff` and `batch_size` are as for `answer_losses`."""
    rows = [encode([example], tokenizer, cutoff, "answer").rows[0] for example in examples]
    order = sorted(range(len(rows)), key=lambda place: (len(rows[place]["input_ids"]), place))
    batches = []
    for span in chunks(len(order), batch_size):
        places = order[span]
        batch = [rows[place] for place in places]
        longest = max(len(row["input_ids"]) for row in batch)
        ids, labels, mask = (
            torch.tensor([values + [fill] * (longest - len(values)) for values in held])
            for held, fill in (
                ([row["input_ids"] for row in batch], tokenizer.pad_token_id),
                ([row["labels"] for row in batch], IGNORED),
                ([[1] * len(row["input_ids"]) for row in batch], 0),
            )
        )
        batches.append(Answers(places, {"input_ids": ids, "attention_mask": mask}, labels))
    return batches


@torch.no_grad()
def answer_losses(
    model: Any, tokenizer: Any, examples: Sequence[Example], cutoff: int, batch_size: int
) -> np.ndarray:
    """Negative log-likelihood of each answer given its prompt, in nats, (n,) float64.

    Parameters
    ----------
    cutoff : tokens of an example, at most; an answer that lies behind it counts nothing
    batch_size : examples in a forward pass
    """
    losses = np.zeros(len(examples))
    for answers in batches_of(tokenizer, examples, cutoff, batch_size):
        inputs = {name: values.to(model.device) for name, values in answers.inputs.items()}
        asked = {**inputs, **needed_logits(model, answers.labels)}
        losses[answers.places] = answers.losses(model(**asked, use_cache=False).logits)
    return losses


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
