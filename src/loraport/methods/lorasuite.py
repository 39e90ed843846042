"""LoRASuite (arXiv 2505.13515): W_h, layer path, head assignment and Eq. 3, in factored form.

Every map is a product of the blocks and thin factors that it is made of; nothing d×d per head.
Cost per layer pair: the heads' blocks are read from the artifact; gate, up and down take one
Gram matrix and its inverse each, O(f d²).

The gate on what attention gives (Qwen 3.5) goes by the heads of q. Linear attention has no such
heads: its modules go by the formulas of up and down, which is our reading.

Where no head is matched (`heads: none`, the authors' ablation) attention is carried as a whole,
`ΔW_n = W_hᵀ ΔW_o W_h`, for heads that fill the hidden size in both models.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..calibration.sites import STREAM
from ..errors import LoraportError
from ..mapping.embedding import choose_rule
from ..mapping.heads import ROLES, MatchedHeads
from ..mapping.pair import Pair
from ..models.families import Dimensions
from ..numerics.linalg import gram_inverse, pinv
from ..transfer.maps import Blocks, Dense, Factor, ModuleMap, Term
from ._weights import both_norms, roles

NEEDS = ("models", "embedding", "layers", "heads")
SETTINGS = ("wi",)
ATTENTION = (*ROLES, "q_gate")
MAX_ROUNDING = 1e-5  # of a map by float32 factors, relative to the map's norm


def check(old: Dimensions, new: Dimensions, settings: dict[str, Any]) -> None:
    """W_h can be left out, and attention carried without heads, only where sizes allow it."""
    choose_rule(settings.get("wh", "auto"), old.hidden, new.hidden)
    if settings.get("heads") == "none":
        _require_whole_heads(old, new)


def _require_whole_heads(old: Dimensions, new: Dimensions) -> None:
    layers = [each for dims in (old, new) for each in dims.by_layer or [dims]]
    if any(each.heads * each.head_dim != each.hidden for each in layers):
        raise LoraportError(
            "lorasuite without head mapping needs heads that fill the hidden size",
            got=" and ".join(f"{d.heads} × {d.head_dim} of {d.hidden}" for d in (old, new)),
            expected="heads × head_dim equal to the hidden size in both models",
            todo="set mapping.heads to hungarian or identity",
        )


def maps(pair: Pair) -> Iterator[ModuleMap]:
    """Yield the map of each role of each matched layer.

    Settings: `modules` limits the roles; `wi` says how the intermediate size is bridged: `code`
    (the authors' code) uses pinv(W_h) where `paper` uses W_hᵀ.
    """
    checkpoints = pair.old.checkpoint(), pair.new.checkpoint()
    carried = HiddenMap(pair.hidden_map, pair.settings["wi"])
    for old_layer, layer in pair.path:
        wanted = roles(pair, layer)
        heads = pair.heads(layer) if set(wanted) & set(ATTENTION) else None
        for role in wanted:
            old, new = (
                torch.from_numpy(model.weight(file, number, role).astype(np.float64)).to(
                    pair.device
                )
                for model, file, number in zip(
                    (pair.old, pair.new), checkpoints, (old_layer, layer), strict=True
                )
            )
            if heads is not None and role in ATTENTION:
                sizes = pair.old.dims.at(old_layer), pair.new.dims.at(layer)
                term = _attention(role, heads, sizes, carried)
            else:
                term = _intermediate(role, old, new, carried)
            yield ModuleMap(layer, role, old_layer, (term,), **both_norms(old, new))


class HiddenMap:
    """W_h and what stands for its inverse, as factors that all modules share."""

    def __init__(self, matrix: torch.Tensor | None, wi: str):
        self.matrix = matrix
        self.back = None if matrix is None else (pinv(matrix) if wi == "code" else matrix.T)
        self._inverse = Dense(self.back, "hidden_map_pinv")
        self._wi = wi

    def forward(self) -> tuple[Factor, ...]:
        """W_h, (d_o, d_n)."""
        return () if self.matrix is None else (Dense(self.matrix, "hidden_map"),)

    def transposed(self) -> tuple[Factor, ...]:
        """W_hᵀ, (d_n, d_o)."""
        return () if self.matrix is None else (Dense(self.matrix, "hidden_map", transposed=True),)

    def backward(self) -> tuple[Factor, ...]:
        """pinv(W_h) or W_hᵀ, (d_n, d_o)."""
        if self.matrix is None or self._wi == "paper":
            return self.transposed()
        return (self._inverse,)


def _attention(
    role: str, heads: MatchedHeads, sizes: tuple[Dimensions, Dimensions], carried: HiddenMap
) -> Term:
    """Eq. 3. q (and its gate), k, v: `B_n[b] = Tᵀ B_o[a]`, `A_n = A_o W_h`; o the other way round.

    Back to grouped key-value heads: the mean over the group, unmatched zeros counted.
    """
    old, new = heads.assignment[:, 0], heads.assignment[:, 1]
    dims_old, dims_new = sizes
    if not len(old):
        return _headless(role, dims_old, dims_new, carried)
    blocks = heads.blocks[role]
    if role == "o":
        grid = (dims_old.heads, dims_new.heads)
        return Term(carried.transposed(), (Blocks(old, new, blocks, grid),))
    turned = blocks.transpose(0, 2, 1)
    if role in ("q", "q_gate"):
        grid = (dims_new.heads, dims_old.heads)
        return Term((Blocks(new, old, turned, grid),), carried.forward())
    group_old = dims_old.heads // dims_old.kv_heads
    group_new = dims_new.heads // dims_new.kv_heads
    grid = (dims_new.kv_heads, dims_old.kv_heads)
    grouped = Blocks(new // group_new, old // group_old, turned / group_new, grid)
    return Term((grouped,), carried.forward())


def _headless(role: str, old: Dimensions, new: Dimensions, carried: HiddenMap) -> Term:
    """`ΔW_n = W_hᵀ ΔW_o W_h`; grouped key-value heads are repeated before and averaged after."""
    _require_whole_heads(old, new)
    if role not in ("k", "v") or (old.kv_heads, new.kv_heads) == (old.heads, new.heads):
        return Term(carried.transposed(), carried.forward())
    whole = np.eye(old.hidden) if carried.matrix is None else carried.matrix.cpu().numpy()
    groups = (new.kv_heads, new.heads // new.kv_heads, new.head_dim)
    averaged = whole.T.reshape(*groups, old.hidden).mean(axis=1)  # (KV_n, h', d_o)
    groups = (old.kv_heads, old.heads // old.kv_heads, old.head_dim)
    summed = averaged.reshape(-1, *groups).sum(axis=2)  # (KV_n h', KV_o, h)
    left = torch.from_numpy(summed.reshape(len(summed), -1))
    return Term((Dense(left),), carried.forward())


def _intermediate(role: str, old: torch.Tensor, new: torch.Tensor, carried: HiddenMap) -> Term:
    """gate, up, and what reads into linear attention: `B_n = U_n pinv(W_h) pinv(U_o) B_o`; down,
    and what writes out of it: `A_n = A_o pinv(D_o) W_h D_n`.

    With `U⁺ = (UᵀU)⁻¹ Uᵀ` and `D⁺ = Dᵀ (D Dᵀ)⁻¹` both base weights stand as they are, which lie in
    two bytes a number, and what is between them is one matrix of the residual streams' sizes. Else
    there are two matrices: the inner product goes through the thinner of the two streams.
    """
    if role in STREAM:
        between = _between(old.T, carried.matrix)
        if between is not None:
            right = Dense(old, transposed=True), Dense(between.T), Dense(new)
            return Term(carried.backward(), right)
        outer, inner = pinv(old), new  # (f_o, d_o), (d_n, f_n)
        if carried.matrix is not None:
            outer, inner = _absorb(outer, carried.matrix, inner)
        return Term(carried.backward(), (Dense(outer), Dense(inner)))
    back = None if carried.back is None else carried.back.T
    between = _between(old, back)
    if between is not None:
        left = Dense(new), Dense(between), Dense(old, transposed=True)
        return Term(left, carried.forward())
    outer, inner = new, pinv(old)  # (f_n, d_n), (d_o, f_o)
    if carried.back is not None:
        outer, inner = _absorb(outer, carried.back, inner)
    return Term((Dense(outer), Dense(inner)), carried.forward())


def _between(tall: torch.Tensor, hidden: torch.Tensor | None) -> torch.Tensor | None:
    """`Hᵀ (TᵀT)⁻¹`, (d_n, d_o), for T (f_o, d_o) and H (d_o, d_n) or the identity.

    None where T does not lie in two bytes a number, where its pseudo-inverse needs more care, and
    where `Hᵀ T⁺` as stored in float32 would be off by more than MAX_ROUNDING of its norm.
    """
    if not any(torch.equal(tall.to(t).double(), tall) for t in (torch.bfloat16, torch.float16)):
        return None
    solved = gram_inverse(tall)
    if solved is None:
        return None
    inverse, gram = solved
    between = inverse if hidden is None else hidden.T @ inverse
    lost = between.float().double() - between
    off, whole = ((each @ gram * each).sum() for each in (lost, between))
    return between if off <= MAX_ROUNDING**2 * whole else None


def _absorb(
    left: torch.Tensor, middle: torch.Tensor, right: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two factors for three, (a, m)·(m, n)·(n, b), with the thinner waist."""
    if middle.shape[0] <= middle.shape[1]:
        return left, middle @ right
    return left @ middle, right
