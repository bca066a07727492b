"""What every tokenizer answers, and how a model's own files become one.

A tokenizer's ids are the model's: ids above its own table (embedding rows that pad the vocabulary) decode to
nothing. Specials are out of band: text that contains `</s>` never becomes the id of `</s>`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from edgekit.errors import VocabularyError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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

    def encode(self, text: str, *, specials: bool = False) -> list[int]:
        """Ids of a text, without BOS or EOS. Raises `PromptError` if `text` holds lone surrogates.

        With `specials` the spelling of a special token becomes its id: only for text that you wrote yourself.
        """
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of a sequence; specials and padding decode to nothing, ill-formed UTF-8 to U+FFFD."""
        ...

    def decoder(self, context: Sequence[int] = ()) -> Decoder:
        """A decoder whose pieces continue the text of `context`.

        decode(context) + pieces + flush == decode(context + tokens), whenever decode(context) ends at a character
        boundary. If it ends in half a character, the law holds with the text before that half in the place
        of decode(context): the first pieces finish the character.
        """
        ...

    def utf8_mask(self, decoder: Decoder, remaining: int | None = None) -> "NDArray[np.bool_]":
        """The ids that may follow so that no U+FFFD is printed; bool (vocab_size,), read-only and kept.

        Args:
            decoder: one that this tokenizer made, as it stands.
            remaining: how many ids may follow the next one; given, no character is begun that they cannot finish.

        Ids that end a text are allowed between characters only, padding never. If the context ends in half a
        character that nothing can finish, the mask is the one for a new character.
        """
        ...

    def facts(self) -> dict[str, Any]:
        """What `inspect` says of it: plain values for JSON, beginning with its `kind`."""
        ...


def read_json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """One of the JSON files; empty if it is not there. Raises `VocabularyError` if it is not a JSON object."""
    try:
        value = json.loads(files.get(name, b"{}"))
    except (ValueError, RecursionError) as error:
        raise VocabularyError(f"{name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise VocabularyError(f"{name} is not a JSON object")
    return value


def configured_ids(files: Mapping[str, bytes], key: str) -> list[int]:
    """The ids under a key such as `eos_token_id` (one, a list, or none), over all files that may say so.

    The generation config counts first, as in transformers: it is what `generate` goes by.
    """
    ids: list[int] = []
    for name in ("generation_config.json", "config.json", "tokenizer_config.json"):
        value = read_json(files, name).get(key)
        for id in value if isinstance(value, list) else [value]:
            if isinstance(id, int) and not isinstance(id, bool) and id >= 0 and id not in ids:
                ids.append(id)
    return ids


def spelling(files: Mapping[str, bytes], key: str) -> str:
    """How a special token such as `eos_token` is written, as tokenizer_config.json or special_tokens_map.json say.

    `""` if they do not. The value is a text, or transformers' AddedToken as an object with `content`.
    """
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        value = read_json(files, name).get(key)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str) and value:
            return value
    return ""
