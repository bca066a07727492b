"""A weight matrix times one vector, at the speed of memory: an embedding bag instead of BLAS.

`weight @ x` is the sum of the columns of the weight, each times one number of x. PyTorch has a kernel for exactly this
sum: `embedding_bag` with `per_sample_weights`, from FBGEMM on x86, compiled at run time and with prefetching. For the
matrices of a 12.3M Llama on two cores (AMD, AVX-512), all products of one token, in milliseconds:

    weights                            1 thread    2 threads
    float32, torch.mm (MKL)                 4.4          4.3
    float32, embedding_bag                  2.9          2.3
    bfloat16, F.linear (oneDNN)             4.7          4.2
    bfloat16, oneDNN's packed layout        3.9          2.8
    bfloat16, embedding_bag                 1.3          0.9
    int8, quantized::linear_dynamic         1.7          1.9
    int8, torch._int_mm alone               1.5          0.4
    int8, aten::_weight_int8pack_mm         1.1          0.9
    int8, embedding_bag (bytes)             0.9          0.6

`torch.embedding_bag` is what `torch.nn.functional.embedding_bag` calls, so it is stable. Its counterpart for bytes is a
private op of recommendation models (`torch.ops.quantized`), whose format is public: FBGEMM's fused 8-bit rows. Without
that op, the same rounded numbers are stored as float32: as exact, and no faster than float32.

The columns are split into blocks, so that threads share them and a row of the table is not wider than the kernel reads
at once; every sum keeps the order of the columns, whatever the blocks and threads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LANES = 16
"""Widths are multiples of this: the float32 numbers of an AVX-512 register."""

WIDEST = 384
"""Float columns of a block: at 12.3M parameters, 384 took 2.9 ms on one thread, 256 3.3, 128 3.6 and all in one 4.8."""

GROUP = 128
"""int8: at most so many outputs of one input share a scale, whatever the number of threads."""

PER_ROW = 8
"""Bytes after each row of int8: scale and bias, float32. weight = byte * scale + bias."""


@dataclass(frozen=True)
class Blocks:
    """How outputs are split: `count` blocks of `width` columns, the last padded."""

    count: int
    width: int

    @property
    def padded(self) -> int:
        """All columns, padding included."""
        return self.count * self.width


def cut(outputs: int, dtype: str, threads: int) -> Blocks:
    """The blocks for this many outputs. `dtype` is one of `Running.dtype`."""
    count = -(-outputs // (GROUP if dtype == "int8" else WIDEST))
    if dtype != "int8":
        count = max(count, min(threads, outputs // 64))
    width = -(-outputs // count)
    width += -width % LANES
    return Blocks(-(-outputs // width), width)


class Arena:
    """One block of memory for all tables.

    numpy asks Linux for huge pages for large arrays (PyTorch's allocator does not); with them the float32 matrices
    above took 3.2 ms instead of 3.9 on one thread, in one run: a page of 4 KB ends after a few rows.
    """

    def __init__(self, size: int) -> None:
        self._memory = torch.from_numpy(np.empty(size, np.uint8))
        self._taken = -self._memory.data_ptr() % 64

    @staticmethod
    def size(tables: Sequence[tuple[Blocks, int]], dtype: str) -> int:
        """Bytes needed for products of these (blocks, inputs)."""
        return 64 + sum(64 + b.count * inputs * _row(b.width, dtype) for b, inputs in tables)

    def take(self, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """An uninitialized table."""
        size = shape[0] * shape[1] * dtype.itemsize
        table = self._memory[self._taken : self._taken + size].view(dtype).view(shape)
        self._taken += size + -size % 64
        return table


def _row(width: int, dtype: str) -> int:
    return {"float32": 4 * width, "bfloat16": 2 * width, "int8": width + PER_ROW}[dtype]


class Product:
    """`weight @ x` for one weight.

    A call multiplies with `input`, (count, inputs): the vector, repeated for each block. It returns float32 (count,
    width) in new memory: the outputs in order, if the two axes are read as one.

    Args:
        weight: float32 (blocks.padded, inputs), padded by the caller.
        dtype: "float32", "bfloat16" (weights and `input`, and each sum is rounded to it in the end) or "int8".
    """

    def __init__(self, weight: Tensor, blocks: Blocks, dtype: str, arena: Arena) -> None:
        self.blocks, self.inputs = blocks, weight.shape[1]
        rows = weight.view(blocks.count, blocks.width, -1).transpose(1, 2)
        shape = (blocks.count * self.inputs, blocks.width)
        if dtype == "int8":
            self._table = pack_bytes(rows.reshape(shape), arena.take((shape[0], shape[1] + PER_ROW), torch.uint8))
        else:
            self._table = arena.take(shape, torch.float32 if dtype == "float32" else torch.bfloat16)
            self._table.view(rows.shape).copy_(rows)
        self.input = torch.zeros(blocks.count, self.inputs, dtype=torch.bfloat16 if dtype == "bfloat16" else None)
        self._x = self.input.view(-1)
        self._rows = torch.arange(shape[0], dtype=torch.int32)
        self._starts = torch.arange(0, shape[0], self.inputs, dtype=torch.int32)
        self._bags: Callable[..., Tensor] | None = None
        if dtype == "int8":
            self._bags = byte_bags()
            if self._bags is None:
                self._table = unpack_bytes(self._table)

    def __call__(self) -> Tensor:
        if self._bags is not None:
            return self._bags(self._table, self._rows, self._starts, False, 0, False, self._x)
        # (table, rows, where each bag begins, scale_grad_by_freq, mode: sum, sparse, per_sample_weights)
        sums = torch.embedding_bag(self._table, self._rows, self._starts, False, 0, False, self._x)[0]
        return sums if sums.dtype == torch.float32 else sums.float()

    def many(self, x: Tensor) -> Tensor:
        """float32 (T, inputs) -> (T, blocks.padded): the same for many vectors, which BLAS is best at.

        bfloat16 rounds where a call does, int8 only in the weights.
        """
        table = unpack_bytes(self._table) if self._table.dtype == torch.uint8 else self._table
        table = table.view(self.blocks.count, self.inputs, self.blocks.width)
        products = torch.matmul(x.to(table.dtype), table)  # (count, T, width)
        return products.transpose(0, 1).reshape(len(x), -1).float()


def pack_bytes(rows: Tensor, out: Tensor) -> Tensor:
    """float32 (n, width) -> uint8 (n, width + 8) in `out`, FBGEMM's fused 8-bit rows: each from its smallest to its
    largest number in 255 equal steps, then scale and bias."""
    low, high = torch.aminmax(rows, dim=1, keepdim=True)
    scale = (high - low) / 255
    steps = (rows - low) / scale.where(scale > 0, torch.ones(()))
    out[:, :-PER_ROW] = steps.round_().clamp_(0, 255)
    out[:, -PER_ROW:] = torch.cat([scale, low], dim=1).view(torch.uint8)
    return out


def unpack_bytes(packed: Tensor) -> Tensor:
    """The float32 (n, width) that the bytes represent."""
    facts = packed[:, -PER_ROW:].contiguous().view(torch.float32)
    return packed[:, :-PER_ROW].float().mul_(facts[:, :1]).add_(facts[:, 1:])


def byte_bags() -> Callable[..., Tensor] | None:
    """The embedding bag over bytes, or None if this PyTorch has none."""
    try:
        return torch.ops.quantized.embedding_bag_byte_rowwise_offsets.default
    except (AttributeError, RuntimeError):
        return None
