"""Vocabularies by the C engine where that is installed: the same ids and pieces, opened in a tenth of the time."""

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from edgekit.errors import VocabularyError
from edgekit.tokenizers.tokenmonster.vocab_file import InvalidVocab, any_special, header
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary
from edgekit.utils.engine import library

if TYPE_CHECKING:
    from edgekit.tokenizers.engine import EngineTokenizer


def open_vocabulary(content: bytes, name: str) -> Vocabulary:
    """A vocabulary from the content of its file. Raises `VocabularyError`, its one line led by `name`."""
    try:
        engine = None if any_special(content) else _open(content)
    except InvalidVocab:
        engine = None
    if engine is None:
        return Vocabulary.from_bytes(content, name)  # which also says what is wrong with it
    return OpenedVocabulary(engine, content, name)


def _open(content: bytes) -> "EngineTokenizer | None":
    """None without the engine, and for a file that it does not open: damaged, UTF-16 or too large."""
    engine = library()
    if engine is None:
        return None
    from edgekit.tokenizers.engine import EngineTokenizer  # only needed with a library

    try:
        return EngineTokenizer(engine, content, bare=True)
    except VocabularyError:
        return None


class OpenedVocabulary(Vocabulary):
    """A vocabulary without special tokens that the engine has opened, and checked by the same rules as Python.

    Its records are read when something asks for them.
    """

    def __init__(self, engine: "EngineTokenizer", content: bytes, name: str) -> None:
        self.engine, self._content, self.name = engine, content, name
        for field, value in header(content).items():
            setattr(self, field, value)
        self.special_ids = frozenset()
        self._pieces = _Pieces(engine)

    @functools.cached_property
    def _whole(self) -> Vocabulary:
        return Vocabulary.from_bytes(self._content, self.name)

    def __getattr__(self, name: str) -> Any:
        if name not in ("records", "follow", "deleted", "unused", "_base"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._whole, name)

    def to_bytes(self) -> bytes:
        return self._content

    def base_bytes(self, id: int) -> bytes:
        piece = self.piece(id)
        # A duplicate's piece begins with the marker and a space, which may also be an ordinary token's bytes.
        return self._whole.base_bytes(id) if piece[1:2] == b" " else piece


class _Pieces(dict[int, bytes]):
    """The bytes of each id, from the engine when they are first asked for."""

    def __init__(self, engine: "EngineTokenizer") -> None:
        self._engine = engine

    def get(self, id: int, default: Any = b"") -> Any:
        if id not in self:
            self[id] = self._engine.piece(id) if id >= 0 else b""
        return self[id]


class CompiledVocabulary:
    """`encode` and `decode` of a `Vocabulary`, which the engine opens at the first text.

    Args:
        vocabulary: also decodes.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def encode(self, text: str) -> list[int]:
        """See `Vocabulary.encode`."""
        return self._encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """See `Vocabulary.decode`."""
        return self._vocabulary.decode(ids)

    @functools.cached_property
    def _encode(self) -> Callable[[str], list[int]]:
        vocabulary = self._vocabulary
        opened = vocabulary.engine if isinstance(vocabulary, OpenedVocabulary) else _open(vocabulary.to_bytes())
        return vocabulary.encode if opened is None else opened.encode
