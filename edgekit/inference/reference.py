"""A plain Llama in float32 numpy: the reference with which every conversion is compared.

It computes the logits straight from a checkpoint's tensors: no exported graph, no block types, no order of rows but
Hugging Face's, no package but numpy. A mistake that a converter and its runtime share therefore shows in the
comparison, and a machine that only converts can verify its artefacts. The formulas, and the steps in float32, are those
of transformers' `modeling_llama.py`; tests compare the logits with its own to within 1e-4.

It opens quickly and prefills at the speed of a matrix product, so it also runs model folders where PyTorch is not
installed. For generating text it is the slowest runtime; it is not a choice of `--runtime`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekit.formats import rope
from edgekit.formats.checkpoint import Checkpoint, LlamaConfig
from edgekit.inference.runtime import Logits, check_forward, check_rewind

Array = NDArray[np.float32]

CHUNK = 256
"""Tokens that pass the layers together: the attention scores of one layer are heads x CHUNK x context floats."""


class Part(NamedTuple):
    """The update of one half of a layer to the hidden state."""

    layer: int
    name: str
    """"attention" or "ffn"."""
    update: Array
    """(tokens, hidden_size)."""


class Reference:
    """A checkpoint with a cache for one sequence. It satisfies `edgekit.inference.runtime.Runtime`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.config: LlamaConfig = checkpoint.config
        self.vocab_size = checkpoint.config.vocab_size
        self.context_length = checkpoint.config.max_position_embeddings
        self.files = checkpoint.files
        self.length = 0
        self._tensors = checkpoint.tensors
        self._frequencies = frequencies(checkpoint.config)
        self._cache = [_empty(checkpoint.config) for _ in range(checkpoint.config.num_hidden_layers)]

    def forward(self, tokens: Sequence[int], *, every: bool = False) -> Logits:
        """Append tokens; float32 logits, (vocab_size,) or (len(tokens), vocab_size). See `Runtime.forward`."""
        check_forward(self, tokens)
        logits = []
        for start in range(0, len(tokens), CHUNK):
            hidden = self.embed(tokens[start : start + CHUNK])
            for part in self._layers(hidden):
                hidden += part.update
            self.length += len(hidden)
            if every:
                logits.append(self.head(hidden))
        return np.concatenate(logits) if every else self.head(hidden[-1:])[0]

    def rewind(self, length: int) -> None:
        """Keep the first `length` tokens. See `Runtime.rewind`."""
        check_rewind(self, length)
        self._cache = [(keys[:, :length], values[:, :length]) for keys, values in self._cache]
        self.length = length

    def close(self) -> None:
        """Nothing to do: the memory is freed with the last reference to this object."""

    @property
    def cache(self) -> list[tuple[Array, Array]]:
        """Keys, rotated by their positions, and values of each layer: (kv_heads, length, head_dim) each. Not a copy."""
        return self._cache

    def embed(self, tokens: Sequence[int]) -> Array:
        """The hidden state before the first layer, (tokens, hidden_size)."""
        return self._tensors["model.embed_tokens.weight"][np.asarray(tokens)].astype(np.float32)

    def head(self, hidden: Array) -> Logits:
        """Logits (tokens, vocab_size) of the hidden state after the last layer."""
        table = "model.embed_tokens.weight" if self.config.tie_word_embeddings else "lm_head.weight"
        return norm(hidden, self._weight("model.norm.weight"), self.config.rms_norm_eps) @ self._weight(table).T

    def part(self, layer: int, name: str, hidden: Array) -> Array:
        """The update of one half of a layer to a hidden state (tokens, hidden_size) at the beginning of a text."""
        weights, eps = self._layer(layer), self.config.rms_norm_eps
        if name == "ffn":
            return _ffn(weights, norm(hidden, weights["post_attention_layernorm"], eps))
        attended, _ = self._attention(weights, norm(hidden, weights["input_layernorm"], eps), _empty(self.config))
        return attended

    def parts(self, tokens: Sequence[int]) -> Iterator[tuple[Array, Part]]:
        """Each half of each layer in turn: its input, the hidden state, and its update.

        The cache is neither read nor changed. `hidden` is one array that is updated in place: copy it to keep it.
        """
        hidden = self.embed(tokens)
        for layer in range(self.config.num_hidden_layers):
            for name in ("attention", "ffn"):
                update = self.part(layer, name, hidden)
                yield hidden, Part(layer, name, update)
                hidden += update

    def _layers(self, hidden: Array) -> Iterator[Part]:
        """The halves of the layers, appending to the cache; the caller adds each update to `hidden`."""
        eps = self.config.rms_norm_eps
        for layer, cache in enumerate(self._cache):
            weights = self._layer(layer)
            update, self._cache[layer] = self._attention(weights, norm(hidden, weights["input_layernorm"], eps), cache)
            yield Part(layer, "attention", update)
            yield Part(layer, "ffn", _ffn(weights, norm(hidden, weights["post_attention_layernorm"], eps)))

    def _layer(self, layer: int) -> dict[str, Array]:
        prefix = f"model.layers.{layer}."
        names = [f"self_attn.{kind}_proj" for kind in "qkvo"] + [f"mlp.{kind}_proj" for kind in ("gate", "up", "down")]
        names += ["input_layernorm", "post_attention_layernorm"]
        weights = {name: self._weight(f"{prefix}{name}.weight") for name in names}
        biases = [name + ".bias" for name in names if f"{prefix}{name}.bias" in self._tensors]
        return weights | {name: self._weight(prefix + name) for name in biases}

    def _weight(self, name: str) -> Array:
        """Float16 is widened each time it is used, so that a checkpoint is in memory once."""
        return np.asarray(self._tensors[name], np.float32)

    def _attention(
        self, weights: dict[str, Array], x: Array, cache: tuple[Array, Array]
    ) -> tuple[Array, tuple[Array, Array]]:
        """Grouped-query attention over the cache and x (tokens, hidden_size); the result, and the longer cache."""
        config, count = self.config, len(x)
        heads, groups, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        past = cache[0].shape[1]
        angles = np.arange(past, past + count, dtype=np.float32)[:, None] * self._frequencies

        def split(name: str, n: int) -> Array:
            return _linear(weights, f"self_attn.{name}_proj", x).reshape(count, n, width).swapaxes(0, 1)

        query, key = rotate(split("q", heads), angles), rotate(split("k", groups), angles)
        keys = np.concatenate([cache[0], key], axis=1)
        values = np.concatenate([cache[1], split("v", groups)], axis=1)
        # The query heads of one group share its keys: (groups, heads / groups, tokens, width) against (groups, 1, ...).
        scores = query.reshape(groups, -1, count, width) @ keys[:, None].swapaxes(2, 3)
        scores *= np.float32(width**-0.5)
        scores[:, :, np.arange(past + count)[None] > np.arange(past, past + count)[:, None]] = -np.inf
        np.exp(scores - scores.max(axis=-1, keepdims=True), out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        mixed = (scores @ values[:, None]).reshape(heads, count, width).swapaxes(0, 1).reshape(count, -1)
        return _linear(weights, "self_attn.o_proj", mixed), (keys, values)


def frequencies(config: LlamaConfig) -> Array:
    """Radians per position by which each pair of a head is rotated, (head_dim / 2,): see `rope.frequencies`."""
    return rope.frequencies(config.head_dim, config.rope_theta, config.rope_scaling)


def rotate(heads: Array, angles: Array) -> Array:
    """Rotary embedding, Hugging Face's pairs (row i with row i + head_dim / 2): (n, tokens, head_dim)."""
    cos, sin = np.cos(angles), np.sin(angles)
    first, second = np.split(heads, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def norm(x: Array, weight: Array, eps: float) -> Array:
    """RMSNorm over the last axis."""
    return x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + np.float32(eps)) * weight


def _linear(weights: dict[str, Array], name: str, x: Array) -> Array:
    """x times a matrix, plus its bias if it has one."""
    product = x @ weights[name].T
    return product + weights[name + ".bias"] if name + ".bias" in weights else product


def _ffn(weights: dict[str, Array], x: Array) -> Array:
    gate, up = _linear(weights, "mlp.gate_proj", x), _linear(weights, "mlp.up_proj", x)
    with np.errstate(over="ignore"):  # exp of a large number is infinite, and its inverse 0, as it should be
        return _linear(weights, "mlp.down_proj", gate / (1 + np.exp(-gate)) * up)


def _empty(config: LlamaConfig) -> tuple[Array, Array]:
    shape = (config.num_key_value_heads, 0, config.head_dim)
    return np.zeros(shape, np.float32), np.zeros(shape, np.float32)
