"""An importance matrix as llama.cpp's quantizer takes it, and the metadata about it.

`llama_model_quantize_params.imatrix` points to an array of (name, values, count), ended by an entry without a name
(llama.h, tools/quantize/quantize.cpp). All types that search for a block's scale use it; those of 8 bits and more do
not.
"""

import ctypes
from types import ModuleType
from typing import Any

import numpy as np

from edgekit.conversion.importance import Importance
from edgekit.formats.checkpoint import LlamaConfig
from edgekit.formats.gguf_tensors import gguf_name

NOT_WEIGHTED = ("f32", "f16", "bf16", "q8_0")


def uniform(config: LlamaConfig) -> Importance:
    """A matrix of ones: the types that a quantizer chooses depend on whether there is a matrix, not on its values."""
    shapes = {name: shape for name, shape in config.shapes().items() if len(shape) == 2}
    return Importance({name: np.ones(shape[1], np.float32) for name, shape in shapes.items()}, "", 0)


def array(llama: ModuleType, importance: Importance) -> Any:
    """The C array. It owns the values, so it must live as long as it is used."""
    entries = (llama.llama_model_imatrix_data * (len(importance.values) + 1))()
    arrays = [np.ascontiguousarray(values, np.float32) for values in importance.values.values()]
    for entry, name, values in zip(entries, importance.values, arrays, strict=False):
        entry.name = gguf_name(name).encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = values.size
    entries.arrays = arrays
    return entries


def keys(importance: Importance) -> dict[str, Any]:
    """llama-quantize's keys, without `quantize.imatrix.file`, which is a path."""
    return {
        "quantize.imatrix.dataset": importance.text,
        "quantize.imatrix.entries_count": np.int32(len(importance.values)),
    }
