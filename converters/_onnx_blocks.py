"""Matrices in blocks of 4 or 8 bits with a float32 scale each, the format of ONNX Runtime's MatMulNBits. In numpy.

A row is split into blocks of `size` values, the last one padded with zeros. A value is stored as a number q from 0 to
2^bits - 1 and means (q - 2^(bits-1)) * scale: symmetric, the operator's reading without zero points. With 4 bits two
share a byte, the first in the lower half. GatherBlockQuantized reads the same bytes, so a tied embedding is stored
once.

The extreme value of a block becomes -2^(bits-1) exactly (so a scale may be negative), which has one step more than a
symmetric range would give: ggml's rule for Q4_0. At 4 bits that is only the start of a search: see `fitted`.
"""

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]

# Steps by which the extreme value of a block is beyond the last level (or below it, if negative). The error with these
# four is within half a percent of the error with 61 from -3 to 3.
CANDIDATES = (0.0, -0.9, -0.45, 0.45)

# Values processed at once, 256 KB: with intermediate results they fit into a core's cache.
CHUNK = 1 << 16

TINY = np.finfo(np.float32).tiny


def block_size(width: int, largest: int) -> int:
    """How many values of a row of `width` share a scale.

    The largest size that divides the row, at most `largest`; or 32, with zeros at the end of the row. Larger is faster:
    at the end of each block a kernel multiplies with a float32 scale. A row times (1536, 256) on a core
    with AVX-512: 4 bits in blocks of 32, 64 and 128 take 13.1, 12.4 and 9.4 us, 8 bits in blocks of 64 and 128 12.4 and
    10.5. With 128, kernels for one, two and an odd number of rows add in different orders (see converters/onnx.py).
    """
    return next((size for size in (128, 64, 32, 16) if size <= largest and width % size == 0), 32)


def quantize(weights: Float, bits: int, size: int) -> tuple[NDArray[np.uint8], Float]:
    """(rows, width) as bytes (rows, blocks, size * bits / 8) and scales (rows, blocks).

    At 4 bits the scales are searched for the least squared error; at 8 bits that has no measurable gain.
    """
    rows, width = weights.shape
    blocks = -(-width // size)
    packed = np.empty((rows, blocks, size * bits // 8), np.uint8)
    scales = np.empty((rows, blocks), np.float32)
    step = max(1, CHUNK // (blocks * size))
    for first in range(0, rows, step):
        _rows(weights, bits, size, packed, scales, step, first)
    return packed, scales


def dequantize(packed: NDArray[np.uint8], scales: Float, bits: int, width: int) -> Float:
    """The inverse of `quantize`: float32 (rows, width)."""
    values = packed if bits == 8 else np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:2], -1)
    levels = values.astype(np.float32) - 2 ** (bits - 1)
    return (levels * scales[..., None]).reshape(len(packed), -1)[:, :width]


def _rows(
    weights: Float, bits: int, size: int, packed: NDArray[np.uint8], scales: Float, step: int, first: int
) -> None:
    """Rows `first` to `first + step`, into their place in the result."""
    part = weights[first : first + step]
    if part.shape[1] % size:
        part = np.pad(part, ((0, 0), (0, -part.shape[1] % size)))
    # Transposed, so that numpy's inner loop is over the blocks, which are many, and not within one, which is short:
    # three times as fast.
    values = np.ascontiguousarray(part.reshape(-1, size).T, np.float32)
    half = 2 ** (bits - 1)
    scale = extreme(values) / np.float32(-half)
    if bits == 4:
        scale = fitted(values, scale)
    zeros = np.abs(scale) < TINY  # blocks of zeros
    scale[zeros] = 1
    levels = (rounded(values, scale, half) + half).astype(np.uint8)
    scale[zeros] = 0  # with another, kernels subtract the offset of the levels as a rounded sum, which is not 0
    if bits == 4:
        levels = levels[0::2] | levels[1::2] << 4
    packed[first : first + step] = levels.T.reshape(len(part), -1, size * bits // 8)
    scales[first : first + step] = scale.reshape(len(part), -1)


def extreme(values: Float) -> Float:
    """The value of each block that is farthest from zero: (size, n) -> (n,)."""
    high, low = values.max(axis=0), values.min(axis=0)
    return np.where(high > -low, high, low)


def rounded(values: Float, scales: Float | np.float32, half: int) -> Float:
    """The nearest level of each value of blocks (size, n), from -half to half - 1."""
    levels: Float = values * (np.float32(1) / scales)
    np.rint(levels, out=levels)
    return np.clip(levels, -half, half - 1, out=levels)


def fitted(values: Float, start: Float) -> Float:
    """4-bit scales with less squared error than `start`, for blocks (size, n): (n,).

    Each candidate changes the scale, rounds, and computes the best scale for those levels q. By least squares that is
    <x, q> / <q, q>, and it takes <x, q>^2 / <q, q> off the block's sum of squares: the largest wins. (ggml's search for
    its own types is similar; it can weigh the values by activations, which a converter does not know.)
    """
    base = np.where(np.abs(start) < TINY, np.float32(1), start).astype(np.float32, copy=False)
    steps = values * (np.float32(1) / base)  # of the plain scale: so no sum grows beyond 64 * size
    best: Float = np.ones_like(start)
    most: Float = np.zeros_like(start)
    for more in CANDIDATES:
        levels = rounded(steps, np.float32(8 / (8 + more)), 8)
        along = np.einsum("ij,ij->j", steps, levels)
        scale = along / np.maximum(np.einsum("ij,ij->j", levels, levels), np.float32(1))
        gain = along * scale
        best, most = np.where(gain > most, scale, best), np.maximum(gain, most)
    return base * best
