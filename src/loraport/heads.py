"""Which old attention head serves which new one, without ever forming a d×d matrix per head.

The similarity of heads a and b is the cosine of their concatenated, flattened interaction
matrices `W_QK = QᵀK` and `W_VO = VᵀOᵀ`, the old ones carried by W_h on both sides (LoRASuite,
head mapping). With `Q̃ = Q_o W_h` and so on, `⟨Q̃ᵀK̃, Q'ᵀK'⟩ = Σ (Q̃Q'ᵀ) ∘ (K̃K'ᵀ)`: four products a
layer hold every head pair, and their blocks are also the transforms of Eq. 3.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from .architectures import Dimensions
from .methods import MatchedHeads
from .spec import Model
from .weights import Checkpoint

ROLES = ("q", "k", "v", "o")


@dataclass(frozen=True)
class Attention:
    """One layer's attention weights, float64, each as heads of rows in the residual stream's basis.

    Attributes
    ----------
    q, o : (H, h, d); `o` is the transpose of the output projection
    k, v : (KV, h, d)
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    o: torch.Tensor

    @classmethod
    def of(cls, weights: dict[str, torch.Tensor], dims: Dimensions) -> "Attention":
        """From the plain weights of roles q, k, v (·, d) and o (d, H·h)."""
        split = {
            role: (weight.T if role == "o" else weight).reshape(-1, dims.head_dim, dims.hidden)
            for role, weight in weights.items()
        }
        return cls(**split)

    def carried(self, hidden_map: torch.Tensor | None) -> "Attention":
        """The same heads in the new model's basis: every row times W_h (None: the identity)."""
        if hidden_map is None:
            return self
        return Attention(self.q @ hidden_map, self.k @ hidden_map, self.v @ hidden_map,
                         self.o @ hidden_map)  # fmt: skip


def products(old: Attention, new: Attention) -> dict[str, torch.Tensor]:
    """The four products of a layer pair, role -> (heads_o, h_o, heads_n, h_n).

    The block [a, :, b, :] of q is `T = Q_o[a] W_h Q_n[b]ᵀ` where `old` is carried.
    """
    result = {}
    for role in ROLES:
        left, right = getattr(old, role), getattr(new, role)
        flat = left.flatten(0, 1) @ right.flatten(0, 1).T
        result[role] = flat.reshape(*left.shape[:2], *right.shape[:2])
    return result


def head_similarity(
    old: Attention, new: Attention, blocks: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Cosine similarity of all head pairs, (H_o, H_n); `old` carried, `blocks` from `products`.

    A head without weight resembles nothing: similarity 0. O(H_o H_n h_o h_n).
    """
    heads_old, heads_new = old.q.shape[0], new.q.shape[0]
    group_old, group_new = heads_old // old.k.shape[0], heads_new // new.k.shape[0]
    partner = torch.arange(heads_new, device=new.q.device) // group_new
    inner = torch.empty(heads_old, heads_new, dtype=torch.float64, device=new.q.device)
    for a in range(heads_old):
        k, v = blocks["k"][a // group_old][:, partner], blocks["v"][a // group_old][:, partner]
        inner[a] = (blocks["q"][a] * k + v * blocks["o"][a]).sum(dim=(0, 2))
    below = _squared_norms(old)[:, None] * _squared_norms(new)[None, :]
    return torch.where(below > 0, inner / below.clamp(min=1e-300).sqrt(), 0.0)


def _squared_norms(heads: Attention) -> torch.Tensor:
    """‖QᵀK‖² + ‖VᵀOᵀ‖² per query head, (H,), from the heads' own h×h Grams."""
    group = heads.q.shape[0] // heads.k.shape[0]
    gram = {role: (part := getattr(heads, role)) @ part.transpose(1, 2) for role in ROLES}
    k, v = (gram[role].repeat_interleave(group, dim=0) for role in ("k", "v"))
    return (gram["q"] * k + v * gram["o"]).sum(dim=(1, 2))


def assign(similarity: np.ndarray, how: str = "hungarian") -> np.ndarray:
    """Matched heads, (k, 2) int64 of (old, new) sorted by the new head, k = min(H_o, H_n).

    `hungarian` maximises the total similarity; `identity` is the ablation in default order.
    """
    if how == "identity":
        order = np.arange(min(similarity.shape))
        return np.stack([order, order], axis=1).astype(np.int64)
    old, new = linear_sum_assignment(-similarity)
    order = np.argsort(new)
    return np.stack([old[order], new[order]], axis=1).astype(np.int64)


def read_attention(model: Model, checkpoint: Checkpoint, layer: int, device: str) -> Attention:
    """One layer's attention weights in float64."""
    weights = {
        role: torch.from_numpy(model.weight(checkpoint, layer, role).astype(np.float64)).to(device)
        for role in ROLES
    }
    return Attention.of(weights, model.dims)


def match_layer(
    old: Attention, new: Attention, hidden_map: torch.Tensor | None, how: str = "hungarian"
) -> tuple[np.ndarray, MatchedHeads]:
    """Similarity of all heads of a layer pair, and the matched ones with their blocks.

    Parameters
    ----------
    hidden_map : W_h (d_o, d_n) float64, or None for the identity
    how : `hungarian` or `identity`

    Returns
    -------
    similarity (H_o, H_n) float64; assignment and blocks, float32, on the CPU

    Notes
    -----
    O(H h d (d + H h)) time; the largest array is a product of (H_o h_o, H_n h_n).
    """
    carried = old.carried(hidden_map)
    found = products(carried, new)
    similarity = head_similarity(carried, new, found).cpu().numpy()
    matched = assign(similarity, how)
    rows, columns = torch.from_numpy(matched).to(new.q.device).T
    group_old, group_new = (len(each.q) // len(each.k) for each in (old, new))
    grouped = {"k": (rows // group_old, columns // group_new)}
    grouped["v"] = grouped["k"]
    blocks = {}
    for role, product in found.items():
        a, b = grouped.get(role, (rows, columns))
        blocks[role] = product[a, :, b, :].float().cpu().numpy()
    return similarity, MatchedHeads(matched, blocks)
