"""The contract of a tokenizer, and what a model's files say about special tokens.

A tokenizer's ids are the model's: ids above its own table (embedding rows that pad the vocabulary) decode to nothing.
Special tokens are out of band: text that contains `</s>` never becomes the id of `</s>`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from edgekit.errors import PromptError, VocabularyError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Decoder(Protocol):
    """Turns ids into text as they come. All pieces and `flush()` joined equal the whole `decode`."""

    def feed(self, token: int) -> str:
        """The text that is certain after this id; `""` while a character or a marker is unfinished."""
        ...

    def flush(self) -> str:
        """The text still withheld (an unfinished character becomes U+FFFD); the decoder starts over."""
        ...


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back for one model."""

    vocab_size: int
    """Ids run from 0 to vocab_size - 1, padding rows included."""
    bos: int | None
    """The id to put before a text, or None if this model wants none."""
    stop: frozenset[int]
    """Ids that end a text."""

    @property
    def token_bytes(self) -> Sequence[bytes]:
        """What each id stands for in the middle of a text, in the tokenizer's own form (TokenMonster's capcode is not
        undone), (vocab_size,); `b""` for specials and padding."""
        ...

    def encode(self, text: str, *, specials: bool = False) -> list[int]:
        """Ids of a text, without BOS or EOS. Raises `PromptError` if `text` has lone surrogates.

        With `specials` the spelling of a special token becomes its id: only for text that you wrote yourself.
        """
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of a sequence; specials and padding decode to nothing, ill-formed UTF-8 to U+FFFD."""
        ...

    def decoder(self, context: Sequence[int] = ()) -> Decoder:
        """A decoder whose pieces continue the text of `context`.

        decode(context) + pieces + flush == decode(context + tokens), whenever decode(context) ends at a character
        boundary. If it ends inside a character, the rule holds with the text before that character in the place of
        decode(context): the first pieces finish the character.
        """
        ...

    def piece(self, id: int) -> str:
        """One id for display: its text in the middle of a sentence, or a special token's spelling."""
        ...

    def utf8_mask(self, decoder: Decoder, remaining: int | None = None) -> "NDArray[np.bool_]":
        """The ids that may follow so that no U+FFFD is printed; bool (vocab_size,), read-only and cached.

        Args:
            decoder: made by this tokenizer, in its current state.
            remaining: how many ids may follow the next one; given, no character is begun that they cannot finish.

        Ids that end a text are allowed between characters only, padding never. If the context ends inside a character
        that nothing can finish, the mask is that for a new character.
        """
        ...

    def facts(self) -> dict[str, Any]:
        """What `inspect` reports, fit for JSON: first its `kind`; `specials` maps spellings to ids."""
        ...


@runtime_checkable
class OwnsTokenizer(Protocol):
    """Optional for a runtime: it can tokenize for a model whose files have no tokenizer."""

    def own_tokenizer(self) -> Tokenizer:
        """The backend's tokenizer. Raises `VocabularyError` if the model has none that can be used."""
        ...


@runtime_checkable
class Framed(Protocol):
    """Optional for a tokenizer: a template of more than one BOS."""

    prefix: tuple[int, ...]
    """Ids before a prompt, `bos` first."""
    suffix: tuple[int, ...]
    """Ids after a prompt: EOS, where `add_eos_token` or the template asks for it, as transformers does."""


@runtime_checkable
class NamesSpecials(Protocol):
    """Optional for a tokenizer: its special tokens without the cost of `facts`."""

    specials: Mapping[str, int]
    """Spelling -> id."""


def spelled_special(tokenizer: Tokenizer, text: str) -> str:
    """The first special token that a text spells, "" if there is none."""
    specials = tokenizer.specials if isinstance(tokenizer, NamesSpecials) else tokenizer.facts()["specials"]
    return min((mark for mark in specials if mark and mark in text), key=text.index, default="")


def framed(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[int]:
    """The ids of a prompt with what the model's tokenizer puts before and after it."""
    if isinstance(tokenizer, Framed):
        return [*tokenizer.prefix, *tokens, *tokenizer.suffix]
    return [*tokens] if tokenizer.bos is None else [tokenizer.bos, *tokens]


def utf8(text: str) -> bytes:
    """The bytes of a prompt. Raises `PromptError` if it has lone surrogates, as arguments that are not UTF-8 do."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(f"the prompt is not UTF-8 (at character {error.start + 1})") from error


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
    """The ids under a key such as `eos_token_id` (one, a list, or none), in all files that may name them.

    The generation config comes first, as in transformers, whose `generate` reads it.
    """
    ids: list[int] = []
    for name in ("generation_config.json", "config.json", "tokenizer_config.json"):
        value = read_json(files, name).get(key)
        for id in value if isinstance(value, list) else [value]:
            if isinstance(id, int) and not isinstance(id, bool) and id >= 0 and id not in ids:
                ids.append(id)
    return ids


def spelling(files: Mapping[str, bytes], key: str) -> str:
    """How a special token such as `eos_token` is written, by tokenizer_config.json or special_tokens_map.json.

    `""` if neither says. The value is a string, or transformers' AddedToken as an object with `content`.
    """
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        value = read_json(files, name).get(key)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str) and value:
            return value
    return ""
