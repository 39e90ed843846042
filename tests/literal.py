"""LoRASuite (arXiv 2505.13515) written literally: float64, dense `d × d` matrices, full SVDs.

This is the oracle of the tests and the slow side of the benchmarks. It follows the published
formulas line by line and takes no short cut; it imports nothing of the package.

Weights are PyTorch-oriented, `W (d_out, d_in)`; a LoRA adds `s B A`. `o` is the old model and `n`
the new one; `d` hidden size, `f` intermediate size, `H` heads of dimension `h`, `KV` key-value
heads. Head pairs are written `(a, b)`: old head `a`, new head `b`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.optimize import linear_sum_assignment

ROLES = ("q", "k", "v", "o", "gate", "up", "down")
Update = tuple[np.ndarray, np.ndarray, float]  # B (d_out, r), A (r, d_in), scale s


@dataclass(frozen=True)
class Layer:
    """Weights of one decoder block, float64.

    q `(H h, d)`, k and v `(KV h, d)`, o `(d, H h)`, gate and up `(f, d)`, down `(d, f)`.
    """

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    o: np.ndarray
    gate: np.ndarray
    up: np.ndarray
    down: np.ndarray
    heads: int
    kv_heads: int


def hidden_map(E_old: np.ndarray, E_new: np.ndarray) -> np.ndarray:
    """`W_h = pinv(E_o) E_n` (section "hidden size").

    E_old `(t, d_o)` and E_new `(t, d_n)` are the embedding rows of the `t` tokens that both
    vocabularies hold, in the same order. Returns `(d_o, d_n)`.
    """
    return np.linalg.pinv(E_old.astype(np.float64)) @ E_new.astype(np.float64)


def unbiased_hsic(K: np.ndarray, L: np.ndarray) -> float:
    """Unbiased HSIC of two Gram matrices `(m, m)`, `m ≥ 4` (Song et al. 2012, Eq. 5).

    `[tr(KL) + (1ᵀK1)(1ᵀL1)/((m−1)(m−2)) − 2/(m−2) 1ᵀKL1] / (m(m−3))`, both diagonals zero.
    """
    m = len(K)
    K = K - np.diag(np.diag(K))
    L = L - np.diag(np.diag(L))
    one = np.ones(m)
    trace = np.trace(K @ L)
    sums = (one @ K @ one) * (one @ L @ one) / ((m - 1) * (m - 2))
    cross = 2 / (m - 2) * (one @ K @ L @ one)
    return float((trace + sums - cross) / (m * (m - 3)))


def _batches(features: np.ndarray, minibatch: int) -> list[np.ndarray]:
    """Consecutive minibatches of the rows; one of fewer than 4 examples is dropped."""
    cuts = [features[i : i + minibatch] for i in range(0, len(features), minibatch)]
    return [cut.astype(np.float64) for cut in cuts if len(cut) >= 4]


def _mean_hsic(X: np.ndarray, Y: np.ndarray, minibatch: int) -> float:
    """Mean over minibatches of the unbiased HSIC of linear kernels of centred features."""
    values = []
    for x, y in zip(_batches(X, minibatch), _batches(Y, minibatch), strict=True):
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
        values.append(unbiased_hsic(x @ x.T, y @ y.T))
    return float(np.mean(values))


def cka_matrix(old: Sequence[np.ndarray], new: Sequence[np.ndarray], minibatch: int) -> np.ndarray:
    """Minibatch CKA `(l_o, l_n)` of all layer pairs (Nguyen et al. 2021, Eq. 2 to 3).

    `old` and `new` hold features `(n, d)` per layer, the same `n` examples in the same order.
    HSICs are averaged over minibatches, never CKAs. Where a self term is not positive the value
    is 0.
    """
    S = np.zeros((len(old), len(new)))
    for i, X in enumerate(old):
        for j, Y in enumerate(new):
            selves = _mean_hsic(X, X, minibatch) * _mean_hsic(Y, Y, minibatch)
            S[i, j] = _mean_hsic(X, Y, minibatch) / np.sqrt(selves) if selves > 0 else 0.0
    return S


def layer_path(S: np.ndarray, max_offset: int | None = None) -> list[tuple[int, int]]:
    """Best strictly increasing layer map by trying all of them (section "Layers").

    Each layer `i` of the shallower model is used once, with a layer `j` of the deeper one,
    `0 ≤ j − i ≤ max_offset` (default: the gap in depth). Returns pairs (old, new).
    """
    swap = S.shape[0] > S.shape[1]
    table = S.T if swap else S
    shallow, deep = table.shape
    limit = deep - shallow if max_offset is None else max_offset
    best, chosen = -np.inf, None
    for targets in combinations(range(deep), shallow):
        if any(not 0 <= j - i <= limit for i, j in enumerate(targets)):
            continue
        total = sum(table[i, j] for i, j in enumerate(targets))
        if total > best:
            best, chosen = total, targets
    if chosen is None:
        raise ValueError(f"no path of {shallow} into {deep} layers within offset {limit}")
    return [(j, i) if swap else (i, j) for i, j in enumerate(chosen)]


def split_heads(W: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a projection by head: `(H h, x)` to `(H, h, x)`."""
    return W.reshape(heads, -1, W.shape[1])


def repeat_kv(W: np.ndarray, layer: Layer) -> np.ndarray:
    """Key or value rows by head, repeated to the query heads: `(KV h, x)` to `(H, h, x)`."""
    return np.repeat(split_heads(W, layer.kv_heads), layer.heads // layer.kv_heads, axis=0)


def interaction(layer: Layer, head: int, W_h: np.ndarray | None = None) -> np.ndarray:
    """Flattened `[W_QK, W_VO]` of one head, `2 d²` numbers (section "Heads").

    `W_QK = Q_aᵀ K_a` and `W_VO = V_aᵀ O_aᵀ`, both `(d, d)`; with `W_h (d_o, d_n)` each is carried
    to the new model's space, `W_hᵀ W W_h`.
    """
    q, o = split_heads(layer.q, layer.heads)[head], split_heads(layer.o.T, layer.heads)[head]
    k, v = repeat_kv(layer.k, layer)[head], repeat_kv(layer.v, layer)[head]
    W_QK, W_VO = q.T @ k, v.T @ o
    if W_h is not None:
        W_QK, W_VO = W_h.T @ W_QK @ W_h, W_h.T @ W_VO @ W_h
    return np.concatenate([W_QK.ravel(), W_VO.ravel()])


def head_similarity(
    old_layer: Layer,
    new_layer: Layer,
    W_h: np.ndarray,
    pairs: Iterable[tuple[int, int]] | None = None,
) -> np.ndarray:
    """Cosine of the interaction matrices of every head pair, `(H_o, H_n)` (section "Heads").

    `pairs` computes those head pairs only and leaves NaN elsewhere: for timing a sample.
    """
    S = np.full((old_layer.heads, new_layer.heads), np.nan)
    every = [(a, b) for a in range(old_layer.heads) for b in range(new_layer.heads)]
    for a, b in every if pairs is None else pairs:
        x, y = interaction(old_layer, a, W_h), interaction(new_layer, b)
        S[a, b] = x @ y / (np.linalg.norm(x) * np.linalg.norm(y))
    return S


def assign(S: np.ndarray) -> list[tuple[int, int]]:
    """Hungarian assignment of heads: pairs (old, new), `min(H_o, H_n)` of them."""
    rows, columns = linear_sum_assignment(-S)
    return [(int(a), int(b)) for a, b in zip(rows, columns, strict=True)]


def _carry_heads(
    old: np.ndarray, new: np.ndarray, delta: np.ndarray, W_h: np.ndarray, pairs: Sequence
) -> np.ndarray:
    """Eq. 3 for matched heads: `ΔW_n[b] = Tᵀ ΔW_o[a] W_h`, `T = W_o[a] W_h W_n[b]ᵀ`.

    old `(H_o, h, d_o)`, new `(H_n, h', d_n)`, delta `(H_o, h, d_o)`; returns `(H_n, h', d_n)`
    with zeros for new heads without a match.
    """
    carried = np.zeros_like(new)
    for a, b in pairs:
        T = old[a] @ W_h @ new[b].T
        carried[b] = T.T @ delta[a] @ W_h
    return carried


def transfer_q(old: Layer, new: Layer, W_h: np.ndarray, pairs: Sequence, delta: np.ndarray):
    """Dense update of the query projection, `(H_n h', d_n)` (Eq. 3)."""
    W_o, W_n = split_heads(old.q, old.heads), split_heads(new.q, new.heads)
    return _carry_heads(W_o, W_n, split_heads(delta, old.heads), W_h, pairs).reshape(new.q.shape)


def transfer_kv(
    role: str, old: Layer, new: Layer, W_h: np.ndarray, pairs: Sequence, delta: np.ndarray
) -> np.ndarray:
    """Dense update of the key or value projection, `(KV_n h', d_n)` (Eq. 3).

    Heads are repeated to `H` in both models; afterwards each group of new heads is averaged, heads
    without a match counted as zeros.
    """
    W_o, W_n = repeat_kv(getattr(old, role), old), repeat_kv(getattr(new, role), new)
    carried = _carry_heads(W_o, W_n, repeat_kv(delta, old), W_h, pairs)
    groups = carried.reshape(new.kv_heads, new.heads // new.kv_heads, *carried.shape[1:])
    return groups.mean(axis=1).reshape(getattr(new, role).shape)


def transfer_o(old: Layer, new: Layer, W_h: np.ndarray, pairs: Sequence, delta: np.ndarray):
    """Dense update of the output projection, `(d_n, H_n h')` (Eq. 3).

    `ΔW_n[:, b] = W_hᵀ ΔW_o[:, a] (O_o[:, a]ᵀ W_h O_n[:, b])`.
    """
    h_old, h_new = old.o.shape[1] // old.heads, new.o.shape[1] // new.heads
    carried = np.zeros_like(new.o)
    for a, b in pairs:
        columns_a = slice(a * h_old, (a + 1) * h_old)
        columns_b = slice(b * h_new, (b + 1) * h_new)
        T = old.o[:, columns_a].T @ W_h @ new.o[:, columns_b]
        carried[:, columns_b] = W_h.T @ delta[:, columns_a] @ T
    return carried


def transfer_mlp(
    role: str, old: Layer, new: Layer, W_h: np.ndarray, delta: np.ndarray, wi: str
) -> np.ndarray:
    """Dense update of gate, up `(f_n, d_n)` or down `(d_n, f_n)` (section "Intermediate size").

    up and gate: `U_n · back · pinv(U_o) · ΔW_o · W_h`; down: `back · ΔW_o · pinv(D_o) · W_h · D_n`,
    where `back (d_n, d_o)` is `pinv(W_h)` in the authors' code (wi="code") and `W_hᵀ` in the paper
    (wi="paper").
    """
    back = {"code": np.linalg.pinv(W_h), "paper": W_h.T}[wi]
    W_o, W_n = getattr(old, role), getattr(new, role)
    if role == "down":
        return back @ delta @ np.linalg.pinv(W_o) @ W_h @ W_n
    return W_n @ back @ np.linalg.pinv(W_o) @ delta @ W_h


def truncate(delta: np.ndarray, r: int) -> tuple[np.ndarray, np.ndarray]:
    """Best rank-r factors `B (d_out, r)`, `A (r, d_in)` by a full SVD, `√σ` to each side.

    Where `r` exceeds the matrix's smaller side the factors have that many columns and rows.
    """
    U, sigma, Vt = np.linalg.svd(delta, full_matrices=False)
    root = np.sqrt(sigma[:r])
    return U[:, :r] * root, root[:, None] * Vt[:r]


def transfer_module(
    role: str, old: Layer, new: Layer, W_h: np.ndarray, pairs: Sequence, delta: np.ndarray, wi: str
) -> np.ndarray:
    """Dense update of one module of the new layer from the dense update of the old one."""
    if role == "q":
        return transfer_q(old, new, W_h, pairs, delta)
    if role in ("k", "v"):
        return transfer_kv(role, old, new, W_h, pairs, delta)
    if role == "o":
        return transfer_o(old, new, W_h, pairs, delta)
    return transfer_mlp(role, old, new, W_h, delta, wi)


def transfer_layer(
    old: Layer,
    new: Layer,
    W_h: np.ndarray,
    pairs: Sequence[tuple[int, int]],
    updates: Mapping[str, Update],
    wi: str = "code",
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Factors of one layer's transferred modules; `B A` is the whole update, scale included.

    `updates` maps role to (B, A, s) in the old layer; `pairs` is the head assignment.
    """
    factors = {}
    for role, (B, A, s) in updates.items():
        delta = s * (B.astype(np.float64) @ A.astype(np.float64))
        dense = transfer_module(role, old, new, W_h, pairs, delta, wi)
        factors[role] = truncate(dense, len(A))
    return factors


def transfer(
    old: Sequence[Layer],
    new: Sequence[Layer],
    W_h: np.ndarray,
    path: Sequence[tuple[int, int]],
    updates: Mapping[tuple[int, str], Update],
    wi: str = "code",
) -> dict[tuple[int, str], tuple[np.ndarray, np.ndarray]]:
    """An adapter carried over a model pair: (new layer, role) -> (B, A), scale included.

    `updates` maps (old layer, role) to (B, A, s); `path` is the layer map. New layers that no old
    layer maps to are absent: their update is zero.
    """
    carried = {}
    for i, j in path:
        mine = {role: update for (layer, role), update in updates.items() if layer == i}
        attends = not mine.keys().isdisjoint("qkvo")  # else one layer may have no heads
        pairs = assign(head_similarity(old[i], new[j], W_h)) if attends else []
        for role, factors in transfer_layer(old[i], new[j], W_h, pairs, mine, wi).items():
            carried[j, role] = factors
    return carried
