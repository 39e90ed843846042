"""Which old attention head serves which new one, without ever forming a d×d matrix per head.

The similarity of heads a and b is the cosine of their concatenated, flattened interaction
matrices `W_QK = QᵀK` and `W_VO = VᵀOᵀ`, the old ones carried by W_h on both sides (LoRASuite,
head mapping). With `Q̃ = Q_o W_h` and so on, `⟨Q̃ᵀK̃, Q'ᵀK'⟩ = Σ (Q̃Q'ᵀ) ∘ (K̃K'ᵀ)`: four products a
layer hold every head pair, and their blocks are also the transforms of Eq. 3.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from ..artifacts import H5Writer, read_h5
from ..models.side import Side
from ..models.spec import Model, shared_roles
from ..models.weights import Checkpoint

ROLES = ("q", "k", "v", "o")
GATE = "q_gate"
BLOCKS = "blocks_"  # start of datasets' names

Heads = Callable[[str], torch.Tensor]  # role -> (heads, h, d) float64, read anew each time


@dataclass(frozen=True)
class MatchedHeads:
    """Matched heads of one layer pair.

    Attributes
    ----------
    assignment : (k, 2) of (old, new) query heads
    blocks : role q, k, v, o, maybe q_gate -> (k, h_o, h_n): `T = W_o[a] W_h W_n[b]ᵀ` of each
        matched pair
    """

    assignment: np.ndarray
    blocks: dict[str, np.ndarray]


def head_similarity(
    blocks: dict[str, torch.Tensor], old: dict[str, torch.Tensor], new: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Cosine similarity of all head pairs, (H_o, H_n).

    Parameters
    ----------
    blocks : role -> (heads_o, h_o, heads_n, h_n), the products of the carried old and the new heads
    old, new : role -> (heads, h, h), each head's product with itself, the old ones carried

    Notes
    -----
    A head without weight resembles nothing: similarity 0. O(H_o H_n h_o h_n).
    """
    heads_old, heads_new = len(old["q"]), len(new["q"])
    group_old, group_new = heads_old // len(old["k"]), heads_new // len(new["k"])
    partner = torch.arange(heads_new, device=new["q"].device) // group_new
    inner = torch.empty(heads_old, heads_new, dtype=torch.float64, device=new["q"].device)
    for a in range(heads_old):
        k, v = blocks["k"][a // group_old][:, partner], blocks["v"][a // group_old][:, partner]
        inner[a] = (blocks["q"][a] * k + v * blocks["o"][a]).sum(dim=(0, 2))
    below = _squared_norms(old)[:, None] * _squared_norms(new)[None, :]
    return torch.where(below > 0, inner / below.clamp(min=1e-300).sqrt(), 0.0)


def _squared_norms(gram: dict[str, torch.Tensor]) -> torch.Tensor:
    """‖QᵀK‖² + ‖VᵀOᵀ‖² per query head, (H,), from the heads' own h×h Grams."""
    group = len(gram["q"]) // len(gram["k"])
    k, v = (gram[role].repeat_interleave(group, dim=0) for role in ("k", "v"))
    return (gram["q"] * k + v * gram["o"]).sum(dim=(1, 2))


def assign(similarity: np.ndarray, how: str = "hungarian") -> np.ndarray:
    """Matched heads, (k, 2) int64 of (old, new) sorted by the new head, k = min(H_o, H_n).

    `hungarian` maximises the total similarity; `identity` is the ablation in default order; `none`
    matches no head: the authors' ablation without head mapping.
    """
    if how == "none":
        return np.zeros((0, 2), np.int64)
    if how == "identity":
        order = np.arange(min(similarity.shape))
        return np.stack([order, order], axis=1).astype(np.int64)
    old, new = linear_sum_assignment(-similarity)
    order = np.argsort(new)
    return np.stack([old[order], new[order]], axis=1).astype(np.int64)


def read_heads(model: Model, checkpoint: Checkpoint, layer: int, device: str) -> Heads:
    """One layer's attention weights as heads of rows in the residual stream's basis.

    `o` is the transpose of the output projection. Keys and values are those that attention reads,
    by `Side.maker`.
    """
    side = Side(model.architecture, model.dims)

    def read(role: str) -> torch.Tensor:
        place = side.maker(layer, role) or (layer, role)
        weight = model.weight(checkpoint, *place).astype(np.float64)
        rows = torch.from_numpy(weight.T if role == "o" else weight).to(device)
        return rows.reshape(-1, model.dims.at(layer).head_dim, model.dims.hidden)

    return read


def head_pairs(
    models: tuple[Model, Model], path: Sequence[tuple[int, int]]
) -> list[tuple[int, int, bool]]:
    """The (old, new) layers that both have heads, and whether both have a gate on them."""

    def has_heads(model: Model, layer: int) -> bool:
        side = Side(model.architecture, model.dims)
        return all(side.maker(layer, role) for role in ROLES)

    return [
        (*layers, GATE in shared_roles(models, layers))
        for layers in path
        if all(map(has_heads, models, layers))
    ]


def match_layer(
    old: Heads,
    new: Heads,
    hidden_map: torch.Tensor | None,
    how: str = "hungarian",
    gated: bool = False,
) -> tuple[np.ndarray, MatchedHeads]:
    """Similarity of all heads of a layer pair, and the matched ones with their blocks.

    Parameters
    ----------
    hidden_map : W_h (d_o, d_n) float64, or None for the identity
    how : `hungarian`, `identity` or `none`
    gated : whether both have a gate on what their heads give: it is not compared, but has blocks

    Returns
    -------
    similarity (H_o, H_n) float64; assignment and blocks, float32, on the CPU

    Notes
    -----
    O(H h d (d + H h)) time. Holds one role's weights at a time; the block [a, :, b, :] of a role's
    product is `T = W_o[a] W_h W_n[b]ᵀ`.
    """
    products, own_old, own_new = {}, {}, {}
    for role in (*ROLES, GATE) if gated else ROLES:
        left, right = old(role), new(role)
        if hidden_map is not None:
            left = left @ hidden_map
        flat = left.flatten(0, 1) @ right.flatten(0, 1).T
        products[role] = flat.reshape(*left.shape[:2], *right.shape[:2])
        own_old[role] = left @ left.transpose(1, 2)
        own_new[role] = right @ right.transpose(1, 2)
    similarity = head_similarity(products, own_old, own_new).cpu().numpy()
    matched = assign(similarity, how)
    rows, columns = torch.from_numpy(matched).to(flat.device).T
    group_old, group_new = (len(own["q"]) // len(own["k"]) for own in (own_old, own_new))
    grouped = {"k": (rows // group_old, columns // group_new)}
    grouped["v"] = grouped["k"]
    blocks = {}
    for role, product in products.items():
        a, b = grouped.get(role, (rows, columns))
        blocks[role] = product[a, :, b, :].float().cpu().numpy()
    return similarity, MatchedHeads(matched, blocks)


def write_matched_heads(
    writer: H5Writer, layer: int, similarity: np.ndarray, matched: MatchedHeads
) -> None:
    """Store one new layer's head similarities (H_o, H_n) and its matched heads."""
    writer.dataset(f"layer_{layer}/similarity", similarity)
    writer.dataset(f"layer_{layer}/assignment", matched.assignment)
    for role, blocks in matched.blocks.items():
        writer.dataset(f"layer_{layer}/{BLOCKS}{role}", blocks)


def read_matched_heads(path: str | Path, layer: int) -> MatchedHeads:
    """Matched heads of one new layer."""
    with read_h5(path, "heads") as file:
        group = file[f"layer_{layer}"]
        names = [name for name in group if name.startswith(BLOCKS)]
        blocks = {name.removeprefix(BLOCKS): group[name][...] for name in names}
        return MatchedHeads(group["assignment"][...], blocks)
