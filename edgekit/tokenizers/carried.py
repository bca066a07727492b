"""The files of a model as artefacts carry them: reading the tokenizer needs no further package and no further rule."""

from collections.abc import Mapping

from edgekit.tokenizers import sentencepiece
from edgekit.tokenizers.tokenmonster import layout


def carried(files: Mapping[str, bytes], rows: int) -> dict[str, bytes]:
    """The same files, with a tokenizer.json made of tokenizer.model alone, or a vocabulary with the model's own ids.

    Args:
        rows: of the embedding.

    Raises:
        VocabularyError: a damaged tokenizer.
        MissingExtraError: tokenizer.model alone, without the package that reads it.
    """
    return layout.with_own_ids(sentencepiece.with_json(files), rows)
