"""One module's low-rank update, whatever kind of adapter it came from."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

ADALORA_EPSILON = 1e-5  # peft divides AdaLoRA's alpha by init_r plus this


@dataclass(frozen=True)
class LoraWeights:
    """One module's factors: the update is `scale · b @ a`.

    Attributes
    ----------
    b, a : (d_out, r) and (r, d_in)
    alpha : as stored
    rslora : whether the scale is alpha / √r in place of alpha / r
    init_rank : AdaLoRA's rank before pruning, by which its alpha is divided; 0 for other kinds
    magnitude : DoRA's norms of the adapted rows, (d_out,), or None
    bias : what the module adds to its output beside the update, (d_out,) in units of `scale`
    """

    b: np.ndarray
    a: np.ndarray
    alpha: float
    rslora: bool = False
    init_rank: int = 0
    magnitude: np.ndarray | None = None
    bias: np.ndarray | None = None

    @property
    def rank(self) -> int:
        """r."""
        return self.a.shape[0]

    @property
    def scale(self) -> float:
        """s."""
        if self.init_rank:
            return self.alpha / (self.init_rank + ADALORA_EPSILON)
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def replaced(self, b: np.ndarray, a: np.ndarray, alpha: float | None = None) -> "LoraWeights":
        """The same kind with other factors, float32; at another rank alpha keeps the scale.

        Magnitude and bias are those of the old rows: they are left out.
        """
        rank, init_rank = a.shape[0], self.init_rank
        if alpha is None and init_rank:
            init_rank = max(init_rank, rank)
            alpha = self.alpha
            if init_rank != self.init_rank:
                alpha = self.scale * (init_rank + ADALORA_EPSILON)
        elif alpha is None:
            growth = rank / self.rank
            alpha = self.alpha * (math.sqrt(growth) if self.rslora else growth)
        return LoraWeights(
            b.astype(np.float32), a.astype(np.float32), alpha, self.rslora, init_rank
        )

    def rows(self, rows: np.ndarray | None) -> "LoraWeights":
        """The part of a fused module that a role's rows hold; None is the whole module."""
        if rows is None:
            return self
        return replace(
            self,
            b=self.b[rows],
            magnitude=None if self.magnitude is None else self.magnitude[rows],
            bias=None if self.bias is None else self.bias[rows],
        )

    def norm(self) -> float:
        """‖scale · B A‖_F from the r×r Grams, float64; computed once."""
        return self._norm

    @cached_property
    def _norm(self) -> float:
        b, a = self.b.astype(np.float64), self.a.astype(np.float64)
        return abs(self.scale) * math.sqrt(max(0.0, float(np.sum((b.T @ b) * (a @ a.T)))))
