"""Whether an adapter was trained with its model's chat template: a doubt is told, no more."""

from collections.abc import Sequence

import numpy as np

from .base import Base
from .more_prompts import excess
from .prompts import Prompt

ASKED = 16  # prompts that are tried both ways
CLEARLY = 2.0  # times as much, by which the bare text must be ahead


def template_doubt(old: Base, prompts: Sequence[Prompt]) -> str:
    """A warning where the adapter does clearly more without the template; empty otherwise.

    Parameters
    ----------
    old : wears its adapter
    prompts : those that are messages are tried: through the template, and as the bare text of the
        last message. What the adapter does is how much likelier it makes its own answers, in nats
        a character
    """
    chats = [prompt for prompt in prompts if not isinstance(prompt, str)][:ASKED]
    if not chats:
        return ""
    with_template = _mean(excess(old, chats))
    without = _mean(excess(old, [chat[-1][1] for chat in chats]))
    if without <= CLEARLY * max(with_template, 0.0):
        return ""
    return (
        "the adapter seems to have been trained without its model's chat template: it makes its "
        f"answers likelier by {without:.2f} nats a character behind the bare text, and by "
        f"{with_template:.2f} behind the template; give the prompts as text"
    )


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else 0.0
