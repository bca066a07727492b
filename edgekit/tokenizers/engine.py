"""The C engine's tokenizers: TokenMonster, SentencePiece BPE and byte-level BPE, from a GGUF or `.vocab` file's bytes.

    tokenizer = EngineTokenizer(library, data)
    ids = tokenizer.encode("Once upon a time")

The prototypes are those of engine/edgekit.h. TokenMonster's ids equal `Vocabulary.encode`, the others llama.cpp's.
"""

import ctypes
import functools
import mmap
from collections.abc import Iterable
from typing import Any

from edgekit.errors import EdgekitError, VocabularyError
from edgekit.utils.engine import Error, address, block

TOKENMONSTER, SENTENCEPIECE, BYTE_BPE = 1, 2, 3
SPECIAL, STOP, PADDING = 1, 2, 4
_BARE, _COMPACT, _PARSE_SPECIALS = 1, 2, 1
_MOST_TEXT = 1 << 30


class _Info(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_uint32),
        ("vocabulary", ctypes.c_uint32),
        ("bos", ctypes.c_int32),
        ("eos", ctypes.c_int32),
        ("add_bos", ctypes.c_uint32),
        ("capcode", ctypes.c_uint32),
        ("longest", ctypes.c_size_t),
    ]


class _Decoder(ctypes.Structure):
    _fields_ = [
        ("tokenizer", ctypes.c_void_p),
        ("undo", ctypes.c_uint8 * 9),
        ("pending", ctypes.c_uint8 * 4),
        ("pending_count", ctypes.c_uint8),
        ("begun", ctypes.c_uint8),
    ]


@functools.cache
def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, size, u32 = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32
    prototypes: dict[str, tuple[object, list[object]]] = {
        "ek_tokenizer_size": (ctypes.c_int, [pointer, size, u32, pointer, pointer]),
        "ek_tokenizer_open": (ctypes.c_int, [pointer, size, u32, pointer, size, pointer, pointer]),
        "ek_tokenizer_describe": (ctypes.POINTER(_Info), [pointer]),
        "ek_token_type": (u32, [pointer, u32]),
        "ek_piece": (size, [pointer, u32, pointer, size]),
        "ek_encode_size": (size, [pointer, size]),
        "ek_encode": (ctypes.c_int64, [pointer, ctypes.c_char_p, size, u32, pointer, size, pointer, size]),
        "ek_decoder_start": (None, [pointer, pointer]),
        "ek_decoder_feed": (size, [pointer, u32, pointer]),
        "ek_decoder_flush": (size, [pointer, pointer]),
    }
    for name, (result, arguments) in prototypes.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class EngineTokenizer:
    """One tokenizer of the engine. Threads may share it; the interpreter lock is released while a text is encoded.

    Args:
        library: of `edgekit.utils.engine.library`.
        data: the content of a GGUF file (its beginning up to the tensors is enough) or of a TokenMonster `.vocab` file;
            bytes, or a mapped file.
        bare: a `.vocab` file as TokenMonster's own library reads it: no ids for BOS and EOS, and special tokens that a
            text may become.
        compact: TokenMonster in a thirtieth of the memory, and slower.

    Attributes:
        kind: TOKENMONSTER, SENTENCEPIECE or BYTE_BPE. vocab_size: ids are below it. capcode: TokenMonster's level.
        bos, eos: ids or None. add_bos: whether a text begins with `bos`.

    Raises:
        VocabularyError: damaged, or of a kind that the engine does not have.
    """

    def __init__(
        self, library: ctypes.CDLL, data: bytes | mmap.mmap, *, bare: bool = False, compact: bool = False
    ) -> None:
        self._library = _declared(library)
        self._data = data
        error, size, handle = Error(), ctypes.c_size_t(), ctypes.c_void_p()
        options, start = _BARE * bare | _COMPACT * compact, address(data)
        status = library.ek_tokenizer_size(start, len(data), options, ctypes.byref(size), ctypes.byref(error))
        if status == 0:
            self._memory = block(size.value)
            memory = address(self._memory)
            status = library.ek_tokenizer_open(
                start, len(data), options, memory, size.value, ctypes.byref(handle), ctypes.byref(error)
            )
        if status:
            raise VocabularyError(error.text.decode("utf-8", "replace"))
        self._handle = handle
        info = library.ek_tokenizer_describe(handle).contents
        self.kind, self.vocab_size, self.capcode = info.kind, info.vocabulary, info.capcode
        self.bos = info.bos if info.bos >= 0 else None
        self.eos = info.eos if info.eos >= 0 else None
        self.add_bos = bool(info.add_bos)
        self._longest = info.longest

    def encode(self, text: str | bytes, *, specials: bool = False) -> list[int]:
        """Ids of a text, without BOS. Raises `UnicodeEncodeError` for lone surrogates in a `str`; bytes may be any.

        With `specials` the spelling of a special token becomes its id.
        """
        ids, count = self._ids(text, _PARSE_SPECIALS if specials else 0)
        return ids[:count]

    def encode_array(self, text: str | bytes) -> memoryview:
        """`encode`, as the bytes of uint32 numbers: `np.frombuffer(..., np.uint32)`."""
        ids, count = self._ids(text, 0)
        return memoryview(ids).cast("B")[: 4 * count]

    def _ids(self, text: str | bytes, flags: int) -> tuple[Any, int]:
        """An array that begins with the ids, and their number."""
        data = text.encode() if isinstance(text, str) else bytes(text)
        if len(data) > _MOST_TEXT:
            raise EdgekitError(f"a text of {len(data)} bytes; at most {_MOST_TEXT} are encoded at once")
        work_size = self._library.ek_encode_size(self._handle, len(data))
        work = ctypes.create_string_buffer(work_size) if work_size else None
        capacity = len(data) // 2 + 16
        while True:
            ids = (ctypes.c_uint32 * capacity)()
            count = self._library.ek_encode(self._handle, data, len(data), flags, ids, capacity, work, work_size)
            if count <= capacity:
                return ids, count
            capacity = count

    def type(self, id: int) -> int:
        """Bits of an id: 0 for text, or SPECIAL, STOP and PADDING, which print nothing."""
        return int(self._library.ek_token_type(self._handle, id))

    def piece(self, id: int) -> bytes:
        """The bytes that an id adds in the middle of a text, before TokenMonster's capcode is undone."""
        out = ctypes.create_string_buffer(self._longest)
        size = self._library.ek_piece(self._handle, id, out, self._longest)
        return out.raw[:size]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of a sequence of ids, possibly ill-formed UTF-8."""
        decoder = EngineDecoder(self)
        return b"".join([decoder.feed(id) for id in ids]) + decoder.flush()

    def decoder(self) -> "EngineDecoder":
        return EngineDecoder(self)


class EngineDecoder:
    """Turns ids into bytes as they come, whole characters; all pieces and `flush` joined are the whole."""

    def __init__(self, tokenizer: EngineTokenizer) -> None:
        self._tokenizer, self._library = tokenizer, tokenizer._library
        self._state = _Decoder()
        self._out = ctypes.create_string_buffer(tokenizer._longest)
        self._library.ek_decoder_start(ctypes.byref(self._state), tokenizer._handle)

    def feed(self, id: int) -> bytes:
        """The bytes that are certain after this id."""
        size = self._library.ek_decoder_feed(ctypes.byref(self._state), id, self._out)
        return self._out.raw[:size]

    @property
    def pending(self) -> bytes:
        """The bytes of an unfinished character, before those that capcode holds back."""
        return bytes(self._state.pending[: self._state.pending_count])

    def flush(self) -> bytes:
        """The bytes of an unfinished character; the decoder starts over."""
        size = self._library.ek_decoder_flush(ctypes.byref(self._state), self._out)
        return self._out.raw[:size]
