"""Random models, an adapter and features of given shapes, on disk as the workflow finds them.

Run as a child process by pipeline.py: `fixtures.py KIND JSON`, where KIND is model (of a few
Llama-like tensors), whole (all tensors of a published family), texts, adapter, features or
map (W_h).
"""

import json
import math
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from loraport.artifacts import identities, write_h5
from loraport.models.spec import load_spec
from loraport.models.weights import save_tensors

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
ATTENTION = ("q", "k", "v", "o")
PATHS = {
    **{role: f"self_attn.{role}_proj" for role in ATTENTION},
    **{role: f"mlp.{role}_proj" for role in ("gate", "up", "down")},
}


def shapes(sizes: dict) -> dict[str, tuple[int, int]]:
    """(d_out, d_in) of each role of a Llama-like block."""
    d, f = sizes["hidden"], sizes["intermediate"]
    wide = sizes["heads"] * sizes["head_dim"]
    narrow = sizes["kv_heads"] * sizes["head_dim"]
    return {"q": (wide, d), "k": (narrow, d), "v": (narrow, d), "o": (d, wide),
            "gate": (f, d), "up": (f, d), "down": (d, f)}  # fmt: skip


def make_model(directory: str, sizes: dict, dtype: str, seed: int) -> None:
    """A Llama-like model of N(0, 1/d_in) weights: one shard a layer, config and tokenizer."""
    folder = Path(directory)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)

    def random(shape: tuple[int, int], deviation: float) -> np.ndarray:
        values = rng.standard_normal(shape, dtype=np.float32)
        values *= deviation
        return values.astype(DTYPES[dtype])

    where = {}
    ones = np.ones(sizes["hidden"], DTYPES[dtype])
    around = {
        "model.embed_tokens.weight": random((sizes["vocab"], sizes["hidden"]), 1.0),
        "model.norm.weight": ones,
    }
    for layer in range(-1, sizes["layers"]):
        block = f"model.layers.{layer}"
        tensors = around if layer < 0 else {
            **{
                f"{block}.{PATHS[role]}.weight": random(shape, shape[1] ** -0.5)
                for role, shape in shapes(sizes).items()
            },
            f"{block}.input_layernorm.weight": ones,
            f"{block}.post_attention_layernorm.weight": ones,
        }  # fmt: skip
        file = f"model-{layer + 2:05d}-of-{sizes['layers'] + 1:05d}.safetensors"
        save_tensors(folder / file, tensors)
        where |= dict.fromkeys(tensors, file)
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(_config(sizes, dtype)))
    _write_tokenizer(folder, sizes["vocab"])


def make_whole_model(
    directory: str, kind: str, config: dict, dtype: str, device: str, seed: int
) -> None:
    """A model of a published family with all its tensors: shards of some 2 GB, never held whole.

    `kind` and `config` are a config class of transformers and its arguments. Matrices are of
    N(0, 1/d_in), the deviation rounded to a power of 2, on a CPU from 16 million draws; norm
    weights are 1.
    """
    import torch
    import transformers
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    settings = getattr(transformers, kind)(**config)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(settings)
    shapes = {name: values.shape for name, values in model.state_dict().items()}
    if settings.tie_word_embeddings:
        del shapes["lm_head.weight"]
    folder, where, held = Path(directory), {}, {}
    folder.mkdir(parents=True)

    def flush() -> None:
        file = f"model-{len(set(where.values())) + 1:05d}.safetensors"
        save_file(held, folder / file, {"format": "pt"})
        where.update(dict.fromkeys(held, file))
        held.clear()

    drawn = torch.randn(1 << 24, device=device).to(getattr(torch, dtype)).cpu()
    for name, shape in shapes.items():
        count, start = shape.numel(), int(torch.randint(len(drawn), (1,)))
        deviation = 2.0 ** round(math.log2(shape[1] ** -0.5 if len(shape) == 2 else 0.1))
        values = torch.ones(shape, dtype=drawn.dtype)
        if device != "cpu" and not name.endswith("norm.weight"):  # all are drawn
            fresh = torch.randn(shape, dtype=drawn.dtype, device=device)
            values = fresh.mul_(deviation).cpu()
        elif not name.endswith("norm.weight"):  # each begins elsewhere in what was drawn
            flat = values.view(-1)
            for place in range(-start, count, len(drawn)):
                first, last = max(place, 0), min(place + len(drawn), count)
                flat[first:last] = drawn[first - place : last - place]
            flat *= deviation
        held[name] = values
        if sum(each.nbytes for each in held.values()) > 2e9:
            flush()
    flush()
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    settings.dtype = dtype
    settings.save_pretrained(folder)
    _write_tokenizer(folder, settings.vocab_size)


def _write_tokenizer(folder: Path, size: int) -> None:
    """Words `token0`, `token1`, …, so that two models of this file share all that both have."""
    vocabulary = {f"token{number}": number for number in range(size)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="token0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "token1",
              "eos_token": "token0"}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def make_texts(path: str, examples: int, words: int, vocab: int, seed: int) -> None:
    """Texts of random words that `_write_tokenizer` knows, one a line."""
    drawn = np.random.default_rng(seed).integers(2, vocab, (examples, words))
    Path(path).write_text("\n".join(" ".join(f"token{n}" for n in row) for row in drawn))


def _config(sizes: dict, dtype: str) -> dict:
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": sizes["vocab"],
        "hidden_size": sizes["hidden"],
        "intermediate_size": sizes["intermediate"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        "num_key_value_heads": sizes["kv_heads"],
        "head_dim": sizes["head_dim"],
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
    }


def make_adapter(directory: str, sizes: dict, rank: int, roles: list[str], seed: int) -> None:
    """A LoRA of random factors, both non-zero, as PEFT stores it (float32, alpha = rank)."""
    folder = Path(directory)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    tensors = {}
    for layer in range(sizes["layers"]):
        for role in roles:
            rows, columns = shapes(sizes)[role]
            name = f"base_model.model.model.layers.{layer}.{PATHS[role]}"
            for half, shape in (("A", (rank, columns)), ("B", (rows, rank))):
                values = 0.1 * rng.standard_normal(shape, dtype=np.float32)
                tensors[f"{name}.lora_{half}.weight"] = values
    save_tensors(folder / "adapter_model.safetensors", tensors)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "old",
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "init_lora_weights": True,
        "target_modules": [PATHS[role].rpartition(".")[2] for role in roles],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))


def make_features(path: str, spec: str, sizes: dict, examples: int, seed: int) -> None:
    """Pooled features of `examples` texts at each layer, as rule activations writes them."""
    rng = np.random.default_rng(seed)
    with write_h5(path, "activations", identities({"spec": spec})) as file:
        for layer in range(sizes["layers"]):
            values = rng.standard_normal((examples, sizes["hidden"]), dtype=np.float32)
            file.dataset(f"layer_{layer}", values)
        file.dataset("kept", np.ones(examples, dtype=bool))
        file.attributes(pooling="mean", texts="random", count=examples)


def make_map(path: str, specs: dict[str, str], seed: int) -> None:
    """W_h of N(0, 1/d_o) numbers, as rule embedding stores it."""
    old, new = (load_spec(specs[f"{side}_spec"]).dims for side in ("old", "new"))
    rng = np.random.default_rng(seed)
    with write_h5(path, "embedding", identities(specs)) as file:
        file.dataset("W_h", rng.standard_normal((old.hidden, new.hidden)) / old.hidden**0.5)
        for side in ("old", "new"):
            file.dataset(f"token_ids_{side}", np.arange(min(old.vocabulary, new.vocabulary)))
        file.attributes(rule="embedding", condition=1.0, residual=1.0)


if __name__ == "__main__":
    {
        "model": make_model,
        "whole": make_whole_model,
        "texts": make_texts,
        "adapter": make_adapter,
        "features": make_features,
        "map": make_map,
    }[sys.argv[1]](**json.loads(sys.argv[2]))
