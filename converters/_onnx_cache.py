"""The scales of an int8 KV cache: what keys and values of a model reach, found by running a text through it.

A float32 cache is read whole at every token, and at 12 M parameters it soon weighs as much as the weights. ONNX Runtime
(from 1.27 on) also attends over int8, with a fixed scale for each channel of each head. Fixed scales need to know how
large keys and values grow, so the source itself (edgekit/reference.py) reads the text that receipts are measured on,
and each channel gets room for 1.25 times what was seen; beyond that a value is clipped. A key is turned by its
position, so its channel and the one that it turns with share what their pair reached, which no position exceeds.

For the whole head one scale would do on story-7m, but not on stories260K, where some channels are a hundred times as
large as others: mean KL 0.62 instead of 0.005.
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from edgekit.conversion.calibration import CALIBRATION
from edgekit.errors import CheckpointError
from edgekit.formats.checkpoint import Checkpoint
from edgekit.formats.embedded import FILES
from edgekit.inference.reference import Reference
from edgekit.tokenizers.load import from_files

Scales = NDArray[np.float32]

ROOM = 1.25
LEVELS = 127
FLOOR = 1e-2
"""Of a head's largest scale, the least that a channel gets: one that the text never used may be used by another."""


class Cache:
    """The scales of a checkpoint's layers, found when the first is asked for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    @cached_property
    def _all(self) -> list[tuple[Scales, Scales]]:
        return _scales(self._checkpoint)

    def scales(self, layer: int) -> tuple[Scales, Scales]:
        """Of keys and of values, float32 (kv_heads, head_dim) each.

        Raises:
            CheckpointError: the model has no tokenizer to read the text with, or its activations are not finite.
            VocabularyError: its tokenizer cannot be read.
        """
        return self._all[layer]


def _scales(checkpoint: Checkpoint) -> list[tuple[Scales, Scales]]:
    if not any(file in checkpoint.files for file in FILES):
        raise CheckpointError(f"{checkpoint.name} has no tokenizer: --kv-cache int8 needs one to read a text with")
    own = from_files(checkpoint.files, checkpoint.config.vocab_size)
    prefix = [] if own.bos is None else [own.bos]
    ids = own.encode(CALIBRATION)
    model = Reference(checkpoint)
    window = max(1, model.context_length - len(prefix))
    reached: list[tuple[Scales, Scales]] = []
    with threadpool_limits(1, "blas"):
        for start in range(0, len(ids), window):
            model.rewind(0)
            model.forward([*prefix, *ids[start : start + window]])
            now = [(_pairs(keys), np.abs(values).max(axis=1)) for keys, values in model.cache]
            reached = now if not reached else [
                (np.maximum(a, c), np.maximum(b, d)) for (a, b), (c, d) in zip(reached, now, strict=True)
            ]  # fmt: skip
    return [(_scale(checkpoint, keys), _scale(checkpoint, values)) for keys, values in reached]


def _pairs(keys: NDArray[np.float32]) -> NDArray[np.float32]:
    """How long each channel's pair gets, (heads, tokens, head_dim) -> (heads, head_dim)."""
    first, second = np.split(keys, 2, axis=-1)
    lengths = np.hypot(first, second).max(axis=1)
    return np.concatenate([lengths, lengths], axis=-1)


def _scale(checkpoint: Checkpoint, reached: NDArray[np.float32]) -> Scales:
    if not np.isfinite(reached).all():
        raise CheckpointError(f"{checkpoint.name}: keys or values are not finite: the model is damaged")
    least = FLOOR * reached.max(axis=1, keepdims=True)
    return np.maximum(np.maximum(reached, least) * np.float32(ROOM / LEVELS), np.float32(1e-12))
