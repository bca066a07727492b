"""int4 by measured loss: which matrices get 8 bits, and whether the others are in blocks of 128 or of 32 values.

Every matrix of every layer is rounded to 4 bits alone and measured (`edgekit/conversion/rounding.py`). Then the ones
that lose most for the bytes that 8 bits cost get them, until the loss that is left is `ENOUGH`, or until `budget`.
That is done for both lengths of blocks, shorter ones leaving less of the budget; the two results, and the rule that
came before them (the first three layers at 8 bits), are measured as a whole, and the best is taken. Blocks of 32 must
be clearly better, because they are slower (`_onnx_blocks.py`).

The choice depends on the checkpoint alone and is kept for the process: planning and converting measure once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from edgekit.conversion.rounding import Losses
from edgekit.converters._onnx_blocks import dequantize, quantize
from edgekit.converters._onnx_names import EMBEDDING, HEAD
from edgekit.converters._onnx_types import (
    BLOCKS,
    KINDS,
    SHORT,
    Matrix,
    Types,
    first_layers,
    stored,
    summary,
    tensors_of,
)
from edgekit.errors import EdgekitError
from edgekit.formats.checkpoint import Checkpoint, LlamaConfig
from edgekit.utils.progress import Progress, silent

LONG = BLOCKS["int4"]
ENOUGH = 0.005
"""Nats a token, a quarter of what counts as a loss (`verification/cost.py`): less is not worth a byte."""
SHARE = 0.25
"""Of the layers' weights that may have 8 bits, or as many as the rule has: half of six layers."""
CLEARLY = 0.8
"""Blocks of 32 are taken if their KL is below this share of the other's."""
KEPT = 8
"""Choices that are remembered."""


@dataclass(frozen=True)
class Choice:
    """The types of an int4 graph, and what was measured for them.

    Attributes:
        kl: name of each candidate -> its mean KL, nats a token; empty if nothing could be measured.
    """

    types: Types
    kl: dict[str, float]
    text: str
    positions: int

    def record(self) -> dict[str, Any]:
        """Plain values for a receipt; KLs of three digits."""
        return {
            "block": self.types.block,
            "8 bits": dict(summary(self.types.eight)),
            "kl": {name: float(f"{kl:.3g}") for name, kl in self.kl.items()},
            "text": self.text,
            "positions": self.positions,
        }

    def sentence(self, layers: int) -> str:
        """For people."""
        eight = [f"{kind} in {len(found)} of {layers} layers" for kind, found in summary(self.types.eight)]
        parts = f"int4: blocks of {self.types.block}; at 8 bits " + ", ".join(["embedding and head", *eight])
        if not self.kl:
            return f"{parts}: {self.text}"
        tried = ", ".join(f"{name} {kl:.2g}" for name, kl in self.kl.items())
        return f"{parts}; chosen by KL on {self.positions} positions of {self.text}: {tried}"


_choices: dict[str, Choice] = {}


def choose(checkpoint: Checkpoint, progress: Progress = silent) -> Choice:
    """The types of a checkpoint as int4. If nothing can be measured, those of the rule: `first_layers`."""
    key = checkpoint.sha256
    if key not in _choices:
        while len(_choices) >= KEPT:
            _choices.pop(next(iter(_choices)))
        try:
            with threadpool_limits(1, "blas"):
                _choices[key] = _measure(checkpoint, progress)
        except EdgekitError as error:
            _choices[key] = Choice(first_layers(checkpoint.config), {}, f"not measured, {error}", 0)
    return _choices[key]


def _measure(checkpoint: Checkpoint, progress: Progress) -> Choice:
    losses, config = Losses(checkpoint), checkpoint.config
    single: dict[int, dict[Matrix, float]] = {LONG: {}, SHORT: {}}
    matrices = tensors_of(config)
    for matrix, names in progress(matrices.items(), "rounding to 4 bits", len(matrices)):
        values = {name: checkpoint.float32(name) for name in names}
        rounded = {
            name: _round(values[name], 4, Types("int4", LONG).size(name, values[name].shape[1])) for name in names
        }
        half = "attention" if matrix.kind in ("qkv", "o") else "ffn"
        kl = single[LONG][matrix] = losses.of(matrix.layer, half, rounded)
        # In shorter blocks the same matrix loses less, as the square of the change of its weights.
        short = {
            name: _round(values[name], 4, Types("int4", SHORT).size(name, values[name].shape[1])) for name in names
        }
        before, after = (sum(float(np.square(r[n] - values[n]).sum()) for n in names) for r in (rounded, short))
        single[SHORT][matrix] = kl * after / before if before else 0.0
    most = budget(config)
    options = {
        f"blocks of {block}": types
        for block in (LONG, SHORT)
        if (types := _fill(config, single[block], block, most)) is not None
    }
    options["the first layers"] = first_layers(config)
    found = {name: losses.whole(dict(_artefact(checkpoint, types))) for name, types in options.items()}
    best = min((name for name in found if options[name].block == LONG), key=lambda name: found[name])
    other = f"blocks of {SHORT}"
    if other in found and found[other] < CLEARLY * found[best]:
        best = other
    return Choice(options[best], found, losses.text, losses.positions)


def budget(config: LlamaConfig) -> int:
    """The most bytes of all matrices of the layers."""
    layer = {bits: sum(stored(config, kind, bits, LONG) for kind in KINDS) for bits in (4, 8)}
    layers = config.num_hidden_layers
    most = max(min(3, layers // 2), SHARE * layers)
    return int(layers * layer[4] + most * (layer[8] - layer[4]))


def _fill(config: LlamaConfig, losses: dict[Matrix, float], block: int, most: int) -> Types | None:
    """The matrices at 8 bits that save most for their bytes; None if even 4 bits alone are more than `most` bytes."""
    small = {kind: stored(config, kind, 4, block) for kind in KINDS}
    more = {kind: stored(config, kind, 8, LONG) - small[kind] for kind in KINDS}
    left, bytes_left = sum(losses.values()), most - config.num_hidden_layers * sum(small.values())
    if bytes_left < 0:
        return None
    eight = set()
    for matrix in sorted(losses, key=lambda m: -losses[m] / more[m.kind]):
        if left > ENOUGH and more[matrix.kind] <= bytes_left:
            eight.add(matrix)
            bytes_left -= more[matrix.kind]
            left -= losses[matrix]
    return Types("int4", block, frozenset(eight))


def _artefact(checkpoint: Checkpoint, types: Types) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The tensors that a file of these types would hold, dequantized."""
    for name, tensor in checkpoint:
        if tensor.ndim > 1 and (".layers." in name or name in (EMBEDDING, HEAD)):
            yield name, _round(checkpoint.float32(name), types.bits(name), types.size(name, tensor.shape[1]))


def _round(values: NDArray[np.float32], bits: int, size: int) -> NDArray[np.float32]:
    return dequantize(*quantize(values, bits, size), bits, values.shape[1])
