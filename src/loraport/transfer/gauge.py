"""The gauge of a carried update's factors, and its size.

`B A` and `(B G⁻¹)(G A)` are one update for any invertible G, but an optimiser's step in `B A`
depends on G: AdamW moves every entry of B and of A by about the learning rate, whatever their
size. Two gauges are offered:

- `balanced`, as published with LoRASuite (arXiv 2505.13515): half of the singular values on each
  side, `A = √S Vᵀ`, `B = U √S`.
- `fresh`: A is as large as a fresh LoRA's, `A = c Vᵀ`, `B = U S / c`. PEFT starts A uniform in
  ±1/√d_in (Kaiming with a = √5, He et al., arXiv 1502.01852), so that its rows have the norm
  `c = 1/√3` in the mean. Directions that the update does not take get random rows of that norm
  with columns of zero in B, which is how a fresh LoRA starts there.
"""

import hashlib
import math
from dataclasses import replace

import numpy as np

from ..adapters.lora_weights import LoraWeights

GAUGES = ("fresh", "balanced")
FRESH_ROW_NORM = 1 / math.sqrt(3)
NULL = 1e-7  # of the largest singular value: below it a direction is none of the update's


def fresh_rows(count: int, width: int, name: str) -> np.ndarray:
    """A of a standard LoRA start, (count, width) float64: uniform in ±1/√width.

    Parameters
    ----------
    name : the module's; it seeds the draw, so that the same module gets the same rows
    """
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    bound = 1 / math.sqrt(width)
    return np.random.default_rng(seed).uniform(-bound, bound, (count, width))


def in_gauge(weights: LoraWeights, factors: str, name: str) -> LoraWeights:
    """The same update with its factors in another gauge.

    Parameters
    ----------
    weights : balanced factors, as `numerics.lowrank.balance` gives them: row i of A and column i
        of B have the norm √σ_i
    factors : one of `GAUGES`
    name : the module's, which seeds the rows of directions that the update does not take

    Notes
    -----
    O(r (d_in + d_out)). AdaLoRA keeps unit rows and columns with the singular values beside them,
    so that it has no gauge: it is returned as it is.
    """
    if factors == "balanced" or weights.init_rank:
        return weights
    a, b = weights.a.astype(np.float64), weights.b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1)
    taken = norms**2 > NULL * np.max(norms**2, initial=0.0)
    stretch = np.where(taken, FRESH_ROW_NORM / np.where(taken, norms, 1.0), 0.0)
    rows = stretch[:, None] * a
    rows[~taken] = fresh_rows(len(a), a.shape[1], name)[~taken]
    columns = b * np.where(taken, norms / FRESH_ROW_NORM, 0.0)
    return replace(weights, a=rows.astype(np.float32), b=columns.astype(np.float32))


def scaled(weights: LoraWeights, gain: float, rows_new: np.ndarray | None = None) -> LoraWeights:
    """The update times a gain; a gain of zero leaves the model as it is.

    Parameters
    ----------
    gain : multiplies B and the bias; DoRA's magnitudes move from the base's row norms to the
        carried ones by the same share
    rows_new : ‖W_n‖ of each row, (d_out,): DoRA's magnitudes at a gain of zero
    """
    if gain == 1:
        return weights
    made = replace(weights, b=_times(weights.b, gain))
    if weights.bias is not None:
        made = replace(made, bias=_times(weights.bias, gain))
    if weights.magnitude is not None and rows_new is not None:
        moved = rows_new + gain * (weights.magnitude.astype(np.float64) - rows_new)
        # a gain above 1 may take a row's magnitude below zero, which no norm is
        smallest = 0.1 * np.minimum(rows_new, weights.magnitude)
        made = replace(made, magnitude=np.maximum(moved, smallest).astype(np.float32))
    return made


def _times(values: np.ndarray, gain: float) -> np.ndarray:
    return (gain * values.astype(np.float64)).astype(np.float32)
