"""The name of `edgekit.tokenizers.load` and `.base` in version 0.1. Removed in version 0.3."""

import warnings

from edgekit.formats.embedded import FILES
from edgekit.tokenizers.base import Decoder, Tokenizer, configured_ids, read_json, spelling
from edgekit.tokenizers.load import from_files

__all__ = ["FILES", "Decoder", "Tokenizer", "configured_ids", "from_files", "read_json", "spelling"]

warnings.warn(
    "edgekit.tokenizer is now edgekit.tokenizers.load and edgekit.tokenizers.base, and the old name will be removed in "
    "version 0.3",
    DeprecationWarning,
    stacklevel=2,
)
