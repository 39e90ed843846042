"""Models: configs that contradict themselves, weights that are damaged, code that wants to run."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np

from . import MARK, Case, Cases, Marker, edit_header, edit_json, edit_tensors

CONFIG, WEIGHTS = Path("old/config.json"), Path("old/model.safetensors")
INDEX = Path("old/model.safetensors.index.json")
UP = "model.layers.1.mlp.up_proj.weight"
NOT_WHOLE = ("model.safetensors is not a whole safetensors file",)
CODE = """
from pathlib import Path
Path({mark!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class EvilConfig(LlamaConfig):
    model_type = "evil"
class EvilModel(LlamaForCausalLM):
    config_class = EvilConfig
class EvilTokenizer(PreTrainedTokenizerFast):
    pass
"""


def _config(**changes):
    return lambda root: edit_json(root / CONFIG, **changes)


def _content(change):
    return lambda root: (root / WEIGHTS).write_bytes(change((root / WEIGHTS).read_bytes()))


def _tensors(change):
    return lambda root: edit_tensors(root / WEIGHTS, change)


def _index(content: object):
    """An index in place of the whole file, which would go before it."""

    def spoil(root: Path) -> None:
        (root / WEIGHTS).unlink()
        (root / INDEX).write_text(json.dumps(content))

    return spoil


def pickled(root: Path) -> None:
    (root / WEIGHTS).unlink()
    (root / "old/pytorch_model.bin").write_bytes(pickle.dumps(Marker(root / MARK)))


def pickle_named_safetensors(root: Path) -> None:
    (root / WEIGHTS).write_bytes(pickle.dumps(Marker(root / MARK)))


def two_checkpoints(root: Path) -> None:
    for name in ("1.safetensors", "2.safetensors"):
        shutil.copy(root / WEIGHTS, root / "old" / name)
    _index({"weight_map": {"x": "1.safetensors", "y": "2.safetensors"}})(root)


def of_other_names(root: Path) -> None:
    (root / WEIGHTS).rename(root / "old/consolidated.safetensors")


def of_fp8(root: Path) -> None:
    """Sound, but of numbers that take a quarter of the room."""
    content = (root / WEIGHTS).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, end = json.loads(content[8 : 8 + length]), 0
    for entry in header.values():
        if "shape" in entry:
            size = int(np.prod(entry["shape"]))
            entry |= {"dtype": "F8_E4M3", "data_offsets": [end, end + size]}
            end += size
    text = json.dumps(header).encode()
    (root / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))


def pointer(file: str):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 98824\n"
    return lambda root: (root / "old" / file).write_text(text)


def remote_code(root: Path, model_type: str = "evil") -> None:
    """A model whose config asks transformers to run a file that lies beside it."""
    (root / "old/modeling_evil.py").write_text(CODE.format(mark=str(root / MARK)))
    auto = {
        "AutoConfig": "modeling_evil.EvilConfig",
        "AutoModelForCausalLM": "modeling_evil.EvilModel",
    }
    edit_json(root / CONFIG, model_type=model_type, auto_map=auto)


def remote_tokenizer(root: Path) -> None:
    """A tokenizer that only a file beside it can read."""
    (root / "old/modeling_evil.py").write_text(CODE.format(mark=str(root / MARK)))
    (root / "old/tokenizer.json").unlink()
    auto = {"AutoTokenizer": ["modeling_evil.EvilTokenizer", None]}
    edit_json(root / "old/tokenizer_config.json", tokenizer_class="EvilTokenizer", auto_map=auto)


CASES: Cases = {
    "a folder that is not there": Case(
        lambda root: shutil.rmtree(root / "old"), ("model directory 'old' is not there",)
    ),
    "no config": Case(lambda root: (root / CONFIG).unlink(), ("config.json cannot be read",)),
    "a config that is a list": Case(
        lambda root: (root / CONFIG).write_text("[]"), ("config.json is no JSON object",)
    ),
    "a config cut short": Case(
        lambda root: (root / CONFIG).write_text('{"model_type": '), ("config.json cannot be read",)
    ),
    "a config of endless depth": Case(
        lambda root: (root / CONFIG).write_text("[" * 100_000), ("config.json cannot be read",)
    ),
    "an unknown family": Case(_config(model_type="mystery"), ("families/", "'mystery'")),
    "a family that is a list": Case(_config(model_type=["llama"]), ("families/",)),
    "no family": Case(_config(model_type=...), ("families/", "None")),
    "no hidden size": Case(_config(hidden_size=...), ("hidden", "old")),
    "no number of layers": Case(_config(num_hidden_layers=...), ("layers",)),
    "a size that is text": Case(_config(hidden_size="32"), ("no usable hidden", "'32'")),
    "a size of zero": Case(_config(intermediate_size=0), ("no usable intermediate",)),
    "a size below zero": Case(_config(num_attention_heads=-4), ("no usable heads",)),
    "a size that is a fraction": Case(_config(hidden_size=32.5), ("no usable hidden",)),
    "a size that is true": Case(_config(num_hidden_layers=True), ("no usable layers",)),
    "head counts that contradict": Case(
        _config(num_key_value_heads=3), ("contradicts itself", "4 attention heads over 3")
    ),
    "hidden not divisible by heads": Case(
        _config(head_dim=..., num_attention_heads=5), ("no whole head_dim", "32 / 5")
    ),
    "absurdly many layers": Case(_config(num_hidden_layers=10**9), ("holds no tensor",)),
    "sizes that are not the weights'": Case(
        _config(intermediate_size=64), ("does not fit config.json", "(56, 32)")
    ),
    "quantised": Case(
        _config(quantization_config={"quant_method": "gptq"}), ("quantised", "'gptq'")
    ),
    "remote code is wanted": Case(remote_code, ("families/", "'evil'")),
    "cut short": Case(_content(lambda content: content[:-100]), NOT_WHOLE),
    "no bytes": Case(_content(lambda content: b""), NOT_WHOLE),
    "a header of absurd length": Case(_content(lambda c: b"\xff" * 8 + c[8:]), NOT_WHOLE),
    "a shape of fractions": Case(
        lambda root: edit_header(
            root / WEIGHTS, lambda h: h[UP].update(shape=[float(s) for s in h[UP]["shape"]])
        ),
        NOT_WHOLE,
    ),
    "a pickle named safetensors": Case(pickle_named_safetensors, NOT_WHOLE),
    "pickled weights only": Case(pickled, ("pickled weights only", "save_pretrained")),
    "no weights": Case(lambda root: (root / WEIGHTS).unlink(), ("no weight file at all",)),
    "a weight is missing": Case(_tensors(lambda t: t.pop(UP)), ("holds no tensor", UP)),
    "a weight of other shape": Case(
        _tensors(lambda t: t.update({UP: t[UP][:3]})), ("does not fit config.json", UP)
    ),
    "other names": Case(of_other_names, ("does not load", "consolidated.safetensors")),
    "FP8": Case(of_fp8, ("F8_E4M3 (FP8)", "that it was made from")),
    "a pointer for the weights": Case(pointer(WEIGHTS.name), ("pointer of git-lfs",)),
    "a pointer for the config": Case(pointer("config.json"), ("pointer of git-lfs",)),
    "a vocabulary of other size": Case(_config(vocab_size=999), ("set vocab_size", "999")),
    "weights that the config names": Case(
        _config(transformers_weights="gone.safetensors"), ("no file gone.safetensors",)
    ),
    "two checkpoints": Case(two_checkpoints, ("stands in two files",)),
    "an index of no shards": Case(_index({}), ("is not a shard index",)),
    "an index that is a list": Case(_index([]), ("is not a shard index",)),
    "an index of numbers": Case(_index({"weight_map": {"x": 5}}), ("index",)),
    "a shard that is missing": Case(
        _index({"weight_map": {"x": "model-2-of-2.safetensors"}}), ("lacks weight shards",)
    ),
    "a shard that climbs": Case(
        _index({"weight_map": {"x": "../new/model.safetensors"}}), ("lacks weight shards",)
    ),
}
# what only reading every weight can show: the first rule does it
SPEC_CASES: Cases = {
    "NaN": Case(_tensors(lambda t: t[UP].fill(np.nan)), ("holds NaN or Inf", UP)),
    "Inf": Case(_tensors(lambda t: t[UP].__setitem__((0, 0), np.inf)), ("holds NaN or Inf", UP)),
}


def _tokenizer(**changes):
    return lambda root: edit_json(root / "old/tokenizer.json", **changes)


NO_VOCABULARY = ("no vocabulary that loraport can read",)
TOKENIZER_CASES: Cases = {
    "no vocabulary": Case(_tokenizer(model={}), NO_VOCABULARY),
    "a vocabulary that is a number": Case(_tokenizer(model={"vocab": 5}), NO_VOCABULARY),
    "ids that are text": Case(_tokenizer(model={"vocab": {"a": "1", "b": 2}}), NO_VOCABULARY),
    "ids below zero": Case(_tokenizer(model={"vocab": {"a": -1}}), NO_VOCABULARY),
    "added tokens that are a number": Case(_tokenizer(added_tokens=3), NO_VOCABULARY),
    "a tokenizer that is a list": Case(
        lambda root: (root / "old/tokenizer.json").write_text("[]"), NO_VOCABULARY
    ),
    "a tokenizer cut short": Case(
        lambda root: (root / "old/tokenizer.json").write_text('{"model": '), ("tokenizer",)
    ),
    "a tokenizer of endless depth": Case(
        lambda root: (root / "old/tokenizer.json").write_text("[" * 100_000), ("tokenizer",)
    ),
    "roles cut short": Case(
        lambda root: (root / "old/tokenizer_config.json").write_text("{"), ("tokenizer_config",)
    ),
    "a pointer for a tokenizer": Case(pointer("tokenizer.json"), ("pointer of git-lfs",)),
    "a tokenizer that wants remote code": Case(remote_tokenizer, ("tokenizer",)),
}
