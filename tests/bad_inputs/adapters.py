"""Adapters: of another model, incomplete, diverged, damaged, or made to do harm."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pico
from workdir import SIZES

from . import MARK, Case, Cases, Marker, edit_header, edit_json, edit_tensors

CONFIG, WEIGHTS = Path("adapter/adapter_config.json"), Path("adapter/adapter_model.safetensors")
Q = "base_model.model.model.layers.0.self_attn.q_proj"
A, B = f"{Q}.lora_A.weight", f"{Q}.lora_B.weight"
NOT_WHOLE = ("adapter_model.safetensors is not a whole safetensors file",)
EXPLODING = "(.+)+!$"


def _config(**changes):
    return lambda root: edit_json(root / CONFIG, **changes)


def _tensors(change):
    return lambda root: edit_tensors(root / WEIGHTS, change)


def _header(change):
    return lambda root: edit_header(root / WEIGHTS, change)


def _content(change):
    return lambda root: (root / WEIGHTS).write_bytes(change((root / WEIGHTS).read_bytes()))


def other_shape(root: Path) -> None:
    pico.make_model(root / "wide", seed=5, vocab_words=220, **SIZES["new"])
    shutil.rmtree(root / "adapter")
    pico.make_adapter(root / "adapter", root / "wide", seed=3)


def pickle_named_safetensors(root: Path) -> None:
    (root / WEIGHTS).write_bytes(pickle.dumps(Marker(root / MARK)))


def pickle_beside(root: Path) -> None:
    (root / WEIGHTS).unlink()
    (root / "adapter/adapter_model.bin").write_bytes(pickle.dumps(Marker(root / MARK)))


def duplicate_key(root: Path) -> None:
    content = (root / WEIGHTS).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].strip()
    first = json.dumps({A: json.loads(header)[A]})[1:-1].encode()
    header = header[:-1] + b"," + first + b"}"
    (root / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])


def rename(root: Path) -> None:
    def change(tensors):
        for half in "AB":
            name = f"{Q.replace('q_proj', 'qkv')}.lora_{half}.weight"
            tensors[name] = tensors.pop(f"{Q}.lora_{half}.weight")

    edit_tensors(root / WEIGHTS, change)


def zero_rank(root: Path) -> None:
    def change(tensors):
        for name, values in tensors.items():
            tensors[name] = values[:0] if "lora_A" in name else values[:, :0]

    edit_tensors(root / WEIGHTS, change)
    edit_json(root / CONFIG, r=0)


def deep(root: Path) -> None:
    (root / CONFIG).write_text("[" * 100_000)


def _shape(*shape):
    return _header(lambda header: header[A].update(shape=list(shape)))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 98824\n"
CASES: Cases = {
    "a pointer for the weights": Case(_content(lambda content: POINTER), ("pointer of git-lfs",)),
    "a pointer for the config": Case(
        lambda root: (root / CONFIG).write_bytes(POINTER), ("pointer of git-lfs",)
    ),
    "of other shapes": Case(other_shape, ("is for another base model", "48")),
    "of another base by name": Case(
        _config(base_model_name_or_path="x/y"), ("records another base model", "known_as")
    ),
    "more layers than the base": Case(
        _tensors(lambda t: t.update({n.replace("s.0.", "s.7."): v for n, v in t.items()})),
        ("is for another base model",),
    ),
    "a tensor is missing": Case(
        _tensors(lambda t: [t.pop(name) for name in (A, B)]), ("lacks tensors that its config",)
    ),
    "half a pair is missing": Case(_tensors(lambda t: t.pop(B)), ("is incomplete at", "q_proj")),
    "an extra tensor": Case(
        _tensors(lambda t: t.update({"x.y": np.ones(3, np.float32)})), ("x.y", "does not carry")
    ),
    "an extra part": Case(
        _tensors(lambda t: t.update({f"{Q}.lora_C.weight": t[A]})), ("lora_C", "does not carry")
    ),
    "a module that the family lacks": Case(rename, ("adapts a module", "self_attn.qkv")),
    "no tensors at all": Case(_tensors(lambda t: t.clear()), ("changes nothing",)),
    "ranks that differ": Case(_tensors(lambda t: t.update({A: t[A][:2]})), ("is incomplete at",)),
    "a factor of three axes": Case(_tensors(lambda t: t.update({A: t[A][None]})), ("incomplete",)),
    "NaN": Case(_tensors(lambda t: t[A].fill(np.nan)), ("holds NaN or Inf", "q_proj")),
    "Inf": Case(_tensors(lambda t: t[B].fill(np.inf)), ("holds NaN or Inf", "q_proj")),
    "huge norms": Case(
        _tensors(lambda t: [values.fill(1e30) for values in t.values()]), ("has diverged",)
    ),
    "one huge norm": Case(_tensors(lambda t: t[B].fill(1e9)), ("has diverged", "q_proj")),
    "all zero": Case(
        _tensors(lambda t: [v.fill(0) for n, v in t.items() if "lora_B" in n]), ("changes nothing",)
    ),
    "rank zero": Case(zero_rank, ("has no rank", "r = 0")),
    "a rank that is not its tensors'": Case(_config(r=5), ("tensors contradict its config",)),
    "a rank that is text": Case(_config(r="4"), ("has no rank", "'4'")),
    "a rank below zero": Case(_config(r=-4), ("has no rank", "-4")),
    "an alpha that is none": Case(_config(lora_alpha=None), ("lora_alpha",)),
    "an alpha that is NaN": Case(_config(lora_alpha=float("nan")), ("lora_alpha", "nan")),
    "another kind": Case(_config(peft_type="IA3"), ("peft_type 'IA3'",)),
    "no kind": Case(_config(peft_type=...), ("peft_type None",)),
    "a start that changed the base": Case(_config(init_lora_weights="pissa"), ("'pissa'",)),
    "a field that would be dropped": Case(
        _config(layer_replication=[[0, 2]]), ("layer_replication", "will not drop silently")
    ),
    "targets that are a number": Case(_config(target_modules=5), ("target_modules", "str or list")),
    "targets of numbers": Case(_config(target_modules=[1]), ("target_modules",)),
    "layers that are text": Case(_config(layers_to_transform="all"), ("layers_to_transform",)),
    "patterns that are a list": Case(_config(rank_pattern=["a"]), ("rank_pattern", "dict")),
    "patterns that explode": Case(
        _config(rank_pattern={EXPLODING: 4}), ("regular expression that is not evaluated",)
    ),
    "whole modules that are a number": Case(_config(modules_to_save=3), ("modules_to_save",)),
    "no config": Case(
        lambda root: (root / CONFIG).unlink(), ("adapter_config.json cannot be read",)
    ),
    "a config that is a list": Case(
        lambda root: (root / CONFIG).write_text("[]"), ("adapter_config.json cannot be read",)
    ),
    "a config cut short": Case(
        lambda root: (root / CONFIG).write_text('{"r": 4, '), ("adapter_config.json cannot be",)
    ),
    "a config that is binary": Case(
        lambda root: (root / CONFIG).write_bytes(b"\xff\xfe\0"), ("adapter_config.json cannot be",)
    ),
    "a config of endless depth": Case(deep, ("adapter_config.json cannot be read",)),
    "a pickle named safetensors": Case(pickle_named_safetensors, NOT_WHOLE),
    "a pickle in its place": Case(pickle_beside, ("is stored as a pickle", "never loaded")),
    "no weights": Case(lambda root: (root / WEIGHTS).unlink(), NOT_WHOLE),
    "no bytes": Case(_content(lambda content: b""), NOT_WHOLE),
    "cut short": Case(_content(lambda content: content[:-100]), NOT_WHOLE),
    "bytes too many": Case(_content(lambda content: content + b"\0" * 8), NOT_WHOLE),
    "a header of absurd length": Case(_content(lambda c: b"\xff" * 8 + c[8:]), NOT_WHOLE),
    "a header longer than the file": Case(
        _content(lambda c: (90_000_000).to_bytes(8, "little") + c[8:]), NOT_WHOLE
    ),
    "a header of endless depth": Case(
        _content(lambda c: (100_000).to_bytes(8, "little") + b"[" * 100_000), NOT_WHOLE
    ),
    "a header that is a list": Case(_content(lambda c: b"\2" + b"\0" * 7 + b"[]"), NOT_WHOLE),
    "a key twice": Case(duplicate_key, (*NOT_WHOLE, "duplicate keys")),
    "tensors that overlap": Case(
        _header(lambda header: header[A].update(data_offsets=header[B]["data_offsets"])), NOT_WHOLE
    ),
    "a type that there is not": Case(_header(lambda h: h[A].update(dtype="F9")), NOT_WHOLE),
    "a shape below zero": Case(_shape(-4, -32), NOT_WHOLE),
    "a shape of fractions": Case(_shape(4.0, 32.0), NOT_WHOLE),
    "a shape that is absurd": Case(_shape(2**62, 2**62), NOT_WHOLE),
    "a shape of many axes": Case(_shape(4, 32, *[1] * 90), NOT_WHOLE),
    "a shape that is text": Case(_header(lambda h: h[A].update(shape="4x32")), NOT_WHOLE),
    "an entry that is a number": Case(_header(lambda h: h.update({A: 1})), NOT_WHOLE),
}
# what is sound, and must take no time: an expression that is never evaluated
HARMLESS: Cases = {
    "targets that would explode": Case(_config(target_modules=EXPLODING), ()),
    "layers by a pattern that would explode": Case(_config(layers_pattern=[EXPLODING]), ()),
    "ten thousand targets": Case(_config(target_modules=[f"m{n}" for n in range(10_000)]), ()),
}
