"""A vocabulary that encodes with the C engine where that is installed: the same ids, some ten times as fast."""

import functools
from collections.abc import Callable, Iterable

from edgekit.errors import VocabularyError
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary
from edgekit.utils.engine import library


class CompiledVocabulary:
    """`encode` and `decode` of a `Vocabulary`. The engine opens it at the first text.

    Args:
        vocabulary: also decodes.
        content: its `.vocab` file, if that is in memory already.
    """

    def __init__(self, vocabulary: Vocabulary, content: bytes | None = None) -> None:
        self._vocabulary, self._content = vocabulary, content

    def encode(self, text: str) -> list[int]:
        """See `Vocabulary.encode`."""
        return self._encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """See `Vocabulary.decode`."""
        return self._vocabulary.decode(ids)

    @functools.cached_property
    def _encode(self) -> Callable[[str], list[int]]:
        engine = library()
        if engine is None:
            return self._vocabulary.encode
        from edgekit.tokenizers.engine import EngineTokenizer  # ctypes, only needed with a library

        try:
            return EngineTokenizer(engine, self._content or self._vocabulary.to_bytes(), bare=True).encode
        except VocabularyError:  # UTF-16, or too large for the engine
            return self._vocabulary.encode
