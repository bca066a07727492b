"""A model folder as the bytes of a GGUF file, which is what the engine opens.

No weight is rounded. The tokenizer is not in it: edgekit reads that from the folder.
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


def image(checkpoint: Checkpoint, *, float32: bool = False) -> bytearray:
    """The file, in memory.

    Args:
        float32: widen every matrix. Otherwise one of F16 stays so: half the memory and twice the speed, and the
            engine rounds the activations that it is multiplied with to 13 bits (a KL of 1e-8).
    """
    config = checkpoint.config
    kinds = {
        gguf_name(name): checkpoint.dtypes[name] if len(shape) == 2 and not float32 else "F32"
        for name, shape in config.shapes().items()
    }
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
