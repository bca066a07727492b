"""How each matrix of the fused graph is stored: blocks of 4 or 8 bits and their length, float16 or float32."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from edgekit.converters._onnx_blocks import block_size
from edgekit.converters._onnx_names import EMBEDDING, HEAD
from edgekit.formats.checkpoint import LlamaConfig

BLOCKS = {"int8": 128, "int4": 128, "int4_pure": 32}
"""Values that share a scale, at most. `int4` may choose `SHORT`; `converters/onnx.py` has the measurements."""
SHORT = 32

KINDS = ("qkv", "o", "gate_up", "down")
"""The matrices of a layer in the graph."""


class Matrix(NamedTuple):
    """One matrix of one layer."""

    layer: int
    kind: str
    """One of `KINDS`."""


@dataclass(frozen=True)
class Types:
    """The types of one graph.

    Attributes:
        quant: as `--quant` names it.
        block: the longest block at 4 bits.
        eight: `int4` only: what is stored at 8 bits besides embedding and head.
    """

    quant: str
    block: int
    eight: frozenset[Matrix] = frozenset()

    def bits(self, name: str) -> int:
        """4 or 8 for blocks, 16 for float16, 32 for float32, by the name of a checkpoint's or of the graph's tensor."""
        if self.quant == "int4":
            return 8 if name in (EMBEDDING, HEAD) or matrix_of(name) in self.eight else 4
        return {"fp32": 32, "fp16": 16, "int8": 8, "int4_pure": 4}[self.quant]

    def size(self, name: str, width: int) -> int:
        """How many values of a row share a scale."""
        return block_size(width, self.block if self.bits(name) == 4 else BLOCKS[self.quant])


def fixed(quant: str) -> Types:
    """The types of a quantization that chooses nothing; of `int4` without a matrix at 8 bits."""
    return Types(quant, BLOCKS.get(quant, 0))


def first_layers(config: LlamaConfig) -> Types:
    """int4 with the first three layers, but at most half of all, at 8 bits: their error passes through all others.

    A rule from one model of six layers. It is one of the candidates, and what is left if nothing can be measured.
    """
    layers = range(min(3, config.num_hidden_layers // 2))
    return Types("int4", BLOCKS["int4"], frozenset(Matrix(i, kind) for i in layers for kind in KINDS))


def matrix_of(name: str) -> Matrix | None:
    """The matrix of the graph that a tensor is in; None if it is not in a layer."""
    found = re.match(r"model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)_proj\.", name)
    if found is None:
        return None
    kind = {"q": "qkv", "k": "qkv", "v": "qkv", "gate": "gate_up", "up": "gate_up"}.get(found[2], found[2])
    return Matrix(int(found[1]), kind)


def tensors_of(config: LlamaConfig) -> dict[Matrix, list[str]]:
    """The checkpoint's tensors in each matrix, layer by layer."""
    found: dict[Matrix, list[str]] = {Matrix(i, kind): [] for i in range(config.num_hidden_layers) for kind in KINDS}
    for name in config.shapes():
        if name.endswith(".weight") and (matrix := matrix_of(name)) is not None:
            found[matrix].append(name)
    return found


def padded(head_dim: int) -> int:
    """The head_dim of the graph: the next multiple of 16."""
    return -(-head_dim // 16) * 16


def shape_of(config: LlamaConfig, kind: str) -> tuple[int, int]:
    """(out, in) of a matrix in the graph, heads padded."""
    wide, heads = padded(config.head_dim), config.num_attention_heads
    return {
        "qkv": ((heads + 2 * config.num_key_value_heads) * wide, config.hidden_size),
        "o": (config.hidden_size, heads * wide),
        "gate_up": (2 * config.intermediate_size, config.hidden_size),
        "down": (config.hidden_size, config.intermediate_size),
    }[kind]


def stored(config: LlamaConfig, kind: str, bits: int, block: int) -> int:
    """Bytes of a matrix in blocks of at most `block`, with their float32 scales."""
    rows, width = shape_of(config, kind)
    size = block_size(width, block)
    return rows * -(-width // size) * (size * bits // 8 + 4)


def summary(matrices: Collection[Matrix]) -> Iterator[tuple[str, list[int]]]:
    """The layers of each kind, in order; kinds without any are left out."""
    for kind in KINDS:
        if layers := sorted(matrix.layer for matrix in matrices if matrix.kind == kind):
            yield kind, layers
