"""The name of `edgekit.formats.checkpoint` in version 0.1. Removed in version 0.3."""

import warnings

from edgekit.formats.checkpoint import (
    INDEX,
    WEIGHTS,
    Checkpoint,
    LlamaConfig,
    open_folder,
    read_safetensors,
    side_files,
)

__all__ = ["INDEX", "WEIGHTS", "Checkpoint", "LlamaConfig", "open_folder", "read_safetensors", "side_files"]

warnings.warn(
    "edgekit.checkpoint is now edgekit.formats.checkpoint, and the old name will be removed in version 0.3",
    DeprecationWarning,
    stacklevel=2,
)
