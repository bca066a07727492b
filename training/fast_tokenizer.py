"""TokenMonster encoding for corpora, compiled with numba: the same ids as `Vocabulary.encode`, some ten times faster.

    from edgekit.training.fast_tokenizer import FastEncoder
    ids = FastEncoder(vocabulary).encode(text)          # numpy array, uint16 or uint32

Three stages over bytes: NFD (a scan; only the rare stretches that it would change go through Python), capcode, and
the choice of tokens over a double-array trie. The rules are said once, in edgekit/capcode.py and edgekit/matcher.py;
this file follows them, and the tests hold the two together on arbitrary text and bytes.
"""

import functools
from collections.abc import Iterable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from edgekit import tokenmonster as tm
from edgekit.capcode import NFD, QUOTEMARKS, incomplete_tail
from edgekit.matcher import class_indexes
from edgekit.unicode13 import is_inert, nfd, runs, simple_lower

__all__ = ["FastEncoder"]

Bytes = NDArray[np.uint8]


def _compiled(function: Any) -> Any:
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder that a compiled form can be kept in: compile in each process
        return numba.njit(nogil=True)(function)


class FastEncoder:
    """Encodes with one vocabulary. Making one costs a fraction of a second, its first text a few for compilation
    (kept on disk for later processes where possible). Threads may share it; the interpreter lock is released."""

    def __init__(self, vocabulary: tm.Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.dtype = np.dtype(np.uint16 if vocabulary.table_size <= 1 << 16 else np.uint32)
        records = vocabulary.records
        order = sorted(range(len(records)), key=lambda index: records[index].token)
        tokens = [records[index].token for index in order]
        ends = np.cumsum([0, *map(len, tokens)], dtype=np.int64)
        joined = np.frombuffer(b"".join(tokens) + b"\0", np.uint8)
        self._trie = _build_trie(joined, ends, np.array(order, np.int32))
        self._records = np.array([_row(record) for record in records] or [(0,) * _ROW], np.int32).ravel()
        self._classes = np.frombuffer(class_indexes(vocabulary.follow), np.uint8)
        self._unk = -1 if vocabulary.unk == tm.NONE else vocabulary.unk
        self._delete = -1 if vocabulary.delete_token == tm.NONE else vocabulary.delete_token

    def encode(self, text: str | bytes) -> NDArray[Any]:
        """Ids of a text, (n,), uint16 if the table size allows it, else uint32; equal to `Vocabulary.encode`."""
        stream = self._normalize(text)
        ids, count = _match(stream, self._trie, self._records, self._classes, self._unk, self._delete)
        return ids[:count].astype(self.dtype)

    def encode_batch(self, texts: Iterable[str | bytes]) -> list[NDArray[Any]]:
        """One array of ids per text."""
        return [self.encode(text) for text in texts]

    def _normalize(self, text: str | bytes) -> Bytes:
        vocabulary = self.vocabulary
        if vocabulary.normalization & ~(NFD | QUOTEMARKS) or vocabulary.charset == 2:
            return np.frombuffer(bytearray(vocabulary.normalize(text)), np.uint8)
        data = text.encode() if isinstance(text, str) else bytes(text)
        if vocabulary.normalization & QUOTEMARKS:
            for curly, straight in ((b"\x98", b"'"), (b"\x99", b"'"), (b"\x9c", b'"'), (b"\x9d", b'"')):
                data = data.replace(b"\xe2\x80" + curly, straight)
        if vocabulary.normalization & NFD and not data.isascii():
            data = _nfd_bytes(data)
        given = np.frombuffer(data, np.uint8)
        if vocabulary.capcode == 0:
            return given.copy()
        if vocabulary.capcode == 1:
            stream, count = _mark_words(given, _unicode_tables()[0])
        else:
            stream, count = _mark_capitals(given, *_unicode_tables())
        return stream[:count]


# ---- normalisation -------------------------------------------------------------------------------------------------

_U, _L, _T, _N, _M, _A, _S = (1 << bit for bit in range(7))
_KINDS = {"u": _U, "l": _L, "t": _T, "n": _N, "m": _M, "s": _M, "o": 0, "-": 0}
_LETTER = _U | _L | _T
_GLUED = _LETTER | _A | _M
_RESTLESS = 128  # NFD may change this character or move it


@functools.cache
def _unicode_tables() -> tuple[Bytes, NDArray[np.int32]]:
    """By code point: its kind (bits above), and its distance to its simple lowercase (0 but for Lu)."""
    starts, classes = runs()
    lengths = np.diff([*starts, 0x110000])
    kinds = np.repeat(np.array([_KINDS[each] for each in classes], np.uint8), lengths)
    lower = np.zeros(0x110000, np.int32)
    for start, length, kind in zip(starts, lengths.tolist(), classes, strict=True):
        if start < 0x80 or kind == "-" or (kind == "o" and length > 4096):  # (private use)
            continue
        for point in range(start, start + length):
            if not is_inert(chr(point)):
                kinds[point] |= _RESTLESS
    for point in np.flatnonzero(kinds & _U).tolist():
        lower[point] = ord(simple_lower(chr(point))) - point
    kinds[ord(" ")] = _S
    kinds[[ord("'"), 0x2019]] = _A
    return kinds, lower


def _nfd_bytes(data: bytes) -> bytes:
    tail = incomplete_tail(data)
    head = data[: len(data) - tail]
    spans = _restless_spans(np.frombuffer(head, np.uint8), _unicode_tables()[0])
    pieces, place = [], 0
    for start, end in spans.tolist():
        pieces += [head[place:start], (_nfd_short if end - start <= 32 else _nfd_piece)(head[start:end])]
        place = end
    return b"".join([*pieces, data[place:]])


def _nfd_piece(piece: bytes) -> bytes:
    return nfd(piece.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


_nfd_short = functools.lru_cache(maxsize=1 << 14)(_nfd_piece)


@_compiled
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


@_compiled
def _restless_spans(data, kinds):
    """Runs of non-ASCII bytes that NFD might change: int64 (n, 2), start and end."""
    spans = np.empty((16, 2), np.int64)
    count, place = 0, 0
    while place < data.size:
        if data[place] < 0x80:
            place += 1
            continue
        start, restless = place, False
        while place < data.size and data[place] >= 0x80:
            point, length = _code_point(data, place)
            restless |= point >= 0 and kinds[point] & 128 != 0
            place += length
        if restless:
            if count == len(spans):
                grown = np.empty((2 * count, 2), np.int64)
                grown[:count] = spans
                spans = grown
            spans[count, 0], spans[count, 1] = start, place
            count += 1
    return spans[:count]


@_compiled
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


@_compiled
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


@_compiled
def _mark_capitals(data, kinds, lower):
    """Capcode level 2: the stream and its length. A run of capitals is looked through to its end before any of it
    is written, since what follows it decides between C and W."""
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


# ---- the choice of tokens ------------------------------------------------------------------------------------------

_ROW = 8  # id, length, flags, words, alt1, alt2, score as first, score as second
_SLOT = 4  # where the children begin, the parent, the longest record on the way here, unused


def _row(record: tm.Record) -> tuple[int, ...]:
    token, flags, words, alt1, alt2, id, _score = record
    first = len(token) + bool(flags & tm.UNIFORM) + max(0, words - 1) + 100 * words
    second = first + bool(flags & tm.BEGINS_SPACE)
    return id, len(token), flags, words, *(-1 if alt == tm.NONE else alt for alt in (alt1, alt2)), first, second


@_compiled
def _build_trie(joined, ends, order):
    """A double-array trie over tokens sorted by their bytes: the child of slot s by byte c is t = start[s] + c if
    parent[t] == s. Flat int32, _SLOT numbers a slot, 256 spare slots at the end; slot 0 is the root.

    joined: all tokens' bytes. ends: int64 (n + 1,), token i is joined[ends[i]:ends[i + 1]]. order: its record.
    """
    count = ends.size - 1
    room = 1024 + 2 * joined.size
    start, parent = np.zeros(room, np.int32), np.full(room, -1, np.int32)
    best = np.full(room, -1, np.int32)
    waiting = np.empty((joined.size + 1, 4), np.int64)  # slot, first token, end of tokens, depth
    waiting[0, 0], waiting[0, 1], waiting[0, 2], waiting[0, 3] = 0, 0, count, 0
    left, hint, highest = 1, 1, 0
    keys = np.empty(256, np.int64)
    firsts = np.empty(257, np.int64)
    while left:
        left -= 1
        slot, low, high, depth = waiting[left, 0], waiting[left, 1], waiting[left, 2], waiting[left, 3]
        if low < high and ends[low + 1] - ends[low] == depth:
            best[slot] = order[low]
            low += 1
        children = 0
        for token in range(low, high):
            byte = joined[ends[token] + depth]
            if children == 0 or keys[children - 1] != byte:
                keys[children], firsts[children] = byte, token
                children += 1
        firsts[children] = high
        if children == 0:
            continue
        # The first place where all children fit. Nearly full stretches are not searched again.
        place, seen, full = max(hint, keys[0] + 1), 0, 0
        while True:
            while place + 256 >= start.size:
                bigger = np.zeros(2 * start.size, np.int32)
                bigger[: start.size] = start
                start = bigger
                wider = np.full(start.size, -1, np.int32)
                wider[: parent.size] = parent
                parent = wider
                longer = np.full(start.size, -1, np.int32)
                longer[: best.size] = best
                best = longer
            seen += 1
            if parent[place] >= 0:
                full += 1
                place += 1
                continue
            fits = True
            for child in range(1, children):
                if parent[place - keys[0] + keys[child]] >= 0:
                    fits = False
                    break
            if fits:
                break
            place += 1
        if seen > 64 and full * 10 > seen * 9:
            hint = place
        start[slot] = place - keys[0]
        for child in range(children):
            at = start[slot] + keys[child]
            parent[at] = slot
            best[at] = best[slot]
            highest = max(highest, at)
            waiting[left, 0], waiting[left, 1] = at, firsts[child]
            waiting[left, 2], waiting[left, 3] = firsts[child + 1], depth + 1
            left += 1
    trie = np.full((highest + 257) * _SLOT, -1, np.int32)
    for slot in range(highest + 1):
        trie[slot * _SLOT], trie[slot * _SLOT + 1], trie[slot * _SLOT + 2] = start[slot], parent[slot], best[slot]
    return trie


@_compiled
def _longest(trie, slot, data, place):
    """The longest record from a slot on, or -1."""
    while place < data.size:
        child = trie[slot * _SLOT] + data[place]
        if trie[child * _SLOT + 1] != slot:
            break
        slot = child
        place += 1
    return trie[slot * _SLOT + 2]


@_compiled
def _match(data, trie, records, classes, unk, delete):
    """Ids and their number; the rules of edgekit/matcher.py."""
    ids = np.empty(data.size // 3 + 16, np.uint32)
    count, place, size = 0, 0, data.size
    space = trie[0] + 0x20  # the slot after one space
    if trie[space * _SLOT + 1] != 0:
        space = -1
    while place < size:
        token = _longest(trie, 0, data, place)
        if token < 0:
            if unk >= 0:
                if count + 2 > ids.size:
                    ids = np.concatenate((ids, np.empty(ids.size, np.uint32)))
                ids[count] = unk
                count += 1
            place += 1
            continue
        carry = 0
        while True:
            if count + 2 > ids.size:
                ids = np.concatenate((ids, np.empty(ids.size, np.uint32)))
            row = token * _ROW
            end = place + records[row + 1] - carry
            if end == size or (records[row + 2] & tm.WHOLE_WORD and classes[data[end]] == 3):
                ids[count] = records[row]
                count += 1
                place = end
                break
            best, virtual = -(1 << 30), -(1 << 30)
            best_first, best_at, best_token = 0, 0, 0
            virtual_first, virtual_at, virtual_token = 0, 0, 0
            for choice in range(3):
                first = token if choice == 0 else records[row + 3 + choice]
                if first < 0:
                    break
                taken = records[first * _ROW + 1] - carry
                at = place + taken
                next = _longest(trie, 0, data, at)
                if next < 0:
                    continue
                flags = records[first * _ROW + 2]
                words = records[first * _ROW + 3]
                first_score = records[first * _ROW + 6]
                if carry:
                    first_score -= 102 if words > 1 else 101
                next_flags = records[next * _ROW + 2]
                stop = at + records[next * _ROW + 1]
                after = classes[data[stop]] if stop < size else classes[0]
                score = first_score + records[next * _ROW + 7]
                if after > 1:
                    score += 101 if after == 3 else 100
                if flags & tm.ENDS_LETTER and next_flags & tm.BEGINS_LETTER:
                    score -= 103
                if flags & tm.ENDS_MARKER and next_flags & tm.BEGINS_MARKER:
                    score -= 100
                if after == 1 and next_flags & tm.ENDS_LETTER:
                    score -= 3
                if stop <= end:
                    score -= 100 if stop < end else 10000
                if score > best:
                    best, best_first, best_at, best_token = score, first, at, next
                joinable = delete >= 0 and next_flags & tm.BEGINS_LETTER and records[next * _ROW + 3] == 0
                if after != 1 or not joinable or space < 0:
                    continue
                spaced = _longest(trie, space, data, at)
                if spaced < 0 or at + records[spaced * _ROW + 1] - 1 <= stop:
                    continue
                next_flags = records[spaced * _ROW + 2]
                stop = at + records[spaced * _ROW + 1] - 1
                after = classes[data[stop]] if stop < size else classes[0]
                score = first_score + records[spaced * _ROW + 6] - 2
                if after > 1:
                    score += 101 if after == 3 else 100
                if flags & tm.ENDS_LETTER:
                    score -= 103
                if flags & tm.ENDS_MARKER and next_flags & tm.BEGINS_MARKER:
                    score -= 100
                if after == 1 and next_flags & tm.ENDS_LETTER:
                    score -= 3
                if stop <= end:
                    score -= 100 if stop < end else 10000
                if score > virtual:
                    virtual, virtual_first, virtual_at, virtual_token = score, first, at, spaced
            if best == -(1 << 30):
                ids[count] = records[row]
                count += 1
                place = end
                break
            if virtual > best:
                ids[count], ids[count + 1] = records[virtual_first * _ROW], delete
                count += 2
                place, token, carry = virtual_at, virtual_token, 1
            else:
                ids[count] = records[best_first * _ROW]
                count += 1
                place, token, carry = best_at, best_token, 0
    return ids, count
