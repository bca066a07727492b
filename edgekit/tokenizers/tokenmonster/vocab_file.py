"""The `.vocab` file format of TokenMonster: records, flags, and the parser.

A token is stored as a *record*. A word-like token may have a second record, a duplicate: the same id (score -1),
its bytes preceded by the delete marker and a space, so that the encoder takes both in one step.
"""

import functools
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

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
    """A removed token, with the id that it would get back (or NONE)."""

    token: bytes
    id: int
    score: float


class InvalidVocab(Exception):
    """What is wrong with a vocabulary; becomes a `VocabularyError` once its name is known."""


_AFTER_TOKEN = "BBHBHBHBf"  # flags, words, alt1, alt2, id (each 16 + 8 bits), score
_AFTER_BYTES = struct.calcsize(f"<{_AFTER_TOKEN}")


_HEADER = 24


def u24(number: int) -> bytes:
    return number.to_bytes(3, "little")


def f32(number: float) -> bytes:
    return struct.pack("<f", number)


def header(data: bytes) -> dict[str, int]:
    """The fields before the records, by `Vocabulary`'s names."""
    if len(data) < _HEADER:
        raise InvalidVocab(f"only {len(data)} bytes, too short for a TokenMonster vocabulary")
    if data[0] > 2 or data[1] > 2:
        raise InvalidVocab(f"capcode {data[0]} and charset {data[1]} (each 0, 1 or 2): not a TokenMonster vocabulary")
    unk, size, table_size, _, delete_token = (int.from_bytes(data[at : at + 3], "little") for at in range(8, 23, 3))
    return {
        "capcode": data[0], "charset": data[1], "normalization": data[2], "mode": data[3], "reserve": data[4],
        "unk": unk, "size": size, "table_size": table_size, "delete_token": delete_token, "maxlen": data[23],
    }  # fmt: skip


def _runs(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The records of one length each, joined, and that length. They are sorted by length, so there are few."""
    count, done, place = int.from_bytes(data[17:20], "little"), 0, _HEADER
    while done < count:
        length = data[place] if place < len(data) else -1
        if length == 0 or length > LONGEST:
            raise InvalidVocab(f"record {done} is {length} bytes long (1 to {LONGEST})")
        stride = 1 + length + _AFTER_BYTES
        lengths = data[place : place + stride * (count - done) : stride]
        run = min(len(lengths) - len(lengths.lstrip(lengths[:1])), (len(data) - place) // stride)
        if not run:
            raise InvalidVocab(f"ends inside record {done} of {count}")
        yield length, data[place : place + stride * run]
        place, done = place + stride * run, done + run


def any_special(data: bytes) -> bool:
    """Whether a record is flagged special."""
    header(data)
    return any(
        flags & SPECIAL
        for length, records in _runs(data)
        for flags in set(records[1 + length :: 1 + length + _AFTER_BYTES])
    )


def parse(data: bytes) -> dict[str, Any]:
    fields = header(data)
    place, records = _HEADER, []
    make = functools.partial(tuple.__new__, Record)  # Record._make without its checks: twice as fast
    for length, run in _runs(data):
        records += [
            make((token, flags, words, a | a_high << 16, b | b_high << 16, id | id_high << 16, score))
            for token, flags, words, a, a_high, b, b_high, id, id_high, score in struct.iter_unpack(
                f"<x{length}s{_AFTER_TOKEN}", run
            )
        ]
        place += len(run)
    follow = data[place : place + 256]
    deleted, place = _parse_deleted(data, place + 256)
    if place != len(data):
        raise InvalidVocab(f"{len(data) - place} bytes too many at the end")
    return fields | {"unused": data[5:8], "records": records, "follow": follow, "deleted": deleted}


def _parse_deleted(data: bytes, place: int) -> tuple[list[Deleted], int]:
    count = int.from_bytes(data[place : place + 3], "little")
    deleted: list[Deleted] = []
    place += 3
    for index in range(count):
        end = place + 1 + (data[place] if place < len(data) else 0)
        if end + 7 > len(data):
            raise InvalidVocab(f"ends inside deleted token {index} of {count}")
        score = struct.unpack_from("<f", data, end + 3)[0]
        deleted.append(Deleted(data[place + 1 : end], int.from_bytes(data[end : end + 3], "little"), score))
        place = end + 7
    if place > len(data):
        raise InvalidVocab("ends before the list of deleted tokens")
    return deleted, place
