"""Random models, an adapter and features of given shapes, on disk as the workflow finds them.

Run as a child process by transfer.py: `fixtures.py KIND JSON`, where KIND is model,
adapter or features.
"""

import json
import sys
from pathlib import Path

import ml_dtypes
import numpy as np

from loraport.artifacts import identities, write_h5
from loraport.weights import save_tensors

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
    embedding = {"model.embed_tokens.weight": random((sizes["vocab"], sizes["hidden"]), 1.0)}
    for layer in range(-1, sizes["layers"]):
        tensors = embedding if layer < 0 else {
            f"model.layers.{layer}.{PATHS[role]}.weight": random(shape, shape[1] ** -0.5)
            for role, shape in shapes(sizes).items()
        }  # fmt: skip
        file = f"model-{layer + 2:05d}-of-{sizes['layers'] + 1:05d}.safetensors"
        save_tensors(folder / file, tensors)
        where |= dict.fromkeys(tensors, file)
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(_config(sizes, dtype)))
    vocabulary = {f"token{number}": number for number in range(sizes["vocab"])}
    tokenizer = {"model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "token0"}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


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


if __name__ == "__main__":
    {"model": make_model, "adapter": make_adapter, "features": make_features}[sys.argv[1]](
        **json.loads(sys.argv[2])
    )
