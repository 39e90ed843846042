"""How likely a model finds answers to their prompts, in nats."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ..numerics.linalg import chunks
from ..training.data import IGNORED, Example, encode
from ..training.losses import needed_logits, token_losses


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
