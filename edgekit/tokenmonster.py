"""The old place of `edgekit.Vocabulary`, kept for one release."""

import warnings

from edgekit.tokenizers.tokenmonster.vocabulary import NONE, Decoder, Deleted, Record, Vocabulary

__all__ = ["NONE", "Decoder", "Deleted", "Record", "Vocabulary"]

warnings.warn(
    "edgekit.tokenmonster is now edgekit.tokenizers.tokenmonster; use edgekit.Vocabulary",
    DeprecationWarning,
    stacklevel=2,
)
