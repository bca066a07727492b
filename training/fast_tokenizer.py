"""TokenMonster encoding for corpora, compiled with numba: the same ids as `Vocabulary.encode`, about ten times faster.

    from edgekit.training.fast_tokenizer import FastEncoder
    ids = FastEncoder(vocabulary).encode(text)          # numpy array, uint16 or uint32

Three stages over bytes: NFD (a scan; only the rare parts that NFD would change go through Python), capcode, and the
choice of tokens with a double-array trie. The rules are specified in edgekit/tokenizers/tokenmonster/capcode.py and
matcher.py; tests compare this file with them on arbitrary text and bytes.
"""

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.tokenizers.tokenmonster import vocabulary as tm
from edgekit.tokenizers.tokenmonster.capcode import NFD, QUOTEMARKS, incomplete_tail
from edgekit.tokenizers.tokenmonster.matcher import class_indexes
from edgekit.tokenizers.tokenmonster.unicode13 import is_inert, nfd, runs, simple_lower
from edgekit.tokenizers.tokenmonster.vocab_file import NONE
from edgekit.training._compiled import compiled
from edgekit.training._fast_matcher import ROW, build_trie, match, row

__all__ = ["FastEncoder"]

Bytes = NDArray[np.uint8]


class FastEncoder:
    """Encodes with one vocabulary. Creating it takes a fraction of a second, and the first text some seconds for
    compilation (cached on disk for later processes if possible). Threads may share it: the interpreter lock is
    released."""

    def __init__(self, vocabulary: tm.Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.dtype = np.dtype(np.uint16 if vocabulary.table_size <= 1 << 16 else np.uint32)
        records = vocabulary.records
        order = sorted(range(len(records)), key=lambda index: records[index].token)
        tokens = [records[index].token for index in order]
        ends = np.cumsum([0, *map(len, tokens)], dtype=np.int64)
        joined = np.frombuffer(b"".join(tokens) + b"\0", np.uint8)
        self._trie = build_trie(joined, ends, np.array(order, np.int32))
        self._records = np.array([row(record) for record in records] or [(0,) * ROW], np.int32).ravel()
        self._classes = np.frombuffer(class_indexes(vocabulary.follow), np.uint8)
        self._unk = -1 if vocabulary.unk == NONE else vocabulary.unk
        self._delete = -1 if vocabulary.delete_token == NONE else vocabulary.delete_token

    def encode(self, text: str | bytes) -> NDArray[Any]:
        """Ids of a text, (n,), uint16 if the table size allows it, else uint32; equal to `Vocabulary.encode`."""
        return self.encode_stream(self.normalize(text))

    def encode_stream(self, stream: Bytes) -> NDArray[Any]:
        """`encode` for the result of `normalize`: a corpus can be normalized once and encoded often."""
        ids, count = match(stream, self._trie, self._records, self._classes, self._unk, self._delete)
        return ids[:count].astype(self.dtype)

    def encode_batch(self, texts: Iterable[str | bytes]) -> list[NDArray[Any]]:
        """One array of ids per text."""
        return [self.encode(text) for text in texts]

    def normalize(self, text: str | bytes) -> Bytes:
        """The byte stream that tokens are matched in, uint8 (n,); equal to `Vocabulary.normalize`."""
        vocabulary = self.vocabulary
        if vocabulary.normalization & ~(NFD | QUOTEMARKS) or vocabulary.charset == 2:
            return np.frombuffer(bytearray(vocabulary.normalize(text)), np.uint8)
        data = text.encode() if isinstance(text, str) else bytes(text)
        if vocabulary.normalization & QUOTEMARKS:
            for curly, straight in ((b"\x98", b"'"), (b"\x99", b"'"), (b"\x9c", b'"'), (b"\x9d", b'"')):
                data = data.replace(b"\xe2\x80" + curly, straight)
        if vocabulary.normalization & NFD and not data.isascii():
            data = _nfd_bytes(data)
        stream_in = np.frombuffer(data, np.uint8)
        if vocabulary.capcode == 0:
            return stream_in.copy()
        if vocabulary.capcode == 1:
            stream, count = _mark_words(stream_in, _unicode_tables()[0])
        else:
            stream, count = _mark_capitals(stream_in, *_unicode_tables())
        return stream[:count]


# ---- normalization -------------------------------------------------------------------------------------------------

_U, _L, _T, _N, _M, _A, _S = (1 << bit for bit in range(7))
_KINDS = {"u": _U, "l": _L, "t": _T, "n": _N, "m": _M, "s": _M, "o": 0, "-": 0}
_LETTER = _U | _L | _T
_GLUED = _LETTER | _A | _M
_NFD_UNSTABLE = 128  # NFD may change this character or move it


@functools.cache
def _unicode_tables() -> tuple[Bytes, NDArray[np.int32]]:
    """By code point: its kind (bits above), and the distance to its simple lowercase (0 except for Lu)."""
    starts, classes = runs()
    lengths = np.diff([*starts, 0x110000])
    kinds = np.repeat(np.array([_KINDS[each] for each in classes], np.uint8), lengths)
    lower = np.zeros(0x110000, np.int32)
    for start, length, kind in zip(starts, lengths.tolist(), classes, strict=True):
        if start < 0x80 or kind == "-" or (kind == "o" and length > 4096):  # (private use)
            continue
        for point in range(start, start + length):
            if not is_inert(chr(point)):
                kinds[point] |= _NFD_UNSTABLE
    for point in np.flatnonzero(kinds & _U).tolist():
        lower[point] = ord(simple_lower(chr(point))) - point
    kinds[ord(" ")] = _S
    kinds[[ord("'"), 0x2019]] = _A
    return kinds, lower


def _nfd_bytes(data: bytes) -> bytes:
    tail = incomplete_tail(data)
    head = data[: len(data) - tail]
    spans = _unstable_spans(np.frombuffer(head, np.uint8), _unicode_tables()[0])
    pieces, place = [], 0
    for start, end in spans.tolist():
        pieces += [head[place:start], (_nfd_short if end - start <= 32 else _nfd_piece)(head[start:end])]
        place = end
    return b"".join([*pieces, data[place:]])


def _nfd_piece(piece: bytes) -> bytes:
    return nfd(piece.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


_nfd_short = functools.lru_cache(maxsize=1 << 14)(_nfd_piece)


@compiled
def _code_point(data, place):
    """The code point at `place` and its length in bytes; (-1, 1) for an ill-formed byte."""
    lead, left = data[place], data.size - place
    if lead < 0x80:
        return np.int32(lead), 1
    if lead < 0xC2 or lead > 0xF4 or left < 2:
        return np.int32(-1), 1
    second = data[place + 1]
    if lead < 0xE0:
        if second & 0xC0 != 0x80:
            return np.int32(-1), 1
        return np.int32((lead & 0x1F) << 6 | second & 0x3F), 2
    low = 0xA0 if lead == 0xE0 else 0x90 if lead == 0xF0 else 0x80
    high = 0x9F if lead == 0xED else 0x8F if lead == 0xF4 else 0xBF
    if second < low or second > high or left < 3 or data[place + 2] & 0xC0 != 0x80:
        return np.int32(-1), 1
    if lead < 0xF0:
        return np.int32((lead & 0x0F) << 12 | (second & 0x3F) << 6 | data[place + 2] & 0x3F), 3
    if left < 4 or data[place + 3] & 0xC0 != 0x80:
        return np.int32(-1), 1
    point = (lead & 7) << 18 | (second & 0x3F) << 12 | (data[place + 2] & 0x3F) << 6 | data[place + 3] & 0x3F
    return np.int32(point), 4


@compiled
def _unstable_spans(data, kinds):
    """Runs of non-ASCII bytes that NFD might change: int64 (n, 2), start and end."""
    spans = np.empty((16, 2), np.int64)
    count, place = 0, 0
    while place < data.size:
        if data[place] < 0x80:
            place += 1
            continue
        start, unstable = place, False
        while place < data.size and data[place] >= 0x80:
            point, length = _code_point(data, place)
            unstable |= point >= 0 and kinds[point] & 128 != 0
            place += length
        if unstable:
            if count == len(spans):
                grown = np.empty((2 * count, 2), np.int64)
                grown[:count] = spans
                spans = grown
            spans[count, 0], spans[count, 1] = start, place
            count += 1
    return spans[:count]


@compiled
def _mark_words(data, kinds):
    """Capcode level 1: the stream and its length."""
    out = np.empty(3 * data.size, np.uint8)
    size, place, earlier, previous = 0, 0, 0, 0
    while place < data.size:
        byte, length = data[place], 1
        if byte < 0x80:
            kind = int(kinds[byte])
        else:
            point, length = _code_point(data, place)
            kind = int(kinds[point]) if point >= 0 else 0
        if kind & _LETTER:
            marked = previous & (_S | _LETTER | _M) == 0 and not (previous & _A and earlier & _LETTER)
        else:
            marked = kind & _N != 0 and previous & (_S | _N) == 0
        if marked:
            out[size], out[size + 1] = 0x7F, 0x20
            size += 2
        out[size] = byte if byte != 0x7F else 0x14
        for extra in range(1, length):
            out[size + extra] = data[place + extra]
        size += length
        place += length
        earlier, previous = previous, kind
    return out, size


@compiled
def _put(out, size, point):
    """Append a code point as UTF-8; the new size."""
    if point < 0x80:
        out[size] = point
        return size + 1
    if point < 0x800:
        out[size], out[size + 1] = 0xC0 | point >> 6, 0x80 | point & 0x3F
        return size + 2
    if point < 0x10000:
        out[size], out[size + 1], out[size + 2] = 0xE0 | point >> 12, 0x80 | point >> 6 & 0x3F, 0x80 | point & 0x3F
        return size + 3
    out[size], out[size + 1] = 0xF0 | point >> 18, 0x80 | point >> 12 & 0x3F
    out[size + 2], out[size + 3] = 0x80 | point >> 6 & 0x3F, 0x80 | point & 0x3F
    return size + 4


@compiled
def _mark_capitals(data, kinds, lower):
    """Capcode level 2: the stream and its length. A run of capitals is read to its end before any of it is
    written, since what follows it decides between C and W."""
    out = np.empty(4 * data.size + 4, np.uint8)
    size, place, earlier, previous = 0, 0, 0, 0
    run_end, single, after_run = 0, False, False
    while place < data.size:
        point, length = _code_point(data, place)
        kind = int(kinds[point]) & 127 if point >= 0 else 0
        marker = 0  # D, C (for DC) or W (for DW)
        if place < run_end:
            if kind & _U:
                if single and kinds[point + lower[point]] & _L:
                    marker = 67
                elif previous & _GLUED == 0:
                    marker = 68
            elif kind & _N and previous & _N == 0:
                marker = 68
        elif kind & _U:
            run_end = place
            while run_end < data.size:
                ahead, width = _code_point(data, run_end)
                if ahead < 0 or kinds[ahead] & (_U | _N | _A | _M) == 0:
                    break
                run_end += width
            single = False
            if run_end < data.size:
                ahead, width = _code_point(data, run_end)
                single = ahead >= 0 and kinds[ahead] & _L != 0
            marker = 67 if single else 87
            if previous & _S:
                out[size - 1] = marker  # before the space already written
                out[size] = 0x20
                size += 1
                marker = 0
        elif kind & _L:
            if after_run:
                marker = 0 if previous & _GLUED else 68
            elif previous & (_S | _L | _M) == 0 and not (previous & _A and earlier & _LETTER):
                marker = 68
        elif kind & _N and previous & (_S | _N) == 0:
            marker = 68
        if marker:
            out[size] = 68
            size += 1
            if marker != 68:
                out[size] = marker
                size += 1
            out[size] = 0x20
            size += 1
        if kind & _U:
            size = _put(out, size, point + lower[point])
        else:
            for extra in range(length):
                out[size + extra] = data[place + extra]
            size += length
        place += length
        after_run = place == run_end
        earlier, previous = previous, kind
    return out, size
