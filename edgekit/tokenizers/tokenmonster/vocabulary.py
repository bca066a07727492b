"""TokenMonster vocabularies: `.vocab` files read, checked and written; text to ids and back, at once or streamed.

Ids and text are exactly those of the reference library (github.com/alasdairforsythe/tokenmonster); how text is
normalised first is in capcode.py. This file, matcher.py, capcode.py, unicode13.py, errors.py and files.py need only
Python itself, so that they can be copied beside an exported checkpoint.

A token is stored as a *record*. A word-like token may have a second record, a duplicate: the same id (score -1),
its bytes led by the delete marker and a space, so that the encoder can swallow both in one step.
"""

import codecs
import functools
import itertools
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgekit.errors import VocabularyError
from edgekit.tokenizers.tokenmonster.capcode import Undo, normalize

__all__ = ["NONE", "Decoder", "Deleted", "Record", "Vocabulary"]

NONE = 0xFFFFFF
"""No such id or record."""

ENDS_LETTER, BEGINS_LETTER, BEGINS_SPACE, ENDS_MARKER, BEGINS_MARKER, WHOLE_WORD, SPECIAL, UNIFORM = (
    1 << bit for bit in range(8)
)
LONGEST = 40  # bytes in a record
CHARSETS = ("bytes", "UTF-8", "UTF-16")
MODES = ("unfiltered", "clean", "balanced", "consistent", "strict", "not trained")


class Record(NamedTuple):
    token: bytes
    """In normalised, capcoded form; 1 to 40 bytes."""
    flags: int
    words: int
    """Places where a space is directly followed by a letter or number."""
    alt1: int
    """Index of the record of a preferred shorter prefix, or NONE; alt2 the second such."""
    alt2: int
    id: int
    score: float
    """Share of the training text, at least 0; exactly -1.0 marks a duplicate."""


class Deleted(NamedTuple):
    """A token once removed, with the id it would come back with (or NONE)."""

    token: bytes
    id: int
    score: float


class Vocabulary:
    """One vocabulary; immutable by convention. Tables for encoding are made at the first `encode`.

    Attributes:
        capcode: 0 none, 1 delete marker only, 2 also capitals.
        charset, normalization, mode, reserve: the file's header bytes (normalization: flags of capcode.py).
        unk: the id each byte without a token gets, or NONE (such bytes vanish).
        delete_token: the id of the one-byte token equal to the delete marker, or NONE.
        records: list of Record, sorted by (length, bytes).
        follow: bytes of length 256, each byte value's follow class: 1 letter, 12 space, 10 other, 0 undecided.
        deleted: list of Deleted.
        size: ids in use, UNK included. table_size: ids run below it. maxlen: bytes of the longest record.
        special_ids: frozenset of ids flagged special; their spelling in a text is encoded to them.

    Raises:
        VocabularyError: the parts do not make a vocabulary; the message says which and why.
    """

    def __init__(
        self,
        *,
        capcode: int,
        charset: int,
        normalization: int,
        mode: int,
        reserve: int,
        unk: int,
        table_size: int,
        delete_token: int,
        records: list[Record],
        follow: bytes,
        deleted: Sequence[Deleted] = (),
        unused: bytes = b"\0\0\0",
        name: str = "vocabulary",
    ) -> None:
        self.name, self.capcode, self.charset, self.normalization = name, capcode, charset, normalization
        self.mode, self.reserve, self.unused = mode, reserve, unused
        self.unk, self.delete_token, self.table_size = unk, delete_token, table_size
        self.records, self.follow, self.deleted = records, follow, list(deleted)
        self.maxlen = len(records[-1].token) if records else 0
        self._pieces: dict[int, bytes] = {}  # what each id decodes to: its last record
        self._base: dict[int, bytes] = {}
        try:
            self._check()
        except _Wrong as wrong:
            raise VocabularyError(f"{name}: {wrong}") from None
        self.size = len(self._base) + (unk != NONE)
        self.special_ids = frozenset(record.id for record in records if record.flags & SPECIAL)

    # ---- files -----------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | Path) -> "Vocabulary":
        """Read a `.vocab` file. Raises `FileError`, or `VocabularyError` if it is damaged or foreign."""
        from edgekit.utils.files import read_bytes

        return cls.from_bytes(read_bytes(Path(path)), name=str(path))

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "vocabulary") -> "Vocabulary":
        """A vocabulary from the content of its file. Raises `VocabularyError`, its one line led by `name`."""
        try:
            parts = _parse(bytes(data))
        except _Wrong as wrong:
            raise VocabularyError(f"{name}: {wrong}") from None
        size, maxlen = parts.pop("size"), parts.pop("maxlen")
        self = cls(**parts, name=name)
        if self.maxlen != maxlen:
            raise VocabularyError(f"{name}: longest record is {self.maxlen} bytes, the header says {maxlen}")
        if self.size != size:
            raise VocabularyError(f"{name}: {self.size} ids are in use, the header says {size}")
        return self

    def to_bytes(self) -> bytes:
        """The content of the `.vocab` file; equals, byte for byte, what `from_bytes` was given."""
        out = [bytes([self.capcode, self.charset, self.normalization, self.mode, self.reserve]), self.unused]
        out += map(_u24, (self.unk, self.size, self.table_size, len(self.records), self.delete_token))
        out.append(bytes([self.maxlen]))
        for token, flags, words, alt1, alt2, id, score in self.records:
            out += [bytes([len(token)]), token, bytes([flags, words]), _u24(alt1), _u24(alt2), _u24(id), _f32(score)]
        out += [self.follow, _u24(len(self.deleted))]
        for token, id, score in self.deleted:
            out += [bytes([len(token)]), token, _u24(id), _f32(score)]
        return b"".join(out)

    def save(self, path: str | Path) -> None:
        """Write a `.vocab` file, whole or not at all. Raises `FileError`."""
        from edgekit.utils.files import write_bytes

        write_bytes(Path(path), self.to_bytes())

    def _check(self) -> None:
        records, table_size, pieces, base = self.records, self.table_size, self._pieces, self._base
        if self.capcode > 2:
            raise _Wrong(f"capcode level {self.capcode} (0, 1 or 2): not a TokenMonster vocabulary")
        if self.charset > 2:
            raise _Wrong(f"charset {self.charset} (0, 1 or 2): not a TokenMonster vocabulary")
        if len(self.follow) != 256 or len(self.unused) != 3:
            raise _Wrong("needs 256 follow classes and 3 unused bytes")
        previous, length = b"", 0
        for index, (token, _flags, words, alt1, alt2, id, score) in enumerate(records):
            if len(token) <= length and (len(token) < length or token <= previous):
                raise _Wrong(f"record {index} is out of order or comes twice")
            previous, length = token, len(token)
            # Scores outweigh these counts only while they are true; untrue ones could keep the encoder in place.
            if words and words > token.count(b" "):
                raise _Wrong(f"record {index} counts {words} words, more than it has spaces")
            if alt1 != NONE:
                for alt in (alt1, alt2):
                    if alt != NONE and (alt >= index or not token.startswith(records[alt].token)):
                        raise _Wrong(f"record {index} has alternative {alt}, which is not an earlier prefix of it")
            elif alt2 != NONE:
                raise _Wrong(f"record {index} has a second alternative but no first")
            if id >= table_size:
                raise _Wrong(f"record {index} has id {id}, the table size is {table_size}")
            pieces[id] = token
            if score >= 0:
                if id in base:
                    raise _Wrong(f"record {index} has id {id}, which another token has")
                base[id] = token
            elif score != -1.0:
                raise _Wrong(f"record {index} has score {score}")
        if length > LONGEST:
            raise _Wrong(f"the last record is {length} bytes long (at most {LONGEST})")
        self._check_ids()

    def _check_ids(self) -> None:
        marker = (b"", b"\x7f", b"D")[self.capcode]
        lead = marker + b" "
        for index, record in enumerate(self.records):
            if record.score == -1.0 and not (marker and record.token == lead + self._base.get(record.id, b"")):
                raise _Wrong(f"record {index} is marked as a duplicate of id {record.id}, but is none")
        for name, id in (("unknown", self.unk), ("delete", self.delete_token)):
            if id != NONE and id >= self.table_size:
                raise _Wrong(f"the {name} token has id {id}, the table size is {self.table_size}")
        if self.unk in self._base:
            raise _Wrong(f"the unknown token's id {self.unk} belongs to a token with bytes")
        if self.delete_token != NONE and (not marker or self._base.get(self.delete_token) != marker):
            raise _Wrong(f"the delete token {self.delete_token} is not the marker of capcode level {self.capcode}")
        for token, id, _score in self.deleted:
            if not 0 < len(token) <= LONGEST or id != NONE and id >= self.table_size:
                raise _Wrong(f"a deleted token has {len(token)} bytes and id {id}, the table size is {self.table_size}")
        others = [id for id in (self.unk, *(token.id for token in self.deleted)) if id != NONE]
        highest = max([*self._base, *others], default=-1)
        if self.table_size != highest + 1:
            raise _Wrong(f"the table size is {self.table_size}, the highest id {highest}")

    # ---- text to ids -----------------------------------------------------------------------------------------------

    def normalize(self, text: str | bytes) -> bytes:
        """The byte stream that tokens are matched in. Raises `UnicodeEncodeError` for lone surrogates in a `str`."""
        if self.charset == 2:
            raise VocabularyError(f"{self.name}: charset UTF-16 cannot be encoded or decoded (the reference cannot)")
        data = text.encode() if isinstance(text, str) else bytes(text)
        return normalize(data, self.normalization, self.capcode)

    def encode(self, text: str | bytes) -> list[int]:
        """Ids of a text. A `str` is UTF-8, strictly (`UnicodeEncodeError` for lone surrogates); bytes may be any.

        Bytes that no token covers give `unk` each, or nothing. A special token's spelling gives its id.
        """
        return self._encoder(self.normalize(text))

    @functools.cached_property
    def _encoder(self) -> Callable[[bytes], list[int]]:
        from edgekit.tokenizers.tokenmonster.matcher import Matcher

        return Matcher(self).encode

    # ---- ids to text -----------------------------------------------------------------------------------------------

    def piece(self, id: int) -> bytes:
        """The bytes an id adds to the stream before capcode is undone; for word-like tokens led by the delete marker
        and a space. `b""` for UNK and for ids that no token has."""
        return self._pieces.get(id, b"")

    def base_bytes(self, id: int) -> bytes:
        """A token's own bytes (no added marker), for listings and other formats; `b""` for UNK and unused ids."""
        return self._base.get(id, b"")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of a sequence of ids, possibly ill-formed UTF-8. Ids without a token add nothing."""
        undo = Undo(self.capcode)
        return undo.feed(b"".join(map(self._pieces.get, ids, itertools.repeat(b"")))) + undo.flush()

    def decode(self, ids: Iterable[int]) -> str:
        """The text of a sequence of ids; ill-formed UTF-8 shows as U+FFFD. NFD is not undone."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decoder(self) -> "Decoder":
        return Decoder(self)

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"Vocabulary({self.name!r}, size={self.size}, capcode={self.capcode})"


class Decoder:
    """Turns ids into text as they come: pieces and `flush` joined equal `Vocabulary.decode` of the whole.

    Held back: a delete marker or capital marker waiting for its character, and an unfinished UTF-8 character (at
    most 3 bytes). Use either the text methods or the bytes methods on one stream.
    """

    __slots__ = ("_held", "_pieces", "_undo")

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._pieces = vocabulary._pieces
        self._undo = Undo(vocabulary.capcode)
        self._held = b""

    def feed(self, token: int) -> str:
        """The text that is certain after this id; `""` while a character or a marker is unfinished."""
        data = self._held + self._undo.feed(self._pieces.get(token, b""))
        text, used = codecs.utf_8_decode(data, "replace", False)
        self._held = data[used:]
        return text

    def flush(self) -> str:
        """The text still held back, an unfinished character as U+FFFD; the decoder starts anew."""
        return self.flush_bytes().decode("utf-8", "replace")

    def feed_bytes(self, token: int) -> bytes:
        """As `feed`, in bytes: never ends inside a well-formed character."""
        data = self._held + self._undo.feed(self._pieces.get(token, b""))
        used = codecs.utf_8_decode(data, "replace", False)[1]
        self._held = data[used:]
        return data[:used]

    def flush_bytes(self) -> bytes:
        data, self._held = self._held + self._undo.flush(), b""
        return data

    @property
    def state(self) -> tuple[object, ...]:
        """Hashable; all that is pending. Decoders of one vocabulary with equal states answer alike from here on."""
        return self._held, *self._undo.state

    def copy(self) -> "Decoder":
        """An independent decoder in the same state, to try ids on."""
        other = object.__new__(Decoder)
        other._pieces, other._held, other._undo = self._pieces, self._held, self._undo.copy()
        return other


# ---- the file format -----------------------------------------------------------------------------------------------


class _Wrong(Exception):
    """What is wrong with a vocabulary; becomes a VocabularyError once the name is known."""


_AFTER_TOKEN = "BBHBHBHBf"  # flags, words, alt1, alt2, id (each 16 + 8 bits), score
_HEADER = 24


def _u24(number: int) -> bytes:
    return number.to_bytes(3, "little")


def _f32(number: float) -> bytes:
    return struct.pack("<f", number)


def _parse(data: bytes) -> dict[str, Any]:
    if len(data) < _HEADER:
        raise _Wrong(f"only {len(data)} bytes, too short for a TokenMonster vocabulary")
    unk, size, table_size, count, delete_token = (int.from_bytes(data[at : at + 3], "little") for at in range(8, 23, 3))
    if data[0] > 2 or data[1] > 2:
        raise _Wrong(f"capcode {data[0]} and charset {data[1]} (each 0, 1 or 2): not a TokenMonster vocabulary")
    place, width = _HEADER, struct.calcsize(f"<{_AFTER_TOKEN}")
    records: list[Record] = []
    make = functools.partial(tuple.__new__, Record)  # Record._make without its checks: twice as fast
    while len(records) < count:
        length = data[place] if place < len(data) else -1
        if length == 0 or length > LONGEST:
            raise _Wrong(f"record {len(records)} is {length} bytes long (1 to {LONGEST})")
        # Shorter ones come first, so there are few runs of one length, and struct goes through a run by itself.
        stride = 1 + length + width
        lengths = data[place : place + stride * (count - len(records)) : stride]
        run = min(len(lengths) - len(lengths.lstrip(lengths[:1])), (len(data) - place) // stride)
        if not run:
            raise _Wrong(f"ends inside record {len(records)} of {count}")
        fields = struct.iter_unpack(f"<x{length}s{_AFTER_TOKEN}", data[place : place + stride * run])
        records += [
            make((token, flags, words, a | a_high << 16, b | b_high << 16, id | id_high << 16, score))
            for token, flags, words, a, a_high, b, b_high, id, id_high, score in fields
        ]
        place += stride * run
    follow = data[place : place + 256]
    deleted, place = _parse_deleted(data, place + 256)
    if place != len(data):
        raise _Wrong(f"{len(data) - place} bytes too many at the end")
    return {
        "capcode": data[0], "charset": data[1], "normalization": data[2], "mode": data[3], "reserve": data[4],
        "unused": data[5:8], "unk": unk, "size": size, "table_size": table_size, "delete_token": delete_token,
        "maxlen": data[23], "records": records, "follow": follow, "deleted": deleted,
    }  # fmt: skip


def _parse_deleted(data: bytes, place: int) -> tuple[list[Deleted], int]:
    count = int.from_bytes(data[place : place + 3], "little")
    deleted: list[Deleted] = []
    place += 3
    for index in range(count):
        end = place + 1 + (data[place] if place < len(data) else 0)
        if end + 7 > len(data):
            raise _Wrong(f"ends inside deleted token {index} of {count}")
        score = struct.unpack_from("<f", data, end + 3)[0]
        deleted.append(Deleted(data[place + 1 : end], int.from_bytes(data[end : end + 3], "little"), score))
        place = end + 7
    if place > len(data):
        raise _Wrong("ends before the list of deleted tokens")
    return deleted, place
