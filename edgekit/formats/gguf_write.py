"""Writes a GGUF file, tensor by tensor. `gguf.py` has the layout.

Not `gguf.GGUFWriter`: it packs a byte array item by item (a third of a second for a vocabulary of 200 KB), refuses
empty arrays, and keeps all tensors until the last.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from edgekit.formats import gguf as g
from edgekit.utils.lazy import numpy as np

# GGUF types of Python and numpy values. A plain int is a UINT32, as llama.cpp requires for its hyperparameters.
SCALARS: tuple[tuple[type, int, str], ...] = (
    (bool, g.BOOL, "<?"),
    (int, g.UINT32, "<I"),
    (float, g.FLOAT32, "<f"),
)
ARRAYS = {"uint8": g.UINT8, "int32": g.INT32, "float32": g.FLOAT32}


def write(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Sequence[tuple[str, tuple[int, ...], str]],
    data: Iterable[np.ndarray],
) -> None:
    """Write one file. Arguments as `write_to`."""
    with open(path, "wb") as file:
        write_to(file, metadata, tensors, data)


class Sink(Protocol):
    """What `write_to` needs of a binary file."""

    def write(self, data: bytes | memoryview, /) -> Any: ...


def write_to(
    file: Sink,
    metadata: Mapping[str, Any],
    tensors: Sequence[tuple[str, tuple[int, ...], str]],
    data: Iterable[np.ndarray],
) -> None:
    """Write to an open file.

    Args:
        metadata: bool, int (UINT32), numpy.int32, float (FLOAT32), str, bytes (an array of UINT8), a list of str or
            bytes, or a one-dimensional array of int32 or float32; in this order.
        tensors: name, shape in numpy's order, type by ggml's name.
        data: each tensor's bytes, C order, in the order of `tensors`.
    """
    file.write(head(metadata, tensors))
    for (name, shape, kind), values in zip(tensors, data, strict=True):
        raw = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
        if raw.size != tensor_bytes(shape, kind):
            raise ValueError(f"{name}: {raw.size} bytes for {kind} {shape}")
        file.write(raw.data)
        file.write(bytes(padded(raw.size) - raw.size))


def head(metadata: Mapping[str, Any], tensors: Sequence[tuple[str, tuple[int, ...], str]]) -> bytes:
    """All of a file before its tensors' data."""
    parts = [g.MAGIC + struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    parts += [_string(key) + _value(value) for key, value in metadata.items()]
    offset = 0
    for name, shape, kind in tensors:
        parts.append(_string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1]))
        parts.append(struct.pack("<IQ", g.NUMBER[kind], offset))
        offset += padded(tensor_bytes(shape, kind))
    data = b"".join(parts)
    return data + bytes(padded(len(data)) - len(data))


def data_bytes(tensors: Iterable[tuple[tuple[int, ...], str]]) -> int:
    """Size of the data of some tensors, given by shape and type."""
    return sum(padded(tensor_bytes(shape, kind)) for shape, kind in tensors)


def tensor_bytes(shape: tuple[int, ...], kind: str) -> int:
    """Size of a tensor whose rows divide into the type's blocks."""
    elements, size = g.BLOCKS[kind]
    return math.prod(shape) // elements * size


def padded(size: int) -> int:
    """`size` and the padding after it."""
    return -(-size // g.ALIGNMENT) * g.ALIGNMENT


def _string(text: str | bytes) -> bytes:
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", g.STRING) + _string(value)
    if isinstance(value, bytes):
        return _array(g.UINT8, len(value)) + value
    if isinstance(value, list):
        return _array(g.STRING, len(value)) + b"".join(map(_string, value))
    for kind, number, layout in SCALARS:
        if isinstance(value, kind):
            return struct.pack("<I", number) + struct.pack(layout, value)
    if isinstance(value, np.int32):
        return struct.pack("<Ii", g.INT32, value)
    if isinstance(value, np.ndarray):
        return _array(ARRAYS[value.dtype.name], len(value)) + value.astype(value.dtype.newbyteorder("<")).tobytes()
    raise TypeError(f"no GGUF value for {type(value).__name__}")


def _array(kind: int, count: int) -> bytes:
    return struct.pack("<IIQ", g.ARRAY, kind, count)
