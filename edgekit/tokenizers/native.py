"""The tokenizer of a GGUF file that edgekit did not write, by the C engine: llama.cpp's kinds `llama` and `gpt2`.

It opens in milliseconds, where rebuilding a tokenizer.json from the file's keys takes a second for 49,152 tokens.
"""

import ctypes
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from edgekit.errors import UnsupportedError, VocabularyError
from edgekit.formats.gguf import GGUFFile
from edgekit.tokenizers.base import utf8
from edgekit.tokenizers.engine import PADDING, SENTENCEPIECE, STOP, TOKENMONSTER, EngineTokenizer

if TYPE_CHECKING:
    from edgekit.tokenizers.base import Decoder
    from edgekit.tokenizers.utf8_mask import Mask, Masks


class NativeTokenizer:
    """See `edgekit.tokenizers.base.Tokenizer`; also `edgekit.tokenizers.chat.HasChatTemplate`.

    Args:
        library: the engine.
        file: stays open.
        rows: of the model's embedding.

    Raises:
        UnsupportedError: a kind or a pre-tokenizer that the engine does not have, or none.
        VocabularyError: other tokens than `rows`.
    """

    def __init__(self, library: ctypes.CDLL, file: GGUFFile, rows: int) -> None:
        try:
            self._engine = engine = EngineTokenizer(library, file.map)
        except VocabularyError as error:
            raise UnsupportedError(f"{file.path}: {error}") from error
        if engine.kind == TOKENMONSTER:
            raise UnsupportedError(f"{file.path}: a TokenMonster model, which has files of its own")
        if engine.vocab_size != rows:
            raise VocabularyError(f"{file.path}: {engine.vocab_size} tokens, but the embedding has {rows} rows")
        self.vocab_size = rows
        self.bos = engine.bos if engine.add_bos else None
        self._types = [engine.type(id) for id in range(rows)]
        self.stop = frozenset(id for id, bits in enumerate(self._types) if bits & STOP)
        texts = file.metadata["tokenizer.ggml.tokens"]
        self._specials = {id: texts[id] for id, bits in enumerate(self._types) if bits and not bits & PADDING}
        template = file.metadata.get("tokenizer.chat_template")
        self.chat_template = template if isinstance(template, str) else None
        named = {"bos_token": engine.bos, "eos_token": engine.eos}
        self.special_tokens = {name: texts[id] for name, id in named.items() if id is not None}

    @cached_property
    def token_bytes(self) -> Sequence[bytes]:
        return [self._engine.piece(id) for id in range(self.vocab_size)]

    def encode(self, text: str, *, specials: bool = False) -> list[int]:
        return self._engine.encode(utf8(text), specials=specials)

    def decode(self, tokens: Sequence[int]) -> str:
        return self._engine.decode_bytes(tokens).decode("utf-8", "replace")

    def decoder(self, context: Sequence[int] = ()) -> "NativeDecoder":
        decoder = NativeDecoder(self._engine)
        for token in context:
            decoder.feed(token)
        return decoder

    def piece(self, id: int) -> str:
        if id in self._specials:
            return self._specials[id]
        return self._engine.piece(id).decode("utf-8", "replace") if 0 <= id < self.vocab_size else ""

    def utf8_mask(self, decoder: "Decoder", remaining: int | None = None) -> "Mask":
        if not isinstance(decoder, NativeDecoder):
            raise TypeError("utf8_mask needs a decoder made by this tokenizer")
        return self._masks.mask(self._masks.after_bytes(decoder.pending), remaining)

    def facts(self) -> dict[str, Any]:
        padding = sum(1 for bits in self._types if bits & PADDING)
        return {
            "kind": "SentencePiece BPE" if self._engine.kind == SENTENCEPIECE else "byte-level BPE",
            "tokens": self.vocab_size - padding,
            "padding": padding,
            "specials": {text: id for id, text in self._specials.items()},
        }

    @cached_property
    def _masks(self) -> "Masks":
        from edgekit.tokenizers.utf8_mask import Masks

        return Masks(self.token_bytes, sorted(self._specials))


class NativeDecoder:
    """See `edgekit.tokenizers.base.Decoder`."""

    def __init__(self, engine: EngineTokenizer) -> None:
        self._decoder = engine.decoder()

    def feed(self, token: int) -> str:
        return self._decoder.feed(token).decode("utf-8", "replace")

    def flush(self) -> str:
        return self._decoder.flush().decode("utf-8", "replace")

    @property
    def pending(self) -> bytes:
        """The bytes of an unfinished character."""
        return self._decoder.pending
