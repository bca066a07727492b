"""The Llama that is trained: Hugging Face's parameters, names and arithmetic, without what training does not need.

`state_dict()` has the names of transformers' `LlamaForCausalLM`, and the logits are the same; a test compares them. It
is faster because no attention mask is built and because query, key and value are one product; see also attention.py,
kernels.py and loss.py.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.formats.checkpoint import LlamaConfig
from edgekit.training.attention import causal_attention
from edgekit.training.kernels import rms_norm, rotate
from edgekit.training.loss import linear_cross_entropy


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis, in the dtype of x. `precision.apply` makes it compute in float32."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, config: LlamaConfig):
        super().__init__()
        hidden, self.head_dim = config.hidden_size, config.head_dim
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.q_proj = nn.Linear(hidden, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(hidden, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(hidden, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x (B, T, hidden) -> (B, T, hidden); cos and sin (T, head_dim)."""
        B, T, _ = x.shape
        packed = torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])
        qkv = F.linear(x, packed).view(B, T, -1, self.head_dim)
        rotated, v = qkv.split([self.heads + self.kv_heads, self.kv_heads], dim=2)
        rotated = rotate(rotated, cos, sin)
        q, k = rotated.split([self.heads, self.kv_heads], dim=2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        y = causal_attention(q, k, v)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    def __init__(self, config: LlamaConfig, dropout: float = 0.0):
        super().__init__()
        self.dropout = dropout
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.drop(self.self_attn(self.input_layernorm(x), cos, sin))
        return x + self.drop(self.mlp(self.post_attention_layernorm(x)))

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.dropout and self.training else x


class Decoder(nn.Module):
    """transformers' `LlamaModel`: it gives the parameters the same names."""

    def __init__(self, config: LlamaConfig, dropout: float = 0.0):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, dropout) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Llama(nn.Module):
    """See the module. Parameters are float32; autocast decides the dtype of the products.

    Args:
        config: the shape; `max_position_embeddings` is the longest input.
        dropout: of the embedding and of each layer's two additions to the residual stream, in training.
    """

    def __init__(self, config: LlamaConfig, dropout: float = 0.0):
        super().__init__()
        self.config, self.dropout = config, dropout
        self.model = Decoder(config, dropout)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        cos, sin = rope(config)
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def hidden(self, ids: Tensor) -> Tensor:
        """ids (B, T) of int64 -> the last norm's output (B, T, hidden)."""
        device = ids.device.type
        x = self.model.embed_tokens(ids)
        if torch.is_autocast_enabled(device):
            # The residual stream is in half precision too: every norm reads and returns it.
            x = x.to(torch.get_autocast_dtype(device))
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return self.model.norm(x)

    def logits(self, ids: Tensor) -> Tensor:
        """ids (B, T) -> (B, T, vocab_size), in the dtype that autocast gives to linear layers."""
        return self.lm_head(self.hidden(ids))

    def forward(self, ids: Tensor) -> Tensor:
        """Mean cross entropy in nats of each token of a block given those before it; float32 scalar.

        ids (B, T) of int64. The labels are the ids themselves, as in transformers: T - 1 predictions per block.
        """
        x = self.hidden(ids)[:, :-1]
        return linear_cross_entropy(x.reshape(-1, x.shape[-1]), self.lm_head.weight, ids[:, 1:].reshape(-1))


def rope(config: LlamaConfig) -> tuple[Tensor, Tensor]:
    """Cosines, and sines with the first half negated, for `rotate`; float32 (positions, head_dim)."""
    even = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float()
    inverse = 1.0 / (config.rope_theta ** (even / config.head_dim))
    angles = torch.outer(torch.arange(config.max_position_embeddings).float(), inverse)
    angles = torch.cat([angles, angles], dim=-1)
    sines = angles.sin()
    sines[:, : config.head_dim // 2].neg_()
    return angles.cos(), sines


def initialize(model: nn.Module, std: float, seed: int) -> None:
    """Linear and embedding weights normal(0, std), norms 1, biases 0, as in Stentor2's model card.

    Drawn on the CPU in the order of the modules, so that a seed gives the same model on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    done: set[int] = set()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                if id(module.weight) not in done:  # a tied head is the embedding
                    module.weight.copy_(torch.empty(module.weight.shape).normal_(0.0, std, generator=generator))
                done.add(id(module.weight))
            elif "rmsnorm" in type(module).__name__.lower():
                torch.nn.init.ones_(module.weight)  # type: ignore[arg-type]
            if isinstance(bias := getattr(module, "bias", None), Tensor):
                bias.zero_()


def parameters(config: LlamaConfig) -> int:
    """The number of parameters of a model of this shape; a tied output matrix counts once."""
    return sum(math.prod(shape) for shape in config.shapes().values())


def flops_per_token(config: LlamaConfig, length: int) -> float:
    """Floating point operations of training on one token, forward and backward: 6 for each weight of a product and
    12 * layers * width * length for attention, as in the PaLM paper's appendix B (halved here: it is causal)."""
    embedding = config.vocab_size * config.hidden_size
    products = parameters(config) - (0 if config.tie_word_embeddings else embedding)
    width = config.num_attention_heads * config.head_dim
    return 6.0 * products + 6.0 * config.num_hidden_layers * width * length
