"""Starts: one update written as different factors. `ΔW = B A`, A (r, d_in), B (d_out, r).

AdamW sees A and B and not their product, so what a training makes of a start depends on them. A
fresh LoRA has rows of A of norm c = 1/√3 (uniform in ±1/√d_in) and B = 0.

A start is written `CARRIED:TRANSFORM[,KEY=NUMBER]…`, for instance `aligned:fresh,g=0.5`:

    nothing      a fresh LoRA (with no `CARRIED:`; keys follow a colon, `nothing:plus=4`)
    balanced     half of the singular values to each side
    fresh        A = c·0.577 Vᵀ, B = U S / (c·0.577): rows of A as long as a fresh LoRA's
    a_only       A as in `fresh`, B zero
    as_is        the factors as they stand in the adapter, of the bench's rank (`AS_TAUGHT`)
    g            the update is multiplied by it (`auto`: chosen on the small set)
    qkv          that of q, k and v once more by this (`auto`: chosen together with g)
    c            multiple of a fresh LoRA's size, of `fresh` and `a_only` (1)
    plus         learning rate of B as a multiple of A's (LoRA+)
    rs           scale s of s·B A, with B divided by it (rsLoRA at rank 32: 5.66)
    epochs       of the training, in place of the bench's
    prompts      of what `as_is` was taught on, given and written, in place of the bench's

Rows that the update leaves free are those of a fresh LoRA.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.numpy import load_file

FRESH = 1 / math.sqrt(3)  # norm of a row of A at LoRA's standard start
ZERO = 1e-12  # of the largest singular value: below it a direction is free
AS_TAUGHT = "taught:as_is"  # the start that a cell of `lessons` taught
TRANSFORMS = ("balanced", "fresh", "a_only", "as_is")
KEYS = ("g", "qkv", "c", "plus", "rs", "epochs", "prompts")
QKV = ("q_proj", "k_proj", "v_proj")
PREFIX, SUFFIX = "base_model.model.", ".lora_A.weight"


class Factors(NamedTuple):
    """A module's factors, float64; the update is `b @ a`."""

    b: np.ndarray
    a: np.ndarray


class Thin(NamedTuple):
    """Thin SVD of an update: `u (d_out, k)`, `s (k,)` falling and above zero, `vt (k, d_in)`."""

    u: np.ndarray
    s: np.ndarray
    vt: np.ndarray


@dataclass(frozen=True)
class Start:
    """A start by its name."""

    carried: str  # empty: nothing
    transform: str
    keys: Mapping[str, float | str] = field(default_factory=dict)

    def number(self, key: str, default: float = 1.0) -> float:
        return float(self.keys.get(key, default))

    def at(self, **numbers: float) -> "Start":
        """The start with these keys."""
        return Start(self.carried, self.transform, {**self.keys, **numbers})

    def gains(self) -> dict[str, float | str]:
        """Its gains, by key."""
        return {key: self.keys[key] for key in ("g", "qkv") if key in self.keys}


def parse(name: str) -> Start:
    """The start of a name (see the module's text).

    Raises
    ------
    ValueError
        For a transform or key that is not known.
    """
    carried, _, rest = name.partition(":")
    parts = [part for part in rest.split(",") if part]
    transform = "nothing" if carried == "nothing" else parts.pop(0) if parts else ""
    keys: dict[str, float | str] = {}
    for part in parts:
        key, _, value = part.partition("=")
        keys[key] = value if value == "auto" else float(value)
    if transform not in (*TRANSFORMS, "nothing") or not set(keys) <= set(KEYS):
        raise ValueError(f"no start {name!r}: transforms {TRANSFORMS}, keys {KEYS}")
    return Start("" if carried == "nothing" else carried, transform, keys)


def read(directory: str | Path) -> dict[str, Factors]:
    """Module -> factors of a LoRA directory, its scale in B; no other kind is known here."""
    config = json.loads((Path(directory) / "adapter_config.json").read_text())
    if config["peft_type"] != "LORA" or config.get("use_dora"):
        raise ValueError(f"{directory} is no plain LoRA")
    tensors = load_file(Path(directory) / "adapter_model.safetensors")
    factors = {}
    for name in (name for name in tensors if name.endswith(SUFFIX)):
        path = name.removeprefix(PREFIX).removesuffix(SUFFIX)
        rank = _by_pattern(config.get("rank_pattern"), path, config["r"])
        alpha = _by_pattern(config.get("alpha_pattern"), path, config["lora_alpha"])
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        b = tensors[name.replace("lora_A", "lora_B")].astype(np.float64)
        factors[path] = Factors(b * scale, tensors[name].astype(np.float64))
    return factors


def _by_pattern(patterns: Mapping[str, float] | None, path: str, default: float) -> float:
    """As PEFT reads rank_pattern and alpha_pattern."""
    for key, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({key})$", path):
            return value
    return default


def thin(factors: Factors) -> Thin:
    """SVD of `b @ a` by QR of `b` and `aᵀ`; directions that are zero left out."""
    left, core_left = np.linalg.qr(factors.b)
    right, core_right = np.linalg.qr(factors.a.T)
    u, s, vt = np.linalg.svd(core_left @ core_right.T)
    kept = s > (s[0] * ZERO if len(s) else 0)
    return Thin((left @ u)[:, kept], s[kept], (vt @ right.T)[kept])


def fresh_rows(rank: int, d_in: int, seed: int, path: str) -> np.ndarray:
    """A (rank, d_in) of a fresh LoRA, from the seed and the module's name."""
    text = np.frombuffer(path.encode(), np.uint8)
    rng = np.random.default_rng([seed, *text.tolist()])
    return rng.uniform(-1, 1, (rank, d_in)) / math.sqrt(d_in)


def transformed(
    update: Thin | None, start: Start, rank: int, shape: tuple[int, int], seed: int, path: str
) -> Factors:
    """Factors of rank `rank` for a module; the update is `rs · b @ a`.

    Parameters
    ----------
    update : of the carried adapter; None where it has none here
    shape : (d_out, d_in) of the module
    seed, path : of the free rows
    """
    a = fresh_rows(rank, shape[1], seed, path)
    b = np.zeros((shape[0], rank))
    if update is None or not len(update.s) or start.transform == "nothing":
        return Factors(b, a)
    count = min(rank, len(update.s))
    gain = start.number("g") * (start.number("qkv") if path.endswith(QKV) else 1.0)
    u, s, vt = update.u[:, :count], update.s[:count] * gain, update.vt[:count]
    if start.transform == "balanced":
        # at gain 0 A stays as it was
        a[:count] = np.sqrt(update.s[:count] * (gain or 1.0))[:, None] * vt
        size = np.linalg.norm(a[:count], axis=1)
    else:
        size = np.full(count, FRESH * start.number("c"))
        a[:count] = size[:, None] * vt
    if start.transform != "a_only":
        b[:, :count] = u * (s / size) / start.number("rs")
    return Factors(b, a)


def place(
    model: torch.nn.Module, updates: Mapping[str, Thin], start: Start, rank: int, seed: int
) -> None:
    """Write a start into the model's LoRA modules; an update that finds none is an error."""

    def made(path: str, shape: tuple[int, int]) -> Factors:
        return transformed(updates.get(path), start, rank, shape, seed, path)

    _write(model, set(updates), made, start.number("rs"))


def place_as_is(model: torch.nn.Module, factors: Mapping[str, Factors]) -> None:
    """Write an adapter's own factors into the model's LoRA modules, all of which it has."""
    _write(model, set(factors), lambda path, shape: factors[path], 1.0)


def _write(
    model: torch.nn.Module,
    known: set[str],
    made: Callable[[str, tuple[int, int]], Factors],
    scale: float,
) -> None:
    """Write what is `made` for a module's path and shape (d_out, d_in) into every LoRA module."""
    placed = set()
    for name, module in model.named_modules():
        if not hasattr(module, "lora_A") or "default" not in module.lora_A:
            continue
        path = name.removeprefix(PREFIX)
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        factors = made(path, (b.shape[0], a.shape[1]))
        with torch.no_grad():
            a.copy_(torch.from_numpy(factors.a))
            b.copy_(torch.from_numpy(factors.b))
        module.scaling["default"] = scale
        placed.add(path)
    if left := sorted(known - placed):
        raise ValueError(f"no module for {left[:3]} of a carried adapter")
