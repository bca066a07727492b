"""The name of `edgekit.formats.gguf` in version 0.1. Removed in version 0.3."""

import warnings

from edgekit.formats.gguf import BLOCKS, NUMBER, TYPES, GGUFFile, TensorInfo
from edgekit.formats.gguf_config import llama_config

__all__ = ["BLOCKS", "NUMBER", "TYPES", "GGUFFile", "TensorInfo", "llama_config"]

warnings.warn(
    "edgekit.gguf_file is now edgekit.formats.gguf, and the old name will be removed in version 0.3",
    DeprecationWarning,
    stacklevel=2,
)
