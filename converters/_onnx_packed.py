"""A checkpoint's tensors as the fused graph needs them: Q, K and V in one matrix, gate and up in another, heads padded.

GroupQueryAttention needs a head_dim that is a multiple of 16. Others are padded with zeros, each half of a head
separately, because rotation pairs the halves; that does not change the logits, but the cache is larger.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgekit.converters._onnx_types import padded
from edgekit.formats.checkpoint import Checkpoint

Make = Callable[[], NDArray[np.float32]]
"""Computes a tensor when it is written, so that only one is in memory."""


class Packed:
    """The tensors of a checkpoint, each computed when it is called for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint, self._config = checkpoint, checkpoint.config

    def get(self, name: str) -> Make:
        """A tensor as it is."""
        return lambda: self._checkpoint.float32(name)

    def qkv(self, i: int, kind: str = "weight") -> Make:
        """Q, K and V of a layer, weights or biases, concatenated."""
        config, name = self._config, f"model.layers.{i}.self_attn."
        counts = {"q": config.num_attention_heads, "k": config.num_key_value_heads, "v": config.num_key_value_heads}

        def make() -> NDArray[np.float32]:
            # A head's rows are paired by rotation, first half with second, but not those of the values.
            rows = (
                self.pad(self._checkpoint.float32(f"{name}{part}_proj.{kind}"), count, 1 if part == "v" else 2)
                for part, count in counts.items()
            )
            return np.concatenate(list(rows))

        return make

    def output(self, i: int) -> Make:
        """The matrix after a layer's attention, whose columns belong to the heads."""
        name, heads = f"model.layers.{i}.self_attn.o_proj.weight", self._config.num_attention_heads
        return lambda: np.ascontiguousarray(self.pad(self._checkpoint.float32(name).T, heads, 1).T)

    def gate_up(self, i: int, kind: str = "weight") -> Make:
        """Gate and up of a layer, weights or biases, concatenated."""
        name = f"model.layers.{i}.mlp."
        return lambda: np.concatenate(
            [self._checkpoint.float32(f"{name}{part}_proj.{kind}") for part in ("gate", "up")]
        )

    def pad(self, rows: NDArray[np.float32], heads: int, pieces: int) -> NDArray[np.float32]:
        """Rows (heads * head_dim, width) with zeros after each of a head's `pieces`: (heads * padded, width)."""
        dim, wide = self._config.head_dim, padded(self._config.head_dim)
        if dim == wide:
            return rows.reshape(heads * dim, -1)
        more = ((0, 0), (0, 0), (0, (wide - dim) // pieces), (0, 0))
        return np.pad(rows.reshape(heads, pieces, dim // pieces, -1), more).reshape(heads * wide, -1)
