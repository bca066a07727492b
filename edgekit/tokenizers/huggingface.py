"""Ordinary tokenizers: `tokenizer.json` through the `tokenizers` library.

The library encodes. Decoding is done here, on bytes: each id has the bytes that the file's decoder would print for
it, so a stream never looks back and every id costs the same. The texts equal the library's, with one exception: where
byte tokens are not valid UTF-8, the library replaces the whole run of them, each by one U+FFFD, valid characters too.
Here, as in llama.cpp, only the ill-formed part is replaced, since a stream cannot take a character back.
"""

import codecs
import functools
import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import tokenizers

from edgekit.errors import PromptError, VocabularyError
from edgekit.tokenizers import transformers_rules
from edgekit.tokenizers.base import configured_ids, utf8
from edgekit.tokenizers.transformers_rules import open_library
from edgekit.utils.guard import reading

if TYPE_CHECKING:
    from edgekit.tokenizers.base import Decoder
    from edgekit.tokenizers.utf8_mask import Mask, Masks


class JsonTokenizer:
    """See `edgekit.tokenizers.base.Tokenizer`.

    Args:
        data: the content of a tokenizer.json.
        vocab_size: rows of the model's embedding.
        stop: ids that end a text. bos: see the protocol. If these are added tokens they count as special, even if the
            file does not mark them.

    Attributes:
        special_ids: ids that the file marks special; they decode to nothing, and text does not produce them.

    Raises:
        VocabularyError: damaged, of a kind that edgekit cannot decode, or with more ids than `vocab_size`.
    """

    def __init__(self, data: bytes, vocab_size: int, *, stop: Sequence[int] = (), bos: int | None = None):
        self._data = data = _mark_special(data, {*stop, bos})
        self._library = open_library(data)
        ids = self._library.get_vocab(with_added_tokens=True)
        size = max(ids.values(), default=-1) + 1
        if size > vocab_size:
            raise VocabularyError(
                f"tokenizer.json has {size} ids, but the model's embedding has {vocab_size} rows: "
                "this tokenizer belongs to another model"
            )
        self.source = "tokenizer.json"
        """The file that it was read from, for display."""
        self.vocab_size = vocab_size
        self.bos = bos
        self.prefix: tuple[int, ...] = () if bos is None else (bos,)
        self.suffix: tuple[int, ...] = ()
        self.stop = frozenset(id for id in stop if id < vocab_size)
        added = self._library.get_added_tokens_decoder()
        self._specials = {id: added[id].content for id in sorted(added) if added[id].special}
        self.special_ids = frozenset(self._specials)
        rules = Rules.read(json.loads(data).get("decoder"))
        self.strip = rules.strip
        tokens = {id: token for token, id in ids.items() if id not in self.special_ids}
        self.token_bytes = [rules.piece(tokens[id]) if id in tokens else b"" for id in range(vocab_size)]
        firsts = ((id, rules.piece(token, first=True)) for id, token in tokens.items())
        self.first_pieces = {id: first for id, first in firsts if first != self.token_bytes[id]}
        """The bytes of an id that is the first of a text to print anything, where they differ."""
        self._silent = frozenset(range(vocab_size)).difference(tokens)

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], vocab_size: int) -> "JsonTokenizer":
        """The tokenizer of a checkpoint, with the BOS and stop ids of its configuration."""
        loaded = transformers_rules.load(files, vocab_size)
        library = open_library(loaded.data)
        spelled = library.token_to_id(transformers_rules.named_tokens(files).get("eos_token", ""))
        ends = ([] if spelled is None else [spelled]) + configured_ids(files, "eos_token_id")
        bos = loaded.prefix[0] if loaded.prefix else None
        tokenizer = cls(loaded.data, vocab_size, stop=[id for id in ends if id < vocab_size], bos=bos)
        tokenizer.prefix, tokenizer.suffix = loaded.prefix, loaded.suffix
        return tokenizer

    def encode(self, text: str, *, specials: bool = False) -> list[int]:
        utf8(text)
        # The library panics on some texts and files, with an exception that is no `Exception`.
        with reading(f"{self.source}, which the text needs,", PromptError):
            library = self._parsing if specials else self._library
            ids: list[int] = library.encode(text, add_special_tokens=False).ids
        if specials:
            return ids
        if self._spelled.isdisjoint(ids):
            return ids
        return [part for id in ids for part in (self._spell(id) if id in self._spelled else [id])]

    @cached_property
    def _parsing(self) -> tokenizers.Tokenizer:
        library = open_library(self._data)
        library.encode_special_tokens = False
        return library

    @cached_property
    def _spelled(self) -> frozenset[int]:
        """Specials that text must not produce. The unknown token is none of them: unknown text becomes it."""
        unknown = getattr(self._library.model, "unk_token", None)
        unk = self._library.token_to_id(unknown) if isinstance(unknown, str) else None
        if isinstance(index := json.loads(self._data)["model"].get("unk_id"), int):
            unk = index  # Unigram names it by number
        return self.special_ids - {unk}

    def _spell(self, id: int) -> list[int]:
        """A special token's spelling in ordinary tokens.

        Only needed for files whose model itself contains the special (WordLevel, Unigram): there it matches like any
        word, whatever the added tokens are. Spelled by characters, then by bytes; what has neither is left out.
        """
        ids = []
        for char in self._library.id_to_token(id) or "":
            codes = [char] if self._library.token_to_id(char) is not None else [f"<0x{b:02X}>" for b in char.encode()]
            ids += [part for code in codes if (part := self._library.token_to_id(code)) is not None]
        return [part for part in ids if part not in self.special_ids]

    def decode(self, tokens: Sequence[int]) -> str:
        decoder = self.decoder()
        return decoder.feed_all(tokens) + decoder.flush()

    def decoder(self, context: Sequence[int] = ()) -> "JsonDecoder":
        decoder = JsonDecoder(self)
        decoder.feed_all(context)
        return decoder

    def piece(self, id: int) -> str:
        if id in self._specials:
            return self._specials[id]
        return self.token_bytes[id].decode("utf-8", "replace") if 0 <= id < self.vocab_size else ""

    def utf8_mask(self, decoder: "Decoder", remaining: int | None = None) -> "Mask":
        if not isinstance(decoder, JsonDecoder):
            raise TypeError("utf8_mask needs a decoder made by this tokenizer")
        return self._masks.mask(decoder.mask_state(self._masks), remaining)

    @cached_property
    def specials(self) -> dict[str, int]:
        return {text: id for id, text in self._specials.items()}

    def facts(self) -> dict[str, Any]:
        model = json.loads(self._data)["model"]
        return {
            "kind": f"{self.source} ({model.get('type', 'BPE')})",
            "tokens": self._library.get_vocab_size(with_added_tokens=True),
            "padding": self.vocab_size - self._library.get_vocab_size(with_added_tokens=True),
            "merges": len(model.get("merges", ())),
            "specials": self.specials,
            "sha256": hashlib.sha256(self._data).hexdigest(),
        }

    @cached_property
    def _masks(self) -> "Masks":
        from edgekit.tokenizers.utf8_mask import Masks

        return Masks(self.token_bytes, [id for id in self.special_ids | self.stop if not self.token_bytes[id]])


class JsonDecoder:
    """See `base.Decoder`. State between ids: an unfinished character; at the start, what is stripped there."""

    __slots__ = ("_started", "_strip", "_tokenizer", "_utf8")

    def __init__(self, tokenizer: JsonTokenizer):
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._reset()

    def _reset(self) -> None:
        self._utf8.reset()
        self._started = not self._tokenizer.first_pieces
        self._strip = len(self._tokenizer.strip)

    def feed(self, token: int) -> str:
        return self.feed_all((token,))

    def feed_all(self, tokens: Sequence[int]) -> str:
        """The text of several ids at once."""
        pieces = self._tokenizer.token_bytes
        parts = [pieces[token] if 0 <= token < len(pieces) else b"" for token in tokens]
        if not self._started:
            silent = self._tokenizer._silent
            place = next((i for i, t in enumerate(tokens) if 0 <= t < len(pieces) and t not in silent), None)
            if place is not None:
                self._started = True
                parts[place] = self._tokenizer.first_pieces.get(tokens[place], parts[place])
        text = self._utf8.decode(b"".join(parts))
        return self._stripped(text) if self._strip and text else text

    def flush(self) -> str:
        text = self._utf8.decode(b"", True)
        text = self._stripped(text) if self._strip and text else text
        self._reset()
        return text

    def _stripped(self, text: str) -> str:
        char = self._tokenizer.strip[0]
        count = min(len(text) - len(text.lstrip(char)), self._strip)
        self._strip = self._strip - count if count == len(text) else 0
        return text[count:]

    def mask_state(self, masks: "Masks") -> int:
        """The state of the mask's automaton after the pending bytes."""
        return masks.after_bytes(self._utf8.getstate()[0])


@dataclass
class Rules:
    """How a file's `decoder` turns a token's spelling into bytes."""

    kind: str
    """"bytes": each character stands for a byte (GPT-2); "text": by `replace` and `byte_tokens`."""
    replace: tuple[tuple[str, str], ...] = ()
    byte_tokens: bool = False
    """Whether `<0xE2>` stands for that byte."""
    drop_first: str = ""
    """A character that the first token of a text loses."""
    between: str = ""
    """What comes before every token but the first."""
    strip: str = ""
    """What a whole text loses at its start, at most: one character n times."""

    @classmethod
    def read(cls, decoder: Any) -> "Rules":
        """From the file's JSON. Raises `VocabularyError` for an unsupported decoder."""
        if decoder is None:
            return cls("text", between=" ")  # the library's default
        steps = decoder.get("decoders", []) if _kind(decoder) == "Sequence" else [decoder]
        kinds = [_kind(step) for step in steps]
        if kinds == ["ByteLevel"]:
            return cls("bytes")
        if kinds == ["Metaspace"]:
            mark = steps[0].get("replacement", "▁")
            scheme = steps[0].get("prepend_scheme", "always")
            keeps_space = scheme == "never" or steps[0].get("add_prefix_space") is False
            return cls("text", replace=((mark, " "),), drop_first="" if keeps_space else mark)
        replace, byte_tokens, fused, strip = [], False, False, ""
        for step, kind in zip(steps, kinds, strict=True):
            pattern = step.get("pattern", {}).get("String") if kind == "Replace" else None
            if kind == "Replace" and pattern and not byte_tokens and not fused:
                replace.append((pattern, step["content"]))
            elif kind == "ByteFallback" and not fused:
                byte_tokens = True
            elif kind == "Fuse":
                fused = True
            elif kind == "Strip" and fused and not strip and step.get("stop") == 0 and len(step["content"]) == 1:
                strip = step["content"] * step.get("start", 0)
            else:
                raise VocabularyError(f"tokenizer.json: decoder {'+'.join(kinds)} is not supported ({kind})")
        return cls("text", tuple(replace), byte_tokens, strip=strip)

    def piece(self, token: str, *, first: bool = False) -> bytes:
        """The bytes that a token prints."""
        if self.kind == "bytes":
            table = byte_of_char()
            return bytes(table[c] for c in token) if all(c in table for c in token) else token.encode()
        if first and self.drop_first:
            token = token.replace(self.drop_first, "")
        for pattern, content in self.replace:
            token = token.replace(pattern, content)
        if self.byte_tokens and (match := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", token)):
            return bytes([int(match[1], 16)])
        return (token if first else self.between + token).encode()


def _kind(step: Any) -> str:
    kind = step.get("type") if isinstance(step, dict) else None
    if not isinstance(kind, str):
        raise VocabularyError("tokenizer.json: the decoder has no type")
    return kind


@functools.cache
def byte_of_char() -> dict[str, int]:
    """GPT-2's table: printable bytes are written as themselves, the others as characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in printable]
    return {chr(value): value for value in printable} | {chr(0x100 + i): value for i, value in enumerate(others)}


def _mark_special(data: bytes, ids: Collection[int | None]) -> bytes:
    """The file with these added tokens marked special; unchanged if they are."""
    try:
        values = json.loads(data)
        unmarked = [t for t in values["added_tokens"] if t["id"] in ids and not t["special"]]
    except (ValueError, LookupError, TypeError):
        return data  # the library reports what is wrong with it
    for token in unmarked:
        token["special"] = True
    return json.dumps(values).encode() if unmarked else data
