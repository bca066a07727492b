"""A model folder as the bytes of a GGUF file, which is what the engine opens.

No weight is rounded. The tokenizer is not in it: edgekit reads that from the folder. Each tensor is read into its
place, and numpy is only needed for what is widened or computed.
"""

import struct
from collections.abc import Callable
from mmap import mmap

from edgekit.formats.folder import Folder
from edgekit.formats.gguf_config import llama_keys
from edgekit.formats.gguf_tensors import ROPE, file_shapes, gguf_name, is_rotated
from edgekit.formats.gguf_write import data_bytes, head, padded, tensor_bytes
from edgekit.formats.rope import divisors
from edgekit.formats.safetensors import WIDTH, Entry
from edgekit.utils.engine import block
from edgekit.utils.lazy import numpy as np


def image(folder: Folder, finite: Callable[[Entry, memoryview], None], *, float32: bool = False) -> mmap:
    """The file, in memory.

    Args:
        finite: called with each tensor and its bytes, to check them.
        float32: widen every matrix. Otherwise one of F16 stays so: half the memory and twice the speed, and the
            engine rounds the activations that it is multiplied with to 13 bits (a KL of 1e-8).
    """
    config = folder.config
    kinds = {
        gguf_name(name): folder.entries[name].dtype if len(shape) == 2 and not float32 else "F32"
        for name, shape in config.shapes().items()
    }
    tensors = [(name, shape, kinds.get(name, "F32")) for name, shape in file_shapes(config).items()]
    keys = {"general.architecture": "llama", "tokenizer.ggml.model": "none"}
    begin = head(keys | llama_keys(config), tensors)
    out = block(len(begin) + data_bytes((shape, kind) for _, shape, kind in tensors))
    out[: len(begin)] = begin
    view, at = memoryview(out), len(begin)
    for name in config.shapes():
        entry, kind = folder.entries[name], kinds[gguf_name(name)]
        size = tensor_bytes(entry.shape, kind)
        to = view[at : at + size]
        if kind == entry.dtype and not is_rotated(name):
            entry.read_into(to)
            finite(entry, to)
        else:
            data = entry.read()
            finite(entry, memoryview(data))
            wide = _widened(data, entry.dtype) if kind != entry.dtype else data
            if is_rotated(name):
                _interleave(wide, to, size // entry.shape[0], config.head_dim)
            else:
                to[:] = wide
        at += padded(size)
    if tensors[-1][0] == ROPE and config.rope_scaling is not None:
        numbers = divisors(config.head_dim, config.rope_theta, config.rope_scaling)
        view[at : at + numbers.nbytes] = numbers.astype("<f4").tobytes()
    return out


def _interleave(data: bytes | bytearray, to: memoryview, row: int, head_dim: int) -> None:
    """`gguf_tensors.interleave`, of rows of `row` bytes."""
    half = head_dim // 2
    for at in range(0, len(data), row):
        i = at // row
        head, place = divmod(i, head_dim)
        goes = (head * head_dim + place % half * 2 + place // half) * row
        to[goes : goes + row] = data[at : at + row]


def _widened(data: bytearray, kind: str) -> bytes | bytearray:
    """F16 or BF16 as F32, without rounding."""
    if kind == "BF16":  # the upper half of F32
        wide = bytearray(2 * len(data))
        wide[2::4], wide[3::4] = data[0::2], data[1::2]
        return wide
    count = len(data) // WIDTH[kind]
    if count > 1 << 14:
        return np.frombuffer(data, "<f2").astype("<f4").tobytes()
    return struct.pack(f"<{count}f", *struct.unpack(f"<{count}e", data))
