"""What every tokenizer answers, and how a model's own files become one.

A tokenizer's ids are the model's: ids above its own table (embedding rows that pad the vocabulary) decode to
nothing. Specials are out of band: text that contains `</s>` never becomes the id of `</s>`.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol


class Decoder(Protocol):
    """Turns ids into text as they come. Pieces joined, and `flush()` at the end, equal the whole `decode`."""

    def feed(self, token: int) -> str:
        """The text that is certain after this id; `""` while a character or a marker is unfinished."""
        ...

    def flush(self) -> str:
        """The text still held back (an unfinished character shows as U+FFFD); the decoder starts anew."""
        ...


class Tokenizer(Protocol):
    vocab_size: int
    """Ids run from 0 to vocab_size - 1, padding rows included."""
    bos: int | None
    """The id to put before a text, or None if this model wants none."""
    stop: frozenset[int]
    """Ids that end a text."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without BOS or EOS. Raises `PromptError` if `text` holds lone surrogates."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of a sequence; specials and padding decode to nothing, ill-formed UTF-8 to U+FFFD."""
        ...

    def decoder(self) -> Decoder: ...


# The files beside the weights that make a tokenizer; artefacts carry them whole, by these names.
FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenmonster.vocab",
)


def from_files(files: Mapping[str, bytes], vocab_size: int) -> Tokenizer:
    raise NotImplementedError
