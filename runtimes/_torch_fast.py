"""A Llama's forward pass by hand, for one sequence on the CPU, with nothing computed twice.

Compared with transformers' model: memory is allocated when the model is opened, the KV cache included; query, key and
value are one product, gate and up another; a norm's weight is multiplied into the next matrix; only the last position
goes through the head. One token takes about 15 small calls per layer. The arithmetic is the same, and so are the
logits, up to rounding in float32 (1e-5 and less).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekit.formats.checkpoint import Checkpoint, LlamaConfig
from edgekit.runtimes._torch_products import Arena, Blocks, Product, cut

CHUNK = 512
"""Tokens that go through the layers together; limits the memory for a long prompt."""

POSITIONS = 4096
"""Rows of the table of rotations at first, which double as the text grows."""

FEW = {"float32": 3, "bfloat16": 3, "int8": 6}
"""Up to so many tokens are faster one by one: on one thread, 12.3M parameters, a step took 5.8, 4.9 and 2.1 ms, while 4
tokens together took 13.0, 15.0 and 17.8 (and 8 int8 tokens 12.8)."""


class Layer(NamedTuple):
    """The four products of a layer. The norms before `qkv` and `gate_up` are inside their weights."""

    qkv: Product
    out: Product
    gate_up: Product
    down: Product
    biases: "Biases | None" = None


class Biases(NamedTuple):
    """The biases of a layer's products, in the shape of their outputs: (count, width). Zeros where there is none."""

    qkv: Tensor
    out: Tensor
    gate_up: Tensor
    down: Tensor


class FastLlama:
    """The model and its cache. A step works on views of fixed memory: one sequence, one caller at a time.

    Args:
        checkpoint: read, not kept.
        dtype: of the weights, see `Running.dtype`. Everything else (residual, norms, attention, cache) is float32.
        threads: how many will run it; determines how products are split, not their results.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: str, threads: int) -> None:
        config = self._config = checkpoint.config
        self._few = FEW[dtype]
        d, heads, groups, size = _sizes(config)
        self._sum = cut(d, dtype, threads)
        self._ff = cut(config.intermediate_size, dtype, threads)
        self._qkv = cut((heads + 2 * groups) * size, dtype, threads)
        head = cut(config.vocab_size, dtype, threads)
        both = Blocks(2 * self._ff.count, self._ff.width)
        each = [(self._qkv, d), (self._sum, heads * size), (both, d), (self._sum, self._ff.padded)]
        arena = Arena(Arena.size([*each * config.num_hidden_layers, (head, d)], dtype))
        take = _Weights(checkpoint)
        self._layers = []
        for i in range(config.num_hidden_layers):
            qkv, out, gate_up, down = take.layer(i, self._ff.padded)
            self._layers.append(
                Layer(
                    Product(_pad(qkv, self._qkv), self._qkv, dtype, arena),
                    Product(_pad(out, self._sum), self._sum, dtype, arena),
                    Product(gate_up, both, dtype, arena),
                    Product(_pad(down, self._sum), self._sum, dtype, arena),
                    self._biases(take.biases(i, self._ff.padded), both),
                )
            )
        self._head = Product(_pad(take.head(), head), head, dtype, arena)
        # A separate table even if tied: a column of the head's table is scattered, one number per cache line.
        self._embedding = take("model.embed_tokens.weight").to(torch.bfloat16 if dtype == "bfloat16" else torch.float32)
        self._rotation = rotation(config, min(config.max_position_embeddings, POSITIONS))
        # `empty`, so that a long context takes memory only as it fills; nothing after the cached tokens is ever read.
        self._cache = torch.empty(config.num_hidden_layers, 2, groups, config.max_position_embeddings, size)
        self._prepare()

    def _biases(self, biases: tuple[Tensor, ...] | None, both: Blocks) -> Biases | None:
        if biases is None:
            return None
        blocks = (self._qkv, self._sum, both, self._sum)
        padded = (F.pad(bias, (0, b.padded - len(bias))) for bias, b in zip(biases, blocks, strict=True))
        return Biases(*(bias.view(b.count, -1) for bias, b in zip(padded, blocks, strict=True)))

    def _prepare(self) -> None:
        """Allocate the fixed memory of one step, and the views of it that each layer uses."""
        d, heads, groups, size = _sizes(self._config)
        queries, all_heads = heads * size, (heads + 2 * groups) * size
        # The residual stream, padded to the last block of the products that are added to it.
        self._padded = torch.zeros(self._sum.count, self._sum.width)
        self._hidden = self._padded.view(-1)[:d]
        self._for_qkv = self._hidden.expand(self._qkv.count, d)
        self._for_gate_up = self._hidden.expand(2 * self._ff.count, d)
        self._for_head = self._hidden.expand(self._head.blocks.count, d)
        # Queries, keys and values after rotation; values are multiplied by 1 + 0j.
        turned = torch.zeros(self._qkv.padded)
        self._turned = turned.view(torch.complex64).view(self._qkv.count, -1)
        self._queries = turned[:queries].view(groups, -1, size)
        self._keys_values = turned[queries:all_heads].view(2, groups, size)
        turn = torch.ones(self._qkv.padded // 2, dtype=torch.complex64)
        self._turn = turn.view(self._qkv.count, -1)
        self._turn_queries = turn[: queries // 2].view(heads, -1)
        self._turn_keys = turn[queries // 2 : (queries + groups * size) // 2].view(groups, -1)
        self._attended = torch.zeros(groups, heads // groups, size)
        self._attended_flat = self._attended.view(-1)

    def append(self, tokens: Sequence[int], start: int, every: bool) -> Tensor:
        """float32 logits (vocab_size,) or (len(tokens), vocab_size), in new memory.

        The tokens take the positions from `start` in the cache and replace what was there. If it fails, everything
        before `start` remains valid.
        """
        if start + len(tokens) > len(self._rotation):
            twice = max(2 * len(self._rotation), start + len(tokens))
            self._rotation = rotation(self._config, min(twice, self._config.max_position_embeddings))
        if len(tokens) <= self._few:
            rows = []
            for i, token in enumerate(tokens, 1):
                self._step(token, start + i - 1)
                if every or i == len(tokens):
                    rows.append(self._logits())
            return torch.stack(rows) if every else rows[-1]
        logits = torch.empty(len(tokens) if every else 0, self._config.vocab_size)
        for at in range(0, len(tokens), CHUNK):
            chunk = tokens[at : at + CHUNK]
            hidden = self._block(chunk, start + at)
            if every:
                logits[at : at + len(chunk)] = self._head.many(self._norm(hidden))[:, : self._config.vocab_size]
        if every:
            return logits
        self._hidden.copy_(hidden[-1])
        return self._logits()

    def holds(self, length: int) -> int:
        """How many of `length` tokens are still cached after a failed `append`: all of them."""
        return length

    def _step(self, token: int, at: int) -> None:
        """One token through the layers, into `_hidden`."""
        end, silu = at + 1, F.silu
        hidden, padded, turned, turn = self._hidden, self._padded, self._turned, self._turn
        queries, attended, attended_flat = self._queries, self._attended, self._attended_flat
        hidden.copy_(self._embedding[token])
        row = self._rotation[at]
        self._turn_keys.copy_(row)
        self._turn_queries.copy_(row.mul(self._config.head_dim**-0.5))
        cache = self._cache
        places = cache[:, :, :, at].unbind(0)
        keys = cache[:, 0, :, :end].transpose(2, 3).unbind(0)
        values = cache[:, 1, :, :end].unbind(0)
        for layer, place, key, value in zip(self._layers, places, keys, values, strict=True):
            torch.mul(self._for_qkv, self._scale(), out=layer.qkv.input)
            biases, qkv = layer.biases, layer.qkv()
            if biases is not None:
                qkv = qkv + biases.qkv.view_as(qkv)
            torch.mul(qkv.view(torch.complex64), turn, out=turned)
            place.copy_(self._keys_values)
            # The queries of a group are rows of one small product with its keys: (groups, heads / groups, end).
            torch.bmm(torch.bmm(queries, key).softmax(-1), value, out=attended)
            layer.out.input.copy_(attended_flat)
            padded.add_(layer.out())
            if biases is not None:
                padded.add_(biases.out)
            torch.mul(self._for_gate_up, self._scale(), out=layer.gate_up.input)
            gate_up = layer.gate_up()
            if biases is not None:
                gate_up = gate_up + biases.gate_up.view_as(gate_up)
            gate, up = gate_up.view(2, -1).unbind(0)
            layer.down.input.copy_(silu(gate, inplace=True).mul_(up))
            padded.add_(layer.down())
            if biases is not None:
                padded.add_(biases.down)

    def _logits(self) -> Tensor:
        torch.mul(self._for_head, self._scale(), out=self._head.input)
        return self._head().view(-1)[: self._config.vocab_size]

    def _scale(self) -> float:
        """1 / rms of the residual stream: all that remains of a norm whose weight is in the next matrix."""
        hidden = self._hidden
        return (torch.dot(hidden, hidden).item() / len(hidden) + self._config.rms_norm_eps) ** -0.5

    def _norm(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self._config.rms_norm_eps)

    def _block(self, tokens: Sequence[int], start: int) -> Tensor:
        """Many tokens through the layers: (T, hidden_size)."""
        d, heads, groups, size = _sizes(self._config)
        count, end, ff = len(tokens), start + len(tokens), self._ff.padded
        x = self._embedding[torch.tensor(tokens)].float()
        row = self._rotation[start:end, None]
        # Token i attends to the cache and to the tokens up to itself. With an empty cache `is_causal` does that.
        mask = torch.ones(count, end, dtype=torch.bool).tril_(start) if start else None
        for layer, cache in zip(self._layers, self._cache, strict=True):
            biases, qkv = layer.biases, layer.qkv.many(self._norm(x))
            if biases is not None:
                qkv = qkv + biases.qkv.view(-1)
            qkv = qkv[:, : (heads + 2 * groups) * size].reshape(count, -1, size)
            pairs = torch.view_as_complex(qkv[:, : heads + groups].reshape(count, heads + groups, -1, 2))
            turned = torch.view_as_real(pairs * row).flatten(2)
            cache[0, :, start:end] = turned[:, heads:].transpose(0, 1)
            cache[1, :, start:end] = qkv[:, heads + groups :].transpose(0, 1)
            key, value = cache[:, :, :end].repeat_interleave(heads // groups, dim=1)
            y = F.scaled_dot_product_attention(
                turned[None, :, :heads].transpose(1, 2), key[None], value[None], mask, is_causal=mask is None
            )
            x += layer.out.many(y[0].transpose(0, 1).reshape(count, -1))[:, :d]
            if biases is not None:
                x += biases.out.view(-1)[:d]
            gate_up = layer.gate_up.many(self._norm(x))
            if biases is not None:
                gate_up = gate_up + biases.gate_up.view(-1)
            x += layer.down.many(F.silu(gate_up[:, :ff]) * gate_up[:, ff:])[:, :d]
            if biases is not None:
                x += biases.down.view(-1)[:d]
        return x


def _sizes(config: LlamaConfig) -> tuple[int, int, int, int]:
    """hidden_size, query heads, key and value heads (the groups of queries), head_dim."""
    return config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim


def rotation(config: LlamaConfig, positions: int) -> Tensor:
    """complex64 (positions, head_dim / 2): cos + i sin of each position's angles.

    In float32, step by step as transformers computes them (`LlamaRotaryEmbedding`): at position 1,000 its angles are
    off by up to 3e-5, and these must be off by the same.
    """
    places = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float()
    frequencies = 1.0 / (config.rope_theta ** (places / config.head_dim))
    if config.rope_scaling is not None:
        frequencies = torch.from_numpy(config.rope_scaling.scale(frequencies.numpy()))
    angles = torch.arange(positions).float()[:, None] * frequencies
    return torch.complex(angles.cos(), angles.sin())


class _Weights:
    """A checkpoint's tensors, arranged for the products."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def __call__(self, name: str) -> Tensor:
        """A float32 copy: the checkpoint's arrays share the memory of the whole file."""
        return torch.tensor(self._checkpoint.tensors[name], dtype=torch.float32)

    def layer(self, i: int, ff: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(qkv, out, gate_up, down) of a layer; gate and up padded to `ff` outputs each, down to as many inputs."""
        config, name = self._checkpoint.config, f"model.layers.{i}."
        attention, mlp = name + "self_attn.", name + "mlp."
        q = _pairs(self(attention + "q_proj.weight"), config.head_dim)
        k = _pairs(self(attention + "k_proj.weight"), config.head_dim)
        qkv = torch.cat([q, k, self(attention + "v_proj.weight")]) * self(name + "input_layernorm.weight")
        padding = ff - config.intermediate_size
        gate, up = (F.pad(self(mlp + part), (0, 0, 0, padding)) for part in ("gate_proj.weight", "up_proj.weight"))
        gate_up = torch.cat([gate, up]) * self(name + "post_attention_layernorm.weight")
        down = F.pad(self(mlp + "down_proj.weight"), (0, padding))
        return qkv, self(attention + "o_proj.weight"), gate_up, down

    def biases(self, i: int, ff: int) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        """As `layer`, of the biases; None if the model has none, zeros for those of the half that has none."""
        config, name = self._checkpoint.config, f"model.layers.{i}."
        if not (config.attention_bias or config.mlp_bias):
            return None

        def get(part: str) -> Tensor:
            if (full := f"{name}{part}_proj.bias") in self._checkpoint.tensors:
                return self(full)
            return torch.zeros(len(self._checkpoint.tensors[f"{name}{part}_proj.weight"]))

        q, k = (_pairs(get(f"self_attn.{part}")[:, None], config.head_dim)[:, 0] for part in "qk")
        qkv = torch.cat([q, k, get("self_attn.v")])
        gate_up = torch.cat([F.pad(get(f"mlp.{part}"), (0, ff - config.intermediate_size)) for part in ("gate", "up")])
        return qkv, get("self_attn.o"), gate_up, get("mlp.down")

    def head(self) -> Tensor:
        tied = self._checkpoint.config.tie_word_embeddings
        return self("model.embed_tokens.weight" if tied else "lm_head.weight") * self("model.norm.weight")


def _pairs(weight: Tensor, head_dim: int) -> Tensor:
    """Rows of each head from halves (0 .. n/2-1, n/2 .. n-1), as Hugging Face rotates them, to neighbours (0, n/2, 1,
    n/2 + 1, ...): complex numbers. Queries and keys alike, so their products stay the same."""
    return weight.view(-1, 2, head_dim // 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def _pad(weight: Tensor, blocks: Blocks) -> Tensor:
    return F.pad(weight, (0, 0, 0, blocks.padded - len(weight)))
