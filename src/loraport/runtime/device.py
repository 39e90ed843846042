"""Where to compute."""

from ..errors import LoraportError


def pick_device(wanted: str) -> str:
    """`auto` is the GPU where there is one; a GPU that is asked for and missing is an error."""
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise LoraportError(
            "a GPU is asked for, but torch sees none",
            got=wanted,
            expected="cpu or auto on this machine",
            todo="set `device: auto` in config.yaml, or run where there is a GPU",
        )
    return wanted
