"""llama.cpp's own tokenizer, for `.gguf` files without the tokenizer files that edgekit embeds."""

import codecs
import ctypes
import weakref
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import CheckpointError, VocabularyError
from edgekit.formats.gguf import GGUFFile
from edgekit.tokenizers.base import utf8
from edgekit.utils import lazy

if TYPE_CHECKING:
    from edgekit.tokenizers.base import Decoder
    from edgekit.tokenizers.utf8_mask import Mask, Masks

llama: Any = lazy.load("llama_cpp", "llama_cpp")

NONE, SPM = 0, 1  # llama.h, enum llama_vocab_type
BUFFER = 256


def check_vocabulary(file: GGUFFile) -> None:
    """Refuse a vocabulary on which llama.cpp would abort the process or hang while loading.

    Raises `CheckpointError`.
    """
    texts, kind = file.metadata.get("tokenizer.ggml.tokens"), file.metadata.get("tokenizer.ggml.model")
    if not isinstance(texts, list):
        if kind in ("none", "no_vocab"):
            return
        raise CheckpointError(f"{file.path}: tokenizer.ggml.tokens is missing or not a list of texts")
    rows = file.tensors["token_embd.weight"].shape[0]
    if len(texts) != rows:
        raise CheckpointError(f"{file.path}: {len(texts)} tokens, but the embedding has {rows} rows")
    # llama.cpp reads a text up to its first NUL, and gives an empty one a name.
    read = [text.partition("\0")[0] or f"[EMPTY_{id}]" for id, text in enumerate(texts)]
    if len(set(read)) != len(read):
        seen: dict[str, int] = {}
        one, two = next((seen[t], id) for id, t in enumerate(read) if seen.setdefault(t, id) != id)
        raise CheckpointError(
            f"{file.path}: token {read[one]!r:.60} occurs twice (ids {one} and {two}): llama.cpp would abort"
        )
    # Loading tokenizes a newline, which must terminate.
    newline = ("\n", "\\n", "\\x0a")
    if kind == "rwkv" and not any(t in newline for t in texts) and any(t.startswith(newline) for t in texts):
        raise CheckpointError(
            f"{file.path}: tokens begin with a newline, which is not one itself: llama.cpp would hang"
        )


def check_text(file: GGUFFile) -> None:
    """Refuse a vocabulary on which llama.cpp would abort the process or hang at some text.

    Raises `VocabularyError`.
    """
    texts, kind = file.metadata.get("tokenizer.ggml.tokens", []), file.metadata.get("tokenizer.ggml.model")
    if kind == "rwkv" and (stuck := _endless(texts)):
        raise VocabularyError(
            f"{file.path}: tokens begin with byte 0x{min(stuck):02x}, which is not a token itself: llama.cpp would hang"
        )
    if kind == "llama" and (lacking := _without_bytes(texts)):
        raise VocabularyError(f"{file.path}: no token for byte 0x{lacking[0]:02x}: llama.cpp would abort")


def _endless(texts: list[str]) -> set[int]:
    """First bytes of tokens that are not tokens themselves: llama.cpp's search restarts at them for ever."""
    pieces = [unescape(text.encode("utf-8", "surrogateescape")) for text in texts]
    return {p[0] for p in pieces if p} - {p[0] for p in pieces if len(p) == 1}


def _without_bytes(texts: list[str]) -> list[int]:
    known = set(texts)
    return [b for b in range(256) if f"<0x{b:02X}>" not in known and not (b < 0x80 and chr(b) in known)]


def unescape(text: bytes) -> bytes:
    """llama.cpp's llama_unescape_rwkv_token, its quirks included."""
    out, at = bytearray(), 0
    named = {0x74: 0x09, 0x6E: 0x0A, 0x72: 0x0D}
    while at < len(text):
        byte = text[at]
        at += 1
        if byte != 0x5C or at == len(text):
            out += b"" if byte == 0x5C else bytes([byte])
            continue
        byte = text[at]
        at += 1
        if byte != 0x78:
            out.append(named.get(byte, byte))
            continue
        digits = text[at : at + 2]
        at += 2
        if len(digits) == 2:
            high, low = (d - 0x61 + 10 if d >= 0x61 else d - 0x30 for d in digits)
            out.append(((high << 4) + low) & 0xFF)
    return bytes(out)


def encode(vocab: int, text: str, specials: bool) -> list[int]:
    """A text's ids; `vocab` is llama.cpp's handle. With `specials`, spelled special tokens are read as tokens."""
    data = utf8(text)
    size = len(data) + 8
    while True:
        ids = np.empty(size, np.int32)
        pointer = ids.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        count = llama.llama_tokenize(vocab, data, len(data), pointer, size, False, specials)
        if count >= 0:
            # An unknown byte is -1 where the file names no unknown token: it has no id, so it is left out.
            return [id for id in ids[:count].tolist() if id >= 0]
        size = -count


class LlamaVocabulary:
    """See `edgekit.inference.runtime.Vocabulary`. `model` is llama.cpp's handle, loaded without weights."""

    def __init__(self, model: int, file: GGUFFile):
        self._free = weakref.finalize(self, llama.llama_model_free, model)
        check_text(file)
        self._vocab = llama.llama_model_get_vocab(model)
        if llama.llama_vocab_type(self._vocab) == NONE:
            raise VocabularyError(f"{file.path} has no tokenizer that llama.cpp reads")

    def encode(self, text: str, *, specials: bool = False) -> list[int]:
        return encode(self._vocab, text, specials)

    def close(self) -> None:
        self._free()


class LlamaTokenizer:
    """See `edgekit.tokenizers.base.Tokenizer`. Encodes and decodes with llama.cpp's vocabulary.

    Args:
        owner: the runtime, kept alive because the vocabulary is part of its model.
        vocab: llama.cpp's handle.
        file: the file that the model was loaded from.

    Attributes:
        token_bytes: the bytes that each id prints; `b""` for specials and padding.
        chat_template, special_tokens: see `edgekit.tokenizers.chat.HasChatTemplate`.

    Raises:
        VocabularyError: the file has no vocabulary, or one that llama.cpp cannot use safely.
    """

    def __init__(self, owner: object, vocab: int, file: GGUFFile):
        check_text(file)
        if llama.llama_vocab_type(vocab) == NONE:
            raise VocabularyError(f"{file.path} has no tokenizer: neither one that llama.cpp reads nor embedded files")
        self._owner, self._vocab = owner, vocab
        self._kind = str(file.metadata.get("tokenizer.ggml.model"))
        self.vocab_size = llama.llama_vocab_n_tokens(vocab)
        ids = range(self.vocab_size)
        self.stop = frozenset(id for id in ids if llama.llama_vocab_is_eog(vocab, id))
        bos = llama.llama_vocab_bos(vocab) if llama.llama_vocab_get_add_bos(vocab) else -1
        self.bos = bos if bos >= 0 else None
        buffer = ctypes.create_string_buffer(BUFFER)
        self.token_bytes = [_bytes(vocab, id, buffer) for id in ids]
        self._specials = {id: _text(vocab, id) for id in ids if llama.llama_vocab_is_control(vocab, id)}
        template = file.metadata.get("tokenizer.chat_template")
        self.chat_template = template if isinstance(template, str) else None
        named = {"bos_token": llama.llama_vocab_bos(vocab), "eos_token": llama.llama_vocab_eos(vocab)}
        self.special_tokens = {name: _text(vocab, id) for name, id in named.items() if id >= 0}
        # SentencePiece puts a space before a text; decoding removes it from the first piece.
        self.strips = llama.llama_vocab_type(vocab) == SPM and self._begins_with_space()

    def _begins_with_space(self) -> bool:
        ids = self.encode("a")
        return bool(ids) and self.token_bytes[ids[0]].startswith(b" ")

    def encode(self, text: str, *, specials: bool = False) -> list[int]:
        return encode(self._vocab, text, specials)

    def decode(self, tokens: Sequence[int]) -> str:
        decoder = self.decoder()
        return "".join(map(decoder.feed, tokens)) + decoder.flush()

    def decoder(self, context: Sequence[int] = ()) -> "LlamaDecoder":
        decoder = LlamaDecoder(self)
        for token in context:
            decoder.feed(token)
        return decoder

    def piece(self, id: int) -> str:
        if id in self._specials:
            return self._specials[id]
        return self.token_bytes[id].decode("utf-8", "replace") if 0 <= id < self.vocab_size else ""

    def utf8_mask(self, decoder: "Decoder", remaining: int | None = None) -> "Mask":
        if not isinstance(decoder, LlamaDecoder):
            raise TypeError("utf8_mask needs a decoder made by this tokenizer")
        return self._masks.mask(self._masks.after_bytes(decoder.pending()), remaining)

    @cached_property
    def specials(self) -> dict[str, int]:
        return {text: id for id, text in self._specials.items()}

    def facts(self) -> dict[str, Any]:
        tokens = sum(1 for piece in self.token_bytes if piece) + len(self._specials)
        return {
            "kind": f"llama.cpp ({self._kind})",
            "tokens": tokens,
            "padding": self.vocab_size - tokens,
            "specials": self.specials,
        }

    @cached_property
    def _masks(self) -> "Masks":
        from edgekit.tokenizers.utf8_mask import Masks

        return Masks(self.token_bytes, sorted(self.stop))


class LlamaDecoder:
    """See `base.Decoder`. State between ids: an unfinished character, and whether to remove the leading space."""

    def __init__(self, tokenizer: LlamaTokenizer):
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip = tokenizer.strips

    def feed(self, token: int) -> str:
        pieces = self._tokenizer.token_bytes
        piece = pieces[token] if 0 <= token < len(pieces) else b""
        if self._strip and piece:
            piece, self._strip = piece.removeprefix(b" "), False
        return self._utf8.decode(piece)

    def flush(self) -> str:
        text = self._utf8.decode(b"", True)
        self._utf8.reset()
        self._strip = self._tokenizer.strips
        return text

    def pending(self) -> bytes:
        """The bytes of the unfinished character."""
        return self._utf8.getstate()[0]


def _text(vocab: int, id: int) -> str:
    text: bytes | None = llama.llama_vocab_get_text(vocab, id)
    return (text or b"").decode("utf-8", "replace")


def _bytes(vocab: int, id: int, buffer: ctypes.Array) -> bytes:
    size = llama.llama_token_to_piece(vocab, id, buffer, len(buffer), 0, False)
    if size < 0:
        buffer = ctypes.create_string_buffer(-size)
        size = llama.llama_token_to_piece(vocab, id, buffer, len(buffer), 0, False)
    return buffer.raw[:size]
