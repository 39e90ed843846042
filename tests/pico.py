"""Pico models, adapters and texts, made in code: a pair takes well under a second."""

import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import literal
import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

SPECIALS = ["<pad>", "<s>", "</s>"]
PATHS = {
    **{role: f"self_attn.{role}_proj" for role in ("q", "k", "v", "o")},
    **{role: f"mlp.{role}_proj" for role in ("gate", "up", "down")},
}
CONSONANTS, VOWELS = "bcdfghklmnprstvwz", "aeiou"
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL_LINEAR = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]


def _shape(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, **more) -> dict:
    sizes = {"hidden": hidden, "intermediate": intermediate, "layers": layers}
    return {**sizes, "heads": heads, "kv_heads": kv_heads, **more}


SHAPES = {  # name -> sizes of the old and of the new model, as arguments of make_model
    "gqa_to_mha": (_shape(32, 56, 3, 4, 2), _shape(32, 64, 3, 4, 4)),
    "mha_to_gqa": (_shape(32, 56, 3, 4, 4), _shape(40, 72, 3, 4, 2)),
    "deeper": (_shape(32, 56, 3, 4, 2), _shape(40, 56, 5, 4, 2)),
    "shallower": (_shape(32, 56, 5, 4, 2), _shape(40, 56, 3, 4, 2)),
    "wider": (_shape(24, 40, 3, 4, 2), _shape(48, 88, 3, 6, 3)),
    "narrower": (_shape(48, 88, 3, 6, 3), _shape(24, 40, 3, 6, 3)),
    "head_dim": (_shape(32, 56, 3, 4, 2), _shape(32, 48, 3, 4, 2, head_dim=12)),
    "fewer_heads": (_shape(48, 64, 3, 6, 6), _shape(40, 64, 3, 4, 2)),
}


def _words(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    syllables = [rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(16)]
    return ["".join(rng.choices(syllables, k=rng.randint(1, 3))) for _ in range(count)]


def texts(n: int, seed: int = 0, own: int = 12) -> list[str]:
    """`n` one-line texts of words and sums; `own` words are this seed's alone."""
    rng = random.Random(seed)
    words = _words(-1, 40) + _words(seed, own)
    lines = []
    for _ in range(n):
        line = " ".join(rng.choices(words, k=rng.randint(4, 14))).capitalize()
        a, b = rng.randint(0, 40), rng.randint(0, 40)
        lines.append(f"{line}. {a} + {b} = {a + b}.")
    return lines


def make_texts(path: str | Path, n: int, seed: int = 0) -> Path:
    """A file of `n` calibration texts, one a line."""
    path = Path(path)
    path.write_text("\n".join(texts(n, seed)) + "\n")
    return path


def make_tokenizer(seed: int, size: int, bos: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `size` tokens over printable ASCII, digits one by one.

    Two seeds share most tokens but not all; `bos` puts `<s>` before each text.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ", "ĉ"]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIALS,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(200, seed), trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def _config(config_class: type[PretrainedConfig], **sizes) -> PretrainedConfig:
    """A config; `head_dim` is written where the class has one or the caller gives it."""
    if sizes["head_dim"] is None:
        sizes["head_dim"] = sizes["hidden_size"] // sizes["num_attention_heads"]
        if not hasattr(config_class(), "head_dim"):
            del sizes["head_dim"]
    return config_class(**sizes)


def _randomise(model: PreTrainedModel, seed: int) -> None:
    """Weights that make every layer matter: `N(0, 1/d_in)`, and vectors off their start values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for values in model.parameters():
            noise = torch.randn(values.shape, generator=generator)
            if values.ndim == 1:
                values.add_(0.2 * noise)
            else:
                values.copy_(noise / values.shape[-1] ** 0.5)
        for name, values in model.named_buffers():
            if name.endswith("layer_scalar"):  # by which a block multiplies the stream
                values.fill_(0.7 + 0.6 * float(torch.rand(1, generator=generator)))


def _shard(directory: Path, shards: int) -> None:
    """Split model.safetensors into exactly `shards` files with an index."""
    whole = directory / "model.safetensors"
    tensors = load_file(whole)
    names = sorted(tensors)
    where = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        mine = names[number::shards]
        save_file({name: tensors[name] for name in mine}, directory / file, {"format": "pt"})
        where |= dict.fromkeys(mine, file)
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(where.items()))}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    whole.unlink()


def auto_class(config: PretrainedConfig) -> type:
    """The class that builds a model: the whole of one that sees, and not its language model."""
    seeing = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return AutoModelForImageTextToText if seeing else AutoModelForCausalLM


def load(directory: str | Path) -> PreTrainedModel:
    """A model of any family."""
    return auto_class(AutoConfig.from_pretrained(directory)).from_pretrained(directory)


def make_model(
    directory: str | Path,
    *,
    seed: int,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int | None = None,
    vocab_words: int = 240,
    config_class: type[PretrainedConfig] = LlamaConfig,
    dtype: torch.dtype = torch.float32,
    shards: int = 1,
    bos: bool = True,
    **config_kwargs,
) -> Path:
    """A random model with its own tokenizer, in Hugging Face's layout (safetensors).

    `vocab_words` is the most tokens that the tokenizer may have; the embedding is padded to a
    multiple of 16 rows. `config_kwargs` go to the config (`tie_word_embeddings=True`, …).
    """
    directory = Path(directory)
    tokenizer = make_tokenizer(seed, vocab_words, bos)
    config = _config(
        config_class,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=-(-len(tokenizer) // 16) * 16,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **config_kwargs,
    )
    model = auto_class(config).from_config(config)
    _randomise(model, seed)
    model.to(dtype).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    if shards > 1:
        _shard(directory, shards)
    return directory


def make_pair(directory: str | Path, shape: str, **kwargs) -> tuple[Path, Path]:
    """The old and the new model of a named shape, as `directory/old` and `directory/new`."""
    old, new = SHAPES[shape]
    directory = Path(directory)
    return (
        make_model(directory / "old", seed=1, **{"vocab_words": 220, **old, **kwargs}),
        make_model(directory / "new", seed=2, **{"vocab_words": 240, **new, **kwargs}),
    )


def edit_model(
    directory: str | Path,
    source: str | Path,
    edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    **config_changes,
) -> Path:
    """A copy of a one-file model whose tensors went through `edit` in float64, saved as float32."""
    directory = Path(directory)
    shutil.copytree(source, directory)
    file = directory / "model.safetensors"
    tensors = edit({name: values.double() for name, values in load_file(file).items()})
    save_file({n: v.float().contiguous() for n, v in tensors.items()}, file, {"format": "pt"})
    config = json.loads((directory / "config.json").read_text()) | config_changes
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    return directory


def silence(directory: str | Path) -> Path:
    """Set every B of an adapter to zero, as a gain of 0 does."""
    path = Path(directory) / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({n: t * 0 if "lora_B" in n else t for n, t in tensors.items()}, path)
    return Path(directory)


def make_adapter(
    directory: str | Path,
    model_dir: str | Path,
    *,
    seed: int,
    r: int = 4,
    alpha: float = 6,
    targets: Sequence[str] | str = tuple(ALL_LINEAR),
    use_rslora: bool = False,
    **lora_kwargs,
) -> Path:
    """A LoRA of random factors, both nonzero, saved by peft; more arguments go to LoraConfig."""
    model = load(model_dir)
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        target_modules=targets if isinstance(targets, str) else list(targets),
        use_rslora=use_rslora,
        task_type="CAUSAL_LM",
        **lora_kwargs,
    )
    adapted = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, values in adapted.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                values.copy_(0.1 * torch.randn(values.shape, generator=generator))
    adapted.save_pretrained(directory)
    return Path(directory)


def read_tensors(directory: str | Path) -> dict[str, np.ndarray]:
    """All tensors of a model directory, float64."""
    tensors = {}
    for file in sorted(Path(directory).glob("*.safetensors")):
        tensors |= {name: value.double().numpy() for name, value in load_file(file).items()}
    return tensors


def load_layers(model_dir: str | Path) -> list[literal.Layer]:
    """The decoder blocks of a Llama-like model as the oracle's containers."""
    config = AutoConfig.from_pretrained(model_dir)
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    tensors = read_tensors(model_dir)
    layers = []
    for i in range(config.num_hidden_layers):
        weights = {role: tensors[f"model.layers.{i}.{path}.weight"] for role, path in PATHS.items()}
        layers.append(literal.Layer(**weights, heads=heads, kv_heads=kv_heads))
    return layers


def load_shared_embeddings(
    old_dir: str | Path, new_dir: str | Path
) -> tuple[np.ndarray, np.ndarray]:
    """Embedding rows `(t, d_o)`, `(t, d_n)` of the tokens whose strings both vocabularies hold."""
    vocabularies = [
        json.loads((Path(directory) / "tokenizer.json").read_text())["model"]["vocab"]
        for directory in (old_dir, new_dir)
    ]
    shared = sorted(set(vocabularies[0]) & set(vocabularies[1]))
    old, new = (
        read_tensors(directory)["model.embed_tokens.weight"][[vocabulary[t] for t in shared]]
        for directory, vocabulary in zip((old_dir, new_dir), vocabularies, strict=True)
    )
    return old, new


def load_adapter(
    model_dir: str | Path, adapter_dir: str | Path
) -> dict[tuple[int, str], literal.Update]:
    """(layer, role) -> (B, A, s) of a LoRA, as peft itself applies it to the model."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(model, adapter_dir)
    roles = {path: role for role, path in PATHS.items()}
    updates = {}
    for name, module in adapted.named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            layer, path = name.split(".layers.")[1].split(".", 1)
            A, B = module.lora_A["default"].weight, module.lora_B["default"].weight
            factors = (B.detach().double().numpy(), A.detach().double().numpy())
            updates[int(layer), roles[path]] = (*factors, module.scaling["default"])
    return updates
