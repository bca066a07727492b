"""A model folder as the bytes of a GGUF file, which is what the engine opens.

Every tensor keeps its type, so nothing is rounded. The tokenizer is not in it: edgekit reads that from the folder.
"""

import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgekit.formats.checkpoint import Checkpoint
from edgekit.formats.gguf_config import llama_keys
from edgekit.formats.gguf_tensors import ROPE, file_shapes, gguf_name, permute
from edgekit.formats.gguf_write import write_to
from edgekit.formats.rope import divisors


def image(checkpoint: Checkpoint) -> bytearray:
    """The file, in memory: vectors as F32, matrices as F32, F16 or BF16, as the checkpoint has them."""
    config = checkpoint.config
    kinds = {gguf_name(n): checkpoint.dtypes[n] if len(s) == 2 else "F32" for n, s in config.shapes().items()}
    tensors = [(name, shape, kinds.get(name, "F32")) for name, shape in file_shapes(config).items()]

    def data() -> Iterator[NDArray]:
        for name in config.shapes():
            yield _encode(permute(name, checkpoint.tensors[name], config), kinds[gguf_name(name)])
        if tensors[-1][0] == ROPE and config.rope_scaling is not None:
            yield divisors(config.head_dim, config.rope_theta, config.rope_scaling)

    out = _Bytes()
    keys = {"general.architecture": "llama", "tokenizer.ggml.model": "none"}
    write_to(out, keys | llama_keys(config), tensors, data())
    return out.value


def _encode(values: NDArray, kind: str) -> NDArray:
    if kind == "F16":
        return values.astype(np.float16, copy=False)
    values = np.ascontiguousarray(values, np.float32)
    if kind == "BF16":  # a checkpoint widens BF16, so the lower halves are zero
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values


class _Bytes(io.RawIOBase):
    """A file that is a bytearray, without the copy that `io.BytesIO.getvalue` makes."""

    def __init__(self) -> None:
        self.value = bytearray()

    def write(self, data, /) -> int:
        self.value += data
        return len(data)
