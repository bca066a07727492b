"""The name of `edgekit.tokenizers.tokenmonster` in version 0.1. Removed in version 0.3."""

import warnings

from edgekit.tokenizers.tokenmonster.vocabulary import NONE, Decoder, Deleted, Record, Vocabulary

__all__ = ["NONE", "Decoder", "Deleted", "Record", "Vocabulary"]

warnings.warn(
    "edgekit.tokenmonster is now edgekit.tokenizers.tokenmonster, and the old name will be removed in version 0.3; "
    "use edgekit.Vocabulary",
    DeprecationWarning,
    stacklevel=2,
)
