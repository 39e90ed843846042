"""What a training starts from: a fresh adapter, or a transferred one with its new layers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model
from peft.tuners.adalora import AdaLoraLayer

from ..adapters.attach import attach
from ..adapters.files import read_config
from ..errors import LoraportError
from ..models.families import Architecture


@dataclass(frozen=True)
class Fresh:
    """A new adapter with PEFT's standard start (`A` random, `B` zero: no effect at first).

    kind : `lora`, `rslora`, `dora` or `adalora`; target_modules : names, or "all-linear";
    target_parameters : names of parameters that are no module's, such as experts
    """

    rank: int = 32
    alpha: float = 32
    target_modules: tuple[str, ...] | str = ("q_proj", "k_proj", "v_proj", "o_proj")
    kind: str = "lora"
    dropout: float = 0.0
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    target_parameters: tuple[str, ...] = ()


def fresh_like(adapter: str | Path) -> Fresh:
    """A fresh adapter of the same kind, rank, scale and places as a PEFT directory."""
    config = read_config(Path(adapter))
    targets = config["target_modules"]
    if config.get("peft_type") == "ADALORA":
        kind, rank = "adalora", config["init_r"]
    else:
        kind = (
            "dora" if config.get("use_dora") else "rslora" if config.get("use_rslora") else "lora"
        )
        rank = config["r"]
    patterned = kind != "adalora"
    return Fresh(
        rank=rank,
        alpha=config["lora_alpha"],
        target_modules=targets if isinstance(targets, str) else tuple(sorted(targets)),
        kind=kind,
        rank_pattern=(config.get("rank_pattern") or {}) if patterned else {},
        alpha_pattern=(config.get("alpha_pattern") or {}) if patterned else {},
        target_parameters=tuple(sorted(config.get("target_parameters") or ())),
    )


def begin(model: Any, start: Fresh | str | Path, new_layers: str, steps: int) -> PeftModel:
    """The base model with a trainable adapter: a fresh one, or the start with its zero modules."""
    if isinstance(start, Fresh):
        try:
            return get_peft_model(model, _config(start, steps))
        except ValueError as error:
            raise LoraportError(
                "the fresh adapter does not fit the model",
                got=" ".join(str(error).split())[:300],
                expected="target modules that the model has",
                todo="correct `target_modules` under `finetune`",
            ) from error
    adapted = attach(model, start, trainable=True)
    for layer in empty_layers(adapted):
        if new_layers == "init":
            _reset(layer)
        else:
            _freeze(layer)
    return adapted


def empty_layers(model: PeftModel) -> list[Any]:
    """The adapter's modules whose factors are both zero: new layers without a source."""
    empty = []
    modules: Iterator[Any] = model.modules()
    for module in modules:
        if not hasattr(module, "lora_A") or "default" not in module.lora_A:
            continue
        a, b = module.lora_A["default"], module.lora_B["default"]
        factors = [factor.weight if hasattr(factor, "weight") else factor for factor in (a, b)]
        if not any(bool(factor.any()) for factor in factors):
            empty.append(module)
    return empty


def _reset(layer: Any) -> None:
    if isinstance(layer, AdaLoraLayer):
        layer.reset_lora_parameters("default")
    else:
        layer.reset_lora_parameters("default", init_lora_weights=True)


def _freeze(layer: Any) -> None:
    """Keep a module's adapter as it is: its gradients are zero, and so is what the optimiser does.

    By a hook and not by `requires_grad`, which loading a checkpoint would set again.
    """
    for name, parameter in layer.named_parameters():
        if "lora_" in name and parameter.requires_grad:
            parameter.register_hook(torch.zeros_like)


def _config(fresh: Fresh, steps: int) -> LoraConfig:
    targets = fresh.target_modules
    common: dict[str, Any] = {
        "lora_alpha": fresh.alpha,
        "lora_dropout": fresh.dropout,
        "target_modules": targets if isinstance(targets, str) else list(targets),
        "task_type": "CAUSAL_LM",
    }
    if fresh.kind == "adalora":
        # its three phases, in the proportions of the paper's GLUE runs: warm up for a tenth of
        # the steps, prune to half of the rank, and keep the last third at the final rank
        return AdaLoraConfig(
            init_r=fresh.rank,
            target_r=max(1, fresh.rank // 2),
            tinit=steps // 10,
            tfinal=steps // 3,
            total_step=steps,
            **common,
        )
    if fresh.kind not in ("lora", "rslora", "dora"):
        raise LoraportError(
            f"unknown adapter kind {fresh.kind!r}", expected="lora, rslora, dora or adalora"
        )
    return LoraConfig(
        r=fresh.rank,
        use_rslora=fresh.kind == "rslora",
        use_dora=fresh.kind == "dora",
        rank_pattern=dict(fresh.rank_pattern),
        alpha_pattern=dict(fresh.alpha_pattern),
        target_parameters=list(fresh.target_parameters) or None,
        **common,
    )


def target_modules(architecture: Architecture, roles: Sequence[str]) -> tuple[str, ...]:
    """PEFT's names of a family's modules for roles (`q`, …, `down`); a fused module once."""
    missing = [role for role in roles if role not in architecture.roles]
    if missing:
        raise LoraportError(
            f"family {architecture.name!r} has no module for {', '.join(missing)}",
            got=", ".join(roles),
            expected=f"roles among {', '.join(architecture.roles)}",
            todo="correct `finetune.lora.modules` in config.yaml",
        )
    return tuple(sorted({architecture.module_of(role).rpartition(".")[2] for role in roles}))
