"""As of vLLM."""

from dataclasses import dataclass


@dataclass
class LoRARequest:
    """An adapter."""

    name: str
    number: int
    path: str
