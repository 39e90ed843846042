"""The embedding artifact of a pair: its writer and its readers; numpy alone, as the transfer is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..artifacts import read_h5, write_h5

SUMS = ("ids", "picks", "coefficients")  # of unshared tokens, each beside `unshared_`


@dataclass(frozen=True)
class Tokens:
    """What an embedding artifact says of a pair.

    Attributes
    ----------
    hidden_map : W_h (d_o, d_n) float64
    old, new : (n,) ids of the shared tokens
    unshared : (m,) ids of new tokens that are sums of shared ones
    picks, coefficients : (m, k) of the sums: places among the shared tokens, and weights
    identical : whether both tokenizers write the same tokens by the same ids
    """

    hidden_map: np.ndarray
    old: np.ndarray
    new: np.ndarray
    unshared: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    picks: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.int64))
    coefficients: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    identical: bool = field(default=False, kw_only=True)

    def spread(self, values: np.ndarray, count: int) -> np.ndarray:
        """What each old token has, (vocabulary, ...), as `count` new tokens have it."""
        spread = np.zeros((count, *values.shape[1:]), np.float32)
        shared = values[self.old]
        spread[self.new] = shared
        sums = np.zeros((len(self.unshared), *values.shape[1:]))
        for picks, weights in zip(self.picks.T, self.coefficients.T, strict=True):
            sums += (weights * shared[picks].T).T
        spread[self.unshared] = sums
        return spread


def write_embedding(
    path: str | Path, inputs: Mapping[str, str], tokens: Tokens, about: Mapping[str, Any]
) -> None:
    """Store W_h, the shared tokens and, where there are any, the sums of unshared ones.

    Parameters
    ----------
    inputs : identities of the models' specs
    about : attributes: the rule, condition number, residual and counts
    """
    with write_h5(path, "embedding", inputs) as file:
        file.dataset("W_h", tokens.hidden_map)
        file.dataset("token_ids_old", tokens.old)
        file.dataset("token_ids_new", tokens.new)
        if len(tokens.unshared):
            for name, values in zip(
                SUMS, (tokens.unshared, tokens.picks, tokens.coefficients), strict=True
            ):
                file.dataset(f"unshared_{name}", values)
        file.attributes(**about)


def read_tokens(path: str | Path) -> Tokens:
    """W_h and the shared tokens from embedding.h5."""
    with read_h5(path, "embedding") as file:
        old, new = (file[f"token_ids_{side}"][...] for side in ("old", "new"))
        names = SUMS if "unshared_ids" in file else ()
        sums = (file[f"unshared_{name}"][...] for name in names)
        counts = {file.attrs.get(f"tokens_{of}") for of in ("old", "new", "at_the_same_id")}
        same = len(counts) == 1 and None not in counts
        hidden_map = file["W_h"][...].astype(np.float64)
        return Tokens(hidden_map, old, new, *sums, identical=same)


def is_identity(path: str | Path) -> bool:
    """Whether the rule made W_h the identity."""
    with read_h5(path, "embedding") as file:
        return bool(file.attrs["rule"] == "identity")


def read_hidden_map(path: str | Path) -> np.ndarray | None:
    """W_h (d_o, d_n) float64, or None where the rule made it the identity."""
    with read_h5(path, "embedding") as file:
        if file.attrs["rule"] == "identity":
            return None
        return file["W_h"][...].astype(np.float64)


def read_about(path: str | Path) -> dict[str, Any]:
    """The artifact's attributes, as plain numbers and text."""
    with read_h5(path, "embedding") as file:
        return {
            key: value.item() if hasattr(value, "item") else str(value)
            for key, value in file.attrs.items()
        }
