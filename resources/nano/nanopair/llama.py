"""A compact Llama for training, with the parameter names of transformers' `LlamaForCausalLM`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHAPES = {
    "v1": {
        "vocab_size": 512, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6,
        "num_attention_heads": 6, "num_key_value_heads": 2,
    },
    "v2": {
        "vocab_size": 640, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 8,
    },
}  # fmt: skip
ROPE_THETA, NORM_EPS, INIT_STD = 10_000.0, 1e-5, 0.02


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of `x (batch, heads, tokens, h)`, halves paired as transformers does."""
    left, right = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-right, left), dim=-1) * sin).to(x.dtype)


class Attention(nn.Module):
    """Causal attention with grouped key-value heads."""

    def __init__(self, shape: dict[str, int]) -> None:
        super().__init__()
        width, self.heads = shape["hidden_size"], shape["num_attention_heads"]
        self.groups, self.size = shape["num_key_value_heads"], width // self.heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, self.groups * self.size, bias=False)
        self.v_proj = nn.Linear(width, self.groups * self.size, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q = self.q_proj(x).view(batch, tokens, self.heads, self.size).transpose(1, 2)
        k = self.k_proj(x).view(batch, tokens, self.groups, self.size).transpose(1, 2)
        v = self.v_proj(x).view(batch, tokens, self.groups, self.size).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        repeat = self.heads // self.groups
        k, v = k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(batch, tokens, width))


class Gated(nn.Module):
    """SwiGLU feed-forward block."""

    def __init__(self, shape: dict[str, int]) -> None:
        super().__init__()
        width, inner = shape["hidden_size"], shape["intermediate_size"]
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, shape: dict[str, int]) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape["hidden_size"], eps=NORM_EPS)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape["hidden_size"], eps=NORM_EPS)
        self.mlp = Gated(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """Token ids `(batch, tokens)` to logits `(batch, tokens, vocabulary)`."""

    def __init__(self, shape: dict[str, int]) -> None:
        super().__init__()
        width = shape["hidden_size"]
        self.size = width // shape["num_attention_heads"]
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(shape["vocab_size"], width)
        self.model.layers = nn.ModuleList(Layer(shape) for _ in range(shape["num_hidden_layers"]))
        self.model.norm = nn.RMSNorm(width, eps=NORM_EPS)
        self.lm_head = nn.Linear(width, shape["vocab_size"], bias=False)
        residual = INIT_STD / (2 * shape["num_hidden_layers"]) ** 0.5
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                inward = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=residual if inward else INIT_STD)

    def forward(self, ids: Tensor) -> Tensor:
        powers = torch.arange(0, self.size, 2, device=ids.device) / self.size
        places = torch.arange(ids.shape[1], device=ids.device)
        angles = torch.outer(places, ROPE_THETA**-powers).repeat(1, 2)
        cos, sin = angles.cos(), angles.sin()
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return self.lm_head(self.model.norm(x))
