"""Model families as data: module names, fused layouts and head fields, one JSON file each."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from ...errors import LoraportError
from .beyond import beyond_a_file
from .by_layer import read_layers, wrong_rules
from .dimensions import Dimensions, field_of, read_dimensions, read_factor

__all__ = [
    "FEED_FORWARD", "LAYOUTS", "ROLES", "Architecture", "Dimensions", "families", "family_of",
    "parse",
]  # fmt: skip

# q_gate is the gate on what attention's heads give; of linear attention (gated DeltaNet) z is the
# gate on its output, b how much of it is written, and a how much is kept
ROLES = ("q", "k", "v", "o", "gate", "up", "down", "q_gate",
         "linear_q", "linear_k", "linear_v", "linear_z", "linear_b", "linear_a",
         "linear_o")  # fmt: skip
FEED_FORWARD = ("gate", "up", "down")
LAYOUTS = ("blocks", "per_head")
# what stands around the layers of a text model, by itself or inside a multimodal one
ROOTS = ("model", "language_model", "text_model", "transformer")


@dataclass(frozen=True)
class Architecture:
    """One family.

    Attributes
    ----------
    name : the file's name
    model_types : values of `model_type` in config.json that belong to it
    when : a field of config.json that is set in its models, where those of the same `model_type`
        without it belong to another family
    dimensions : dimension -> where config.json says it, see `dimensions.read_dimensions`
    prefix : what a checkpoint of the bare model, without its head, leaves out of every name
    embedding, head : modules of the input embedding and of the output head
    tied : whether the head shares the embedding's weight where config.json does not say
    block : module of a decoder block, with `{layer}`
    norms : all normalisation modules that a model of the family may have, with `{layer}` or without
    output_norms : role -> module below the block, one of `norms`, that normalises what the role's
        module writes before the residual stream takes it in: it adds `N(W x)`, not `W x`
    norm_shift : what a norm's stored weight is short of the factor that it multiplies by
    residual : what the residual stream takes in of o's and down's outputs: a field of config.json,
        which is 1 where it is missing, or two of them as `a / sqrt b`; not beside `output_norms`
    modules : linear module below the block -> roles whose weights it stacks along its rows
    layouts : fused module -> how its rows are stacked: `blocks` (role after role) or `per_head`
        (all roles of head 0, then of head 1, …)
    aliases : module, or part of the model -> its name in older checkpoints and adapters
    beside : other parts of the model, such as one that sees: left as they are, though modules of
        theirs may bear the decoder's names
    buffers : ends of the names of tensors that checkpoints hold beside weights: masks, frequencies
    experts : modules below the block that are, or hold, a mixture of experts: the experts, their
        router, what they share, and the feed-forward network that stands in their place in some
        layers. Their weights are left as they are
    stored : parameter below the block -> tensors of a checkpoint that it is made from: one by
        another name; of `{expert}`, those of all experts, one behind the other; several of these
        side by side, as rows of each expert; or blocks and scales of MXFP4
    routed : of experts that are one module whose inputs a router chooses by: `experts`, that module
        below the block, `router`, `rows`, whether gate's and up's are `halves` of one parameter or
        `interleaved`, and `axes` of each expert's matrix, `out_in` as everywhere or `in_out`.
        Without it experts' own updates are not carried
    vectors : parameters below the block that are no module's weight or bias, such as the sinks of
        attention
    uncarried : other modules, with `{layer}` or without, whose updates are left behind
    behind : those of them and of `vectors`, below the block, by which it changes the stream once
        more behind what down writes
    layer_types, by_layer : what layers are called, and what differs by it, see `by_layer`
    """

    name: str
    model_types: tuple[str, ...]
    dimensions: Mapping[str, tuple[str, ...]]
    prefix: str
    embedding: str
    head: str
    tied: bool
    block: str
    norms: tuple[str, ...]
    output_norms: Mapping[str, str]
    norm_shift: float
    residual: str
    modules: Mapping[str, tuple[str, ...]]
    layouts: Mapping[str, str]
    aliases: Mapping[str, str]
    buffers: tuple[str, ...]
    beside: tuple[str, ...]
    experts: tuple[str, ...]
    stored: Mapping[str, tuple[str, ...]]
    routed: Mapping[str, str]
    vectors: tuple[str, ...]
    when: str
    uncarried: tuple[str, ...]
    behind: tuple[str, ...]
    layer_types: Mapping[str, Any]
    by_layer: tuple[Mapping[str, Any], ...]

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that this family has, in the order of `ROLES`."""
        held = {role for roles in self.modules.values() for role in roles}
        return tuple(role for role in ROLES if role in held)

    def roles_of(self, dims: Dimensions) -> tuple[str, ...]:
        """The roles that a layer of these dimensions has."""
        return tuple(role for role in self.roles if role not in dims.lacks)

    def modules_of(self, dims: Dimensions) -> dict[str, tuple[str, ...]]:
        """The modules that a layer of these dimensions has, as in `modules`."""
        return {
            module: roles
            for module, roles in self.modules.items()
            if not set(roles) & set(dims.lacks)
        }

    def module_of(self, role: str) -> str:
        """The module, below the block, that holds a role."""
        return next(module for module, roles in self.modules.items() if role in roles)

    def path(self, layer: int, module: str) -> str:
        """Full path of a module, as in `model.named_modules()`."""
        return f"{self.block.format(layer=layer)}.{module}"

    def locate(self, path: str) -> tuple[int, str] | None:
        """(layer, module) of a full module path; None where it is not one of the family's."""
        path = self.own_name(path)
        head, tail = self.block.split("{layer}")
        match = re.fullmatch(rf"{re.escape(head)}(\d+){re.escape(tail)}\.(.+)", path)
        if match is None or match[2] not in self.modules:
            return None
        return int(match[1]), match[2]

    def rows(self, role: str, dims: Dimensions) -> np.ndarray | None:
        """Row numbers of a role inside its fused module; None where it is the whole module."""
        module = self.module_of(role)
        roles = self.modules[module]
        if len(roles) == 1:
            return None
        sizes = [dims.shape(each)[0] for each in roles]
        position = roles.index(role)
        if self.layouts[module] == "per_head":
            grid = np.arange(sum(sizes)).reshape(dims.heads, len(roles), dims.head_dim)
            return grid[:, position].reshape(-1)
        return np.arange(sizes[position]) + sum(sizes[:position])

    def module_shape(self, module: str, dims: Dimensions) -> tuple[int, int]:
        """(d_out, d_in) of a module, fused or not."""
        shapes = [dims.shape(role) for role in self.modules[module]]
        return sum(shape[0] for shape in shapes), shapes[0][1]

    def read_dimensions(self, config: Mapping[str, Any], where: str) -> Dimensions:
        """Dimensions from a config.json's content; contradictions are errors that name `where`."""
        if not self.by_layer:
            return read_dimensions(self.dimensions, config, where)
        return read_layers(self.dimensions, self.layer_types, self.by_layer, config, where)

    def residual_factor(self, config: Mapping[str, Any], where: str) -> float:
        """What o's and down's outputs are multiplied by on their way into the residual stream."""
        return read_factor(self.residual, config, where)

    def is_tied(self, config: Mapping[str, Any]) -> bool:
        """Whether a model's head shares the weight of its input embedding."""
        said = config.get("tie_word_embeddings")
        return self.tied if said is None else bool(said)

    def stored_names(self, name: str) -> Iterator[str]:
        """Names under which a checkpoint may hold a tensor: the module's own one comes first."""
        yield name
        for module, alias in self.aliases.items():
            if name.startswith(f"{module}."):
                yield alias + name.removeprefix(module)
        if name.startswith(f"{self.prefix}."):
            yield name.removeprefix(f"{self.prefix}.")

    def own_name(self, name: str) -> str:
        """A module's or tensor's name as the model has it, from one of an older checkpoint."""
        for module, alias in self.aliases.items():
            if name == alias or name.startswith(f"{alias}."):
                return module + name.removeprefix(alias)
        return name

    def own_path(self, path: str) -> str:
        """A module's path as the model has it, from any form in which an adapter may name it.

        Without the prefix, as `AutoModel` names modules; with the parts of a multimodal model
        around the text model, or without them; by an older name. Others are given back as they are.
        """
        path = self.own_name(path)
        outer, below = self.block.split("{layer}")
        words = {*outer.split("."), *ROOTS}
        stem = outer.rstrip(".").rpartition(".")[2]
        match = re.fullmatch(rf"((?:\w+\.)*){stem}\.(\d+){re.escape(below)}\.(.+)", path)
        held = {*self.modules, *(each.removeprefix(f"{self.block}.") for each in self.uncarried)}
        if match and set(match[1].split(".")) <= {*words, ""} and match[3] in held:
            return self.path(int(match[2]), match[3])
        outside = [each for each in (*self.norms, *self.uncarried) if "{layer}" not in each]
        for module in (self.embedding, self.head, *outside):
            older = self.aliases.get(module, module)
            for last in {module.rpartition(".")[2], older.rpartition(".")[2]}:
                before = path.removesuffix(last)
                if before != path and set(before.split(".")) <= {*words, ""}:
                    return module
        return path

    def is_buffer(self, name: str) -> bool:
        """Whether a checkpoint's tensor is no weight; a mask may hold -Inf, for one."""
        return any(name == end or name.endswith(f".{end}") for end in self.buffers)

    def is_of_experts(self, path: str) -> bool:
        """Whether a module or tensor, by any name, belongs to a block's mixture of experts."""
        parts = "|".join(re.escape(each) for each in self.experts)
        return bool(parts) and re.search(rf"(^|\.)\d+\.({parts})(\.|$)", path) is not None

    def describes(self, name: str) -> bool:
        """Whether a checkpoint's tensor is one that this family's file accounts for."""
        if self.is_buffer(name) or self.is_of_experts(name):
            return True
        module = name.removesuffix(".weight").removesuffix(".bias")
        candidates = {module, f"{self.prefix}.{module}", self.own_name(module)}
        if any(each.startswith(f"{part}.") for each in candidates for part in self.beside):
            return True
        vectors = (f"{self.block}.{each}" for each in self.vectors)
        known = (self.embedding, self.head, *self.norms, *self.uncarried, *vectors)
        return any(self.locate(each) is not None or _is_one_of(known, each) for each in candidates)

    def is_uncarried(self, path: str) -> bool:
        """Whether a module, by its own name, is one whose updates are left behind."""
        return _is_one_of(self.uncarried, path)


def _is_one_of(names: Sequence[str], path: str) -> bool:
    """Whether a path is one of some names, which may have `{layer}` in them."""
    patterns = [re.escape(each).replace(r"\{layer\}", r"\d+") for each in names]
    return re.fullmatch("|".join(patterns), path) is not None


def _family_with(kind: Any, config: Mapping[str, Any]) -> Architecture | None:
    """The family of a `model_type`: of several the one whose field the config has set."""
    same = [each for each in families().values() if kind in each.model_types]
    said = [each for each in same if each.when and field_of(config, each.when)]
    return next((each for each in (*said, *same) if each in said or not each.when), None)


def _of_experts_alone(quantised: Any, family: Architecture | None) -> bool:
    """Whether a quantisation leaves all weights but those of experts as they are: MXFP4's does."""
    method = quantised.get("quant_method") if isinstance(quantised, Mapping) else None
    return method == "mxfp4" and family is not None and bool(family.experts)


def parse(name: str, content: Mapping[str, Any]) -> Architecture:
    """A family from the content of its JSON file; unknown or missing fields are errors."""
    optional: dict[str, Any] = {"layouts": {}, "aliases": {}, "buffers": [], "beside": []}
    optional |= {"output_norms": {}, "norm_shift": 0.0, "residual": ""}
    optional |= {"experts": [], "stored": {}, "routed": {}, "vectors": []}
    optional |= {"when": "", "uncarried": [], "behind": []}
    optional |= {"layer_types": {}, "by_layer": []}
    required = {field.name for field in fields(Architecture)} - {"name"} - set(optional)
    modules = content.get("modules", {})
    wrong = (set(content) - required - set(optional)) | (required - set(content))
    sizes = {field.name: field.default is MISSING for field in fields(Dimensions)}
    said = set(content.get("dimensions", {}))
    wrong |= (said - set(sizes)) | {name for name, needed in sizes.items() if needed} - said
    held = [role for roles in modules.values() for role in roles]
    wrong |= {role for role in held if role not in ROLES or held.count(role) > 1}
    fused = {module for module, roles in modules.items() if len(roles) > 1}
    wrong |= set(content.get("layouts", {})) ^ fused
    wrong |= set(content.get("layouts", {}).values()) - set(LAYOUTS)
    wrong |= _wrong_norms(content) | wrong_rules(content, held)
    block, below = content.get("block", ""), content.get("vectors", [])
    wrong |= {
        each
        for each in content.get("behind", [])
        if each not in below and f"{block}.{each}" not in content.get("uncarried", [])
    }
    routed = content.get("routed", {})
    wrong |= set(routed) ^ ({"experts", "router", "rows", "axes"} if routed else set())
    wrong |= {routed.get("rows", "halves")} - {"halves", "interleaved"}
    wrong |= {routed.get("axes", "out_in")} - {"out_in", "in_out"}
    if wrong:
        raise LoraportError(
            f"models/families/{name}.json is not a family",
            got=f"unknown, missing or doubled: {', '.join(sorted(wrong))}",
            expected=f"exactly {', '.join(sorted(required))} and, where they apply, "
            f"{', '.join(sorted(optional))}",
            todo="see the attributes of loraport.models.families.Architecture",
        )
    frozen: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in {**optional, **content}.items()
    }
    for key in ("dimensions", "modules", "stored"):
        frozen[key] = {part: tuple(value) for part, value in frozen[key].items()}
    return Architecture(name, **frozen)


def _wrong_norms(content: Mapping[str, Any]) -> set[str]:
    """What a family's `output_norms` and `norm_shift` name that is not there, or nothing reads."""
    norms, block = content.get("output_norms", {}), content.get("block", "")
    # whole modules alone: the norm of a fused module's output would mix its roles
    whole = {roles[0] for roles in content.get("modules", {}).values() if len(roles) == 1}
    wrong = set(norms) - (whole & {"o", "down"})
    wrong |= {each for each in norms.values() if f"{block}.{each}" not in content.get("norms", [])}
    if not isinstance(content.get("norm_shift", 0.0), int | float):
        wrong.add("norm_shift")
    if norms and content.get("residual"):
        wrong.add("residual")
    return wrong | ({"norm_shift"} if "norm_shift" in content and not norms else set())


@cache
def families() -> dict[str, Architecture]:
    """All families by name."""
    by_name = {path.name: path for path in files(__package__).iterdir()}
    return {
        (name := file.removesuffix(".json")): parse(name, json.loads(by_name[file].read_text()))
        for file in sorted(by_name)
        if file.endswith(".json")
    }


def family_of(config: Mapping[str, Any], where: str) -> Architecture:
    """The family that serves a config.json's `model_type`; quantised weights are refused.

    Raises
    ------
    LoraportError
        For quantised weights, for a structure that no family file can describe, and for a family
        without a file.
    """
    kind, quantised = config.get("model_type"), config.get("quantization_config")
    family = _family_with(kind, config)
    if family is None and (structures := beyond_a_file(config)):
        raise LoraportError(
            f"{where} is of a model whose structure loraport does not map",
            got=f"model_type {kind!r} has {'; '.join(structures)}",
            expected="modules of q, k, v, o and one feed-forward network in each layer, or linear "
            "attention as Qwen 3.5 has it, around one residual stream",
            todo="name another model; a family file can't describe this one",
        )
    if quantised and not _of_experts_alone(quantised, family):
        method = quantised.get("quant_method") if isinstance(quantised, Mapping) else quantised
        raise LoraportError(
            f"{where} is of a model whose weights are quantised",
            got=f"quantization_config of {method!r}",
            expected="weights as float32, bfloat16 or float16",
            todo="name the model that it was quantised from; an adapter fits both",
        )
    if family is not None:
        return family
    known = sorted(kind for family in families().values() for kind in family.model_types)
    raise LoraportError(
        f"{where} is of a model family that has no file in models/families/",
        got=f"model_type {kind!r}",
        expected=", ".join(known),
        todo="add a JSON file for it beside the others (data, no code)",
    )
