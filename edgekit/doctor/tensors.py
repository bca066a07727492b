"""Tensors as the doctor sees them: mapped, not loaded, and measured a few megabytes at a time."""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekit.formats.checkpoint import widen_bfloat16
from edgekit.formats.gguf import BLOCKS

CHUNK = 1 << 20
"""Values that are processed at once."""

# Bytes of a value, by safetensors' names of types.
WIDTH = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
         "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}  # fmt: skip
NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I8": "i1"}

# Offsets of the float16 scales and minima in a block of ggml's types, which llama.cpp's --check-tensors checks, too
# (ggml-quants.c, ggml_validate_row_data).
SCALES = {"Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,),
          "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,)}  # fmt: skip

LFS = b"version https://git-lfs"
HEADER = 100 << 20
"""The longest header that the package safetensors reads."""


class Numbers(NamedTuple):
    """The result of one pass over a tensor. For block types it is about their scales, and `largest` means nothing."""

    nonfinite: int
    largest: float
    """The largest absolute value that is finite."""
    rows: int
    zeros: NDArray[np.intp]
    """Indices of the rows whose values are all 0."""


@dataclass(eq=False)
class Tensor:
    """One tensor of a file; `shape` in numpy's order. `raw` is None if its bytes are missing."""

    name: str
    shape: tuple[int, ...]
    type: str
    """As the format calls it: F32, BF16, Q4_0, I8."""
    raw: NDArray[np.uint8] | None
    file: str = ""
    stored: str = ""
    """The name in the file, which a training wrapper may have prefixed."""

    @cached_property
    def numbers(self) -> Numbers | None:
        """None for types that are not measured, and if the bytes are missing."""
        return None if self.raw is None else measure(self.type, self.shape, self.raw)

    def same(self, other: "Tensor") -> bool:
        """Whether both have the same values; False if bytes are missing."""
        if self.shape != other.shape or self.raw is None or other.raw is None:
            return False
        if self.type == other.type:
            one, two, step = self.raw, other.raw, 4 * CHUNK
            return all(np.array_equal(one[i : i + step], two[i : i + step]) for i in range(0, one.size, step))
        if not {self.type, other.type} <= {*NUMPY, "BF16"}:
            return False
        one, two = _rows(self.type, self.shape, self.raw), _rows(other.type, other.shape, other.raw)
        step = max(1, CHUNK // max(1, one.shape[-1]))
        return all(
            np.array_equal(_values(self.type, one[i : i + step]), _values(other.type, two[i : i + step]))
            for i in range(0, len(one), step)
        )


def measure(kind: str, shape: tuple[int, ...], raw: NDArray[np.uint8]) -> Numbers | None:
    """One pass over a tensor's bytes, `CHUNK` values at a time."""
    if kind not in SCALES and kind not in NUMPY and kind != "BF16":
        return None
    if raw.size == 0:
        return Numbers(0, 0.0, 0, np.empty(0, np.intp))
    table = _rows(kind, shape, raw)
    nonfinite, largest, zeros = 0, 0.0, []
    step = max(1, CHUNK // table.shape[-1])
    for start in range(0, len(table), step):
        values = _values(kind, table[start : start + step])
        fine = np.isfinite(values)
        whole = bool(fine.all())
        nonfinite += 0 if whole else int(values.size - fine.sum())
        sizes = np.abs(values if whole else np.where(fine, values, 0))
        largest = max(largest, float(sizes.max(initial=0)))
        zeros.append(np.flatnonzero(~values.any(axis=1)) + start)
    return Numbers(nonfinite, largest, len(table), np.concatenate(zeros))


def _rows(kind: str, shape: tuple[int, ...], raw: NDArray[np.uint8]) -> NDArray[Any]:
    """A view of the bytes, one row of the tensor in each row: (rows, values), or (rows, bytes) for block types."""
    count = int(np.prod(shape[:-1])) if len(shape) > 1 else 1
    if kind in SCALES:
        return raw.reshape(count, -1)
    return raw.view("<u2" if kind == "BF16" else NUMPY[kind]).reshape(count, -1)


def _values(kind: str, rows: NDArray[Any]) -> NDArray[Any]:
    """Numbers in some rows: the values, or the scales of block types."""
    if kind == "BF16":
        return widen_bfloat16(rows)
    if kind in SCALES:
        blocks = rows.reshape(len(rows), -1, BLOCKS[kind][1])
        scales = [np.ascontiguousarray(blocks[:, :, at : at + 2]).view("<f2")[:, :, 0] for at in SCALES[kind]]
        return np.concatenate(scales, axis=1).astype(np.float32)
    return rows.astype(np.int16) if kind == "I8" else rows


class Safetensors(NamedTuple):
    """A file's header. `fault`: what is wrong with the file as a whole, or ""."""

    tensors: list[Tensor]
    metadata: dict[str, Any] | None
    cut: list[str]
    """Tensors whose bytes are missing from the file."""
    fault: str


def safetensors(path: Path) -> Safetensors:
    """Read a header, however damaged the rest: u64 length, JSON of that length, the data. Raises `OSError`.

    Not `safetensors.safe_open`, which refuses a file that is cut off; here its tensors are listed all the same.
    """
    size = path.stat().st_size
    data: NDArray[np.uint8] = np.memmap(path, np.uint8, "r") if size else np.empty(0, np.uint8)
    if bytes(data[: len(LFS)]) == LFS:
        return Safetensors([], None, [], "it is a Git LFS pointer, not the weights")
    length = int.from_bytes(bytes(data[:8]), "little")
    if size < 8 or not 0 < length <= min(HEADER, size - 8):
        return Safetensors([], None, [], "it has no complete header: cut off, or not a safetensors file")
    try:
        header = json.loads(bytes(data[8 : 8 + length]))
        metadata = header.pop("__metadata__", None)
        entries: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
        for name, entry in header.items():
            begin, stop = map(int, entry["data_offsets"])
            entries[name] = str(entry["dtype"]), tuple(map(int, entry["shape"])), begin, stop
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return Safetensors([], None, [], "its header is damaged")
    tensors, cut, fault, end = [], [], "", 0
    for name, (kind, shape, begin, stop) in entries.items():
        end, raw = max(end, stop), None
        claimed = math.prod(shape) * WIDTH.get(kind, 0)
        if not 0 <= begin <= stop or min(shape, default=1) < 0 or (kind in WIDTH and claimed != stop - begin):
            fault = fault or f"tensor {name} has {stop - begin} bytes, its shape and type say {claimed}"
        elif 8 + length + stop > size:
            cut.append(name)
        else:
            raw = data[8 + length + begin : 8 + length + stop]
        tensors.append(Tensor(name, shape, kind, raw, path.name))
    if not cut and not fault and 8 + length + end != size:
        fault = f"it has {size} bytes, its header says {8 + length + end}"
    return Safetensors(tensors, metadata if isinstance(metadata, dict) else None, cut, fault)
