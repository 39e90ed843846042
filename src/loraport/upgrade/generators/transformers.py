"""transformers' generate, with the model in memory, whatever it wears."""

from ...training.own_answers import Answer, write_answers
from . import Asked

HELP = "the model in memory, batch by batch"


def installed() -> bool:
    """Always."""
    return True


def write(asked: Asked, batch_size: int) -> list[Answer]:
    """Answers, so many at a time; what is drawn comes from torch's generator."""
    return write_answers(
        asked.model,
        asked.tokenizer,
        asked.texts,
        asked.max_tokens,
        batch_size,
        asked.new_tokens,
        asked.temperature,
        asked.also,
    )
