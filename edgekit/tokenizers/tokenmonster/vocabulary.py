"""TokenMonster vocabularies: checked, read and written; text to ids and back, at once or streamed.

Ids and text are exactly those of the reference library (github.com/alasdairforsythe/tokenmonster); capcode.py
normalises text first. This file and its imports need only Python itself, since they are copied next to exported
checkpoints.
"""

import codecs
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from edgekit.errors import VocabularyError
from edgekit.tokenizers.tokenmonster.capcode import Undo, normalize
from edgekit.tokenizers.tokenmonster.vocab_file import (
    LONGEST,
    NONE,
    SPECIAL,
    Deleted,
    InvalidVocab,
    Record,
    f32,
    parse,
    u24,
)

__all__ = ["NONE", "Decoder", "Deleted", "Record", "Vocabulary"]


class Vocabulary:
    """One vocabulary; immutable by convention. Tables for encoding are built at the first `encode`.

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
        VocabularyError: the parts are not a valid vocabulary; the message names the part and the reason.
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
        self._pieces: dict[int, bytes] = {}  # the bytes that each id decodes to: its last record's
        self._base: dict[int, bytes] = {}
        try:
            self._check()
        except InvalidVocab as wrong:
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
            parts = parse(bytes(data))
        except InvalidVocab as wrong:
            raise VocabularyError(f"{name}: {wrong}") from None
        size, maxlen = parts.pop("size"), parts.pop("maxlen")
        self = cls(**parts, name=name)
        if self.maxlen != maxlen:
            raise VocabularyError(f"{name}: longest record is {self.maxlen} bytes, the header says {maxlen}")
        if self.size != size:
            raise VocabularyError(f"{name}: {self.size} ids are in use, the header says {size}")
        return self

    def to_bytes(self) -> bytes:
        """The content of the `.vocab` file, byte for byte that given to `from_bytes`."""
        out = [bytes([self.capcode, self.charset, self.normalization, self.mode, self.reserve]), self.unused]
        out += map(u24, (self.unk, self.size, self.table_size, len(self.records), self.delete_token))
        out.append(bytes([self.maxlen]))
        for token, flags, words, alt1, alt2, id, score in self.records:
            out += [bytes([len(token)]), token, bytes([flags, words]), u24(alt1), u24(alt2), u24(id), f32(score)]
        out += [self.follow, u24(len(self.deleted))]
        for token, id, score in self.deleted:
            out += [bytes([len(token)]), token, u24(id), f32(score)]
        return b"".join(out)

    def save(self, path: str | Path) -> None:
        """Write a `.vocab` file, whole or not at all. Raises `FileError`."""
        from edgekit.utils.files import write_bytes

        write_bytes(Path(path), self.to_bytes())

    def _check(self) -> None:
        records, table_size, pieces, base = self.records, self.table_size, self._pieces, self._base
        if self.capcode > 2:
            raise InvalidVocab(f"capcode level {self.capcode} (0, 1 or 2): not a TokenMonster vocabulary")
        if self.charset > 2:
            raise InvalidVocab(f"charset {self.charset} (0, 1 or 2): not a TokenMonster vocabulary")
        if len(self.follow) != 256 or len(self.unused) != 3:
            raise InvalidVocab("needs 256 follow classes and 3 unused bytes")
        previous, length = b"", 0
        for index, (token, _flags, words, alt1, alt2, id, score) in enumerate(records):
            if len(token) <= length and (len(token) < length or token <= previous):
                raise InvalidVocab(f"record {index} is out of order or comes twice")
            previous, length = token, len(token)
            # Scores outweigh these counts only if they are correct; wrong ones could keep the encoder in place.
            if words and words > token.count(b" "):
                raise InvalidVocab(f"record {index} counts {words} words, more than it has spaces")
            if alt1 != NONE:
                for alt in (alt1, alt2):
                    if alt != NONE and (alt >= index or not token.startswith(records[alt].token)):
                        raise InvalidVocab(
                            f"record {index} has alternative {alt}, which is not an earlier prefix of it"
                        )
            elif alt2 != NONE:
                raise InvalidVocab(f"record {index} has a second alternative but no first")
            if id >= table_size:
                raise InvalidVocab(f"record {index} has id {id}, the table size is {table_size}")
            pieces[id] = token
            if score >= 0:
                if id in base:
                    raise InvalidVocab(f"record {index} has id {id}, which another token has")
                base[id] = token
            elif score != -1.0:
                raise InvalidVocab(f"record {index} has score {score}")
        if length > LONGEST:
            raise InvalidVocab(f"the last record is {length} bytes long (at most {LONGEST})")
        self._check_ids()

    def _check_ids(self) -> None:
        marker = (b"", b"\x7f", b"D")[self.capcode]
        lead = marker + b" "
        for index, record in enumerate(self.records):
            if record.score == -1.0 and not (marker and record.token == lead + self._base.get(record.id, b"")):
                raise InvalidVocab(f"record {index} is marked as a duplicate of id {record.id}, but is none")
        for name, id in (("unknown", self.unk), ("delete", self.delete_token)):
            if id != NONE and id >= self.table_size:
                raise InvalidVocab(f"the {name} token has id {id}, the table size is {self.table_size}")
        if self.unk in self._base:
            raise InvalidVocab(f"the unknown token's id {self.unk} belongs to a token with bytes")
        if self.delete_token != NONE and (not marker or self._base.get(self.delete_token) != marker):
            raise InvalidVocab(
                f"the delete token {self.delete_token} is not the marker of capcode level {self.capcode}"
            )
        for token, id, _score in self.deleted:
            if not 0 < len(token) <= LONGEST or id != NONE and id >= self.table_size:
                raise InvalidVocab(
                    f"a deleted token has {len(token)} bytes and id {id}, the table size is {self.table_size}"
                )
        others = [id for id in (self.unk, *(token.id for token in self.deleted)) if id != NONE]
        highest = max([*self._base, *others], default=-1)
        if self.table_size != highest + 1:
            raise InvalidVocab(f"the table size is {self.table_size}, the highest id {highest}")

    # ---- text to ids -----------------------------------------------------------------------------------------------

    def normalize(self, text: str | bytes) -> bytes:
        """The byte stream that tokens are matched in. Raises `UnicodeEncodeError` for lone surrogates in a `str`."""
        if self.charset == 2:
            raise VocabularyError(f"{self.name}: charset UTF-16 cannot be encoded or decoded (the reference cannot)")
        data = text.encode() if isinstance(text, str) else bytes(text)
        return normalize(data, self.normalization, self.capcode)

    def encode(self, text: str | bytes) -> list[int]:
        """Ids of a text. A `str` must be UTF-8 (`UnicodeEncodeError` for lone surrogates); bytes may be any.

        Each byte that no token covers gives `unk`, or nothing. A special token's spelling gives its id.
        """
        return self._encoder(self.normalize(text))

    @functools.cached_property
    def _encoder(self) -> Callable[[bytes], list[int]]:
        from edgekit.tokenizers.tokenmonster.matcher import Matcher

        return Matcher(self.records, self.follow, self.unk, self.delete_token).encode

    # ---- ids to text -----------------------------------------------------------------------------------------------

    def piece(self, id: int) -> bytes:
        """The bytes that an id adds to the stream before capcode is undone; word-like tokens begin with the delete
        marker and a space. `b""` for UNK and unused ids."""
        return self._pieces.get(id, b"")

    def base_bytes(self, id: int) -> bytes:
        """A token's bytes without an added marker, for listings and other formats; `b""` for UNK and unused ids."""
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

    Withheld: a delete marker or capital marker that waits for its character, and an unfinished UTF-8 character (at
    most 3 bytes). Use either the text methods or the bytes methods on one stream.
    """

    __slots__ = ("_pending", "_pieces", "_undo")

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._pieces = vocabulary._pieces
        self._undo = Undo(vocabulary.capcode)
        self._pending = b""

    def feed(self, token: int) -> str:
        """The text that is certain after this id; `""` while a character or a marker is unfinished."""
        data = self._pending + self._undo.feed(self._pieces.get(token, b""))
        text, used = codecs.utf_8_decode(data, "replace", False)
        self._pending = data[used:]
        return text

    def flush(self) -> str:
        """The text still withheld, an unfinished character as U+FFFD; the decoder starts over."""
        return self.flush_bytes().decode("utf-8", "replace")

    def feed_bytes(self, token: int) -> bytes:
        """As `feed`, in bytes: never ends inside a well-formed character."""
        data = self._pending + self._undo.feed(self._pieces.get(token, b""))
        used = codecs.utf_8_decode(data, "replace", False)[1]
        self._pending = data[used:]
        return data[:used]

    def flush_bytes(self) -> bytes:
        data, self._pending = self._pending + self._undo.flush(), b""
        return data

    @property
    def state(self) -> tuple[object, ...]:
        """Hashable; all that is pending. Decoders of one vocabulary with equal states continue alike."""
        return self._pending, *self._undo.state

    def copy(self) -> "Decoder":
        """An independent decoder in the same state, to try ids with."""
        other = object.__new__(Decoder)
        other._pieces, other._pending, other._undo = self._pieces, self._pending, self._undo.copy()
        return other
