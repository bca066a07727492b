"""An importance matrix as llama.cpp's quantizer takes it, and the keys that say so in the file.

`llama_model_quantize_params.imatrix` points to an array of (name, values, how many), ended by an entry without a name
(llama.h, tools/quantize/quantize.cpp). Which types use it: all that search for a block's scale; those of 8 bits and
more do not.
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
    """One that says nothing: which types a quantizer chooses depends on whether there is one, not on what it says."""
    shapes = {name: shape for name, shape in config.shapes().items() if len(shape) == 2}
    return Importance({name: np.ones(shape[1], np.float32) for name, shape in shapes.items()}, "", 0)


def array(llama: ModuleType, importance: Importance) -> Any:
    """The C array; it holds the values, so it must live as long as it is used."""
    found = (llama.llama_model_imatrix_data * (len(importance.values) + 1))()
    kept = [np.ascontiguousarray(values, np.float32) for values in importance.values.values()]
    for entry, name, values in zip(found, importance.values, kept, strict=False):
        entry.name = gguf_name(name).encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = values.size
    found.kept = kept
    return found


def keys(importance: Importance) -> dict[str, Any]:
    """llama-quantize's own keys. Its `quantize.imatrix.file` is a path, and stays away."""
    return {
        "quantize.imatrix.dataset": importance.text,
        "quantize.imatrix.entries_count": np.int32(len(importance.values)),
    }
