"""An older, smaller sibling of a Llama-like model: fewer layers, heads, dimensions and tokens.

    python benchmarks/smollm2/sibling.py MODEL OUT --texts FILE [--layers 24 --groups 2 ...]

What goes is what matters least on the texts: layers that turn the residual stream least (ShortGPT,
arXiv 2403.03853), in each layer the groups of heads and the neurons whose output has the least
energy, of the residual stream the directions of least variance (SliceGPT, arXiv 2401.15024: the
stream is rotated onto its principal axes, which RMSNorm does not notice once its gains stand in
the next weights), and of the vocabulary the last tokens, with the merges that make them. Nothing
removed, the sibling computes the same function. `pretrain.py` heals what the cut has hurt.
"""

import argparse
import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from loraport.artifacts import atomic
from loraport.calibration.activations import read_texts

GATES = ("gate_proj", "up_proj")


@dataclass(frozen=True)
class Sizes:
    """What is left: layers, groups of heads that share keys, widths, tokens."""

    layers: int
    groups: int
    hidden: int
    intermediate: int
    vocabulary: int


@dataclass
class Seen:
    """What passes through a model on some texts, the first token of each left out.

    stream (d, d) : mean of x xᵀ over layers and tokens, each layer's scaled to trace d
    turn : per layer, 1 − mean cosine of a block's input and output
    heads : per layer, energy of what each head adds to the stream (H,)
    neurons : per layer, the same of each neuron (f,)
    """

    stream: torch.Tensor
    turn: list[float] = field(default_factory=list)
    heads: list[torch.Tensor] = field(default_factory=list)
    neurons: list[torch.Tensor] = field(default_factory=list)


def watch(model: Any, tokenizer: Any, texts: list[str], max_tokens: int = 256) -> Seen:
    """Run a model over texts, one by one; O(d²) memory beside it."""
    config, blocks = model.config, model.model.layers
    width, count = config.hidden_size, len(blocks)
    head = config.head_dim
    where: dict[str, Any] = {"dtype": torch.float64, "device": model.device}
    grams = torch.zeros(count, width, width, **where)
    inner = torch.zeros(count, config.num_attention_heads, head, head, **where)
    squares = torch.zeros(count, config.intermediate_size, **where)
    cosines, tokens = torch.zeros(count, **where), 0

    def catch(layer: int, kind: str) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            x = inputs[0][0, 1:].double()
            if kind == "block":
                y = (output[0] if isinstance(output, tuple) else output)[0, 1:].double()
                cosines[layer] += torch.cosine_similarity(x, y, dim=-1).sum()
                grams[layer] += y.T @ y
            elif kind == "heads":
                each = x.view(len(x), -1, head)
                inner[layer] += torch.einsum("thi,thj->hij", each, each)
            else:
                squares[layer] += x.square().sum(dim=0)

        return hook

    handles = []
    for layer, block in enumerate(blocks):
        handles.append(block.register_forward_hook(catch(layer, "block")))
        handles.append(block.self_attn.o_proj.register_forward_hook(catch(layer, "heads")))
        handles.append(block.mlp.down_proj.register_forward_hook(catch(layer, "neurons")))
    with torch.no_grad():
        for text in texts:
            ids = tokenizer(text, truncation=True, max_length=max_tokens, return_tensors="pt")
            if ids.input_ids.shape[1] > 1:
                model(input_ids=ids.input_ids.to(model.device), use_cache=False)
                tokens += ids.input_ids.shape[1] - 1
    for handle in handles:
        handle.remove()
    grams, inner, squares = grams.cpu(), inner.cpu(), squares.cpu()
    scaled = grams * width / grams.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]
    seen = Seen(scaled.mean(dim=0), turn=(1 - cosines / tokens).tolist())
    for layer, block in enumerate(blocks):
        out = block.self_attn.o_proj.weight.double().cpu().view(width, -1, head)
        seen.heads.append(torch.einsum("dhi,hij,dhj->h", out, inner[layer], out))
        down = block.mlp.down_proj.weight.double().cpu()
        seen.neurons.append(squares[layer] * down.square().sum(dim=0))
    return seen


def best(values: Any, count: int) -> torch.Tensor:
    """Places of the `count` largest values, in order."""
    return torch.as_tensor(values).topk(count).indices.sort().values


def cut(model: Any, seen: Seen, sizes: Sizes) -> Any:
    """The smaller model, float32; its head is not tied to its embedding."""
    old = model.config
    kept = _kept_layers(seen.turn, sizes.layers)
    axes = torch.linalg.eigh(seen.stream).eigenvectors.flip(1)[:, : sizes.hidden]
    per_group = old.num_attention_heads // old.num_key_value_heads
    config = copy.deepcopy(old)
    config.update({
        "num_hidden_layers": sizes.layers, "hidden_size": sizes.hidden, "head_dim": old.head_dim,
        "intermediate_size": sizes.intermediate, "vocab_size": sizes.vocabulary,
        "num_key_value_heads": sizes.groups, "num_attention_heads": sizes.groups * per_group,
        "tie_word_embeddings": False,
    })  # fmt: skip
    small = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    # RMSNorm divides by the root of a mean over fewer dimensions
    gain = torch.full((sizes.hidden,), (old.hidden_size / sizes.hidden) ** 0.5)
    weights = {
        "model.embed_tokens.weight": _of(model.model.embed_tokens)[: sizes.vocabulary] @ axes,
        "lm_head.weight": (_of(model.lm_head) * _of(model.model.norm))[: sizes.vocabulary] @ axes,
        "model.norm.weight": gain,
    }
    for place, layer in enumerate(kept):
        groups = best(seen.heads[layer].view(-1, per_group).sum(dim=1), sizes.groups)
        neurons = best(seen.neurons[layer], sizes.intermediate)
        block = _block(model.model.layers[layer], axes, groups, per_group, neurons, old.head_dim)
        block |= {"input_layernorm": gain, "post_attention_layernorm": gain}
        weights |= {f"model.layers.{place}.{name}.weight": each for name, each in block.items()}
    small.load_state_dict({name: each.float() for name, each in weights.items()}, strict=True)
    return small


def _kept_layers(turn: list[float], count: int) -> list[int]:
    """The first and the last layer, and those between that turn the stream most."""
    between = best(turn[1:-1], count - 2) + 1
    return [0, *between.tolist(), len(turn) - 1]


def _block(
    block: Any, axes: torch.Tensor, groups: torch.Tensor, per_group: int, neurons: torch.Tensor,
    head: int,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """Weights of one block between the new axes, by module."""
    attention, mlp = block.self_attn, block.mlp
    heads = (groups[:, None] * per_group + torch.arange(per_group)).flatten()
    queries, keys = (
        (each[:, None] * head + torch.arange(head)).flatten() for each in (heads, groups)
    )
    into, gained = _of(block.input_layernorm), _of(block.post_attention_layernorm)
    found = {
        "self_attn.q_proj": (_of(attention.q_proj) * into)[queries] @ axes,
        "self_attn.k_proj": (_of(attention.k_proj) * into)[keys] @ axes,
        "self_attn.v_proj": (_of(attention.v_proj) * into)[keys] @ axes,
        "self_attn.o_proj": axes.T @ _of(attention.o_proj)[:, queries],
        "mlp.down_proj": axes.T @ _of(mlp.down_proj)[:, neurons],
    }
    return found | {
        f"mlp.{name}": (_of(getattr(mlp, name)) * gained)[neurons] @ axes for name in GATES
    }


def _of(module: Any) -> torch.Tensor:
    return module.weight.detach().double().cpu()


def cut_tokenizer(tokenizer: Any, vocabulary: int) -> Any:
    """The tokenizer with its first `vocabulary` tokens; byte-level BPE keeps every text sayable."""
    tokenizer = copy.deepcopy(tokenizer)
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = {t: i for t, i in content["model"]["vocab"].items() if i < vocabulary}
    pairs = [m.split(" ") if isinstance(m, str) else m for m in content["model"]["merges"]]
    content["model"] |= {
        "vocab": kept,
        "merges": [m for m in pairs if {*m, "".join(m)} <= kept.keys()],
    }
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--texts", required=True, help="text file, one text a line")
    parser.add_argument("--examples", type=int, default=128, help="texts that are read")
    for name, value in asdict_default().items():
        parser.add_argument(f"--{name}", type=int, default=value)
    asked = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32).eval()
    if torch.cuda.is_available():
        model.to("cuda")
    seen = watch(model, tokenizer, read_texts(asked.texts, asked.examples))
    sizes = Sizes(*(getattr(asked, name) for name in asdict_default()))
    small, fewer = cut(model, seen, sizes), cut_tokenizer(tokenizer, sizes.vocabulary)
    with atomic(Path(asked.out)) as temporary:
        small.to(torch.bfloat16).save_pretrained(temporary)
        fewer.save_pretrained(temporary)


def asdict_default() -> dict[str, int]:
    """Sizes of the sibling of SmolLM2-135M (30 layers, 3 groups, 576, 1536, 49152)."""
    return {"layers": 24, "groups": 2, "hidden": 480, "intermediate": 1280, "vocabulary": 40960}


if __name__ == "__main__":
    main()
