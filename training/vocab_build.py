"""Build a TokenMonster vocabulary from bare tokens: this file computes flags, word counts, alternatives, duplicates,
follow classes, ids and header.

    tokens, settings = take_apart(vocabulary)
    assert build(tokens, **settings).to_bytes() == vocabulary.to_bytes()

The rules are those of the reference library (github.com/alasdairforsythe/tokenmonster); each published vocabulary is
rebuilt from its bare tokens byte for byte. Two terms: a *kind* is the class of a character, one letter (see
`kinds_of`); a *shape* is everything that follows from a token's bytes alone, so that a trainer that builds hundreds of
vocabularies from one pool computes it once per token.
"""

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from edgekit.errors import VocabularyError
from edgekit.tokenizers.tokenmonster import vocabulary as tm
from edgekit.tokenizers.tokenmonster.unicode13 import CLASS
from edgekit.tokenizers.tokenmonster.vocab_file import (
    BEGINS_LETTER,
    BEGINS_MARKER,
    BEGINS_SPACE,
    ENDS_LETTER,
    ENDS_MARKER,
    LONGEST,
    NONE,
    SPECIAL,
    UNIFORM,
    WHOLE_WORD,
    Deleted,
    Record,
)

__all__ = ["MARKERS", "Builder", "Token", "build", "take_apart"]

MARKERS = (b"", b"\x7f", b"D")
"""The delete marker of each capcode level."""


class Token(NamedTuple):
    token: bytes
    """In normalized, capcoded form; 1 to 40 bytes."""
    id: int | None = None
    """None: the lowest free one."""
    score: float = 0.0
    """Share of the training text; 0 if unknown."""
    special: bool = False


class Shape(NamedTuple):
    """Everything that follows from a token's bytes alone."""

    flags: int
    words: int
    begins: int
    """Column of the follow-class table: 0 space, 1 letter, 2 number, 3 anything else."""
    cuts: tuple[int, ...]
    """Lengths of the prefixes that may be its alternatives, the preferred ones first."""


# ---- the shape of a token ------------------------------------------------------------------------------------------

# Kinds: S space, B other White_Space, L letter or mark, N number, M capcode marker, U underscore, O anything else.
# Ill-formed bytes and missing characters are O. Only ASCII has a table, with the markers of the level in it.
_BLANKS = "\t\n\x0b\x0c\r\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_KIND_OF_CLASS = {**dict.fromkeys("ultms", "L"), "n": "N", "o": "O", "-": "O"}


def _kind(char: str) -> str:
    if char in _BLANKS:
        return "B"
    return {" ": "S", "_": "U"}.get(char) or _KIND_OF_CLASS[CLASS[char]]


@functools.cache
def _ascii_kinds(level: int) -> bytes:
    table = "".join([_kind(chr(byte)) for byte in range(128)]) + "O" * 128
    for marker in ("", "\x7f", "CDW")[level]:
        table = table[: ord(marker)] + "M" + table[ord(marker) + 1 :]
    return table.encode()


def kinds_of(token: bytes, level: int) -> tuple[str, Sequence[int]]:
    """The kind of each character, and the byte offset of each (and of the end)."""
    if token.isascii():
        return token.translate(_ascii_kinds(level)).decode(), range(len(token) + 1)
    ascii_kinds = _ascii_kinds(level).decode()
    kinds, places = [], [0]
    for char in token.decode("utf-8", "surrogateescape"):
        kinds.append(ascii_kinds[ord(char)] if char < "\x80" else _kind(char))
        places.append(places[-1] + len(char.encode("utf-8", "surrogateescape")))
    return "".join(kinds), places


_WORD_START = re.compile("S(?=[LN])")
_LETTERS_ONLY = re.compile("[SL]L[SL]*")
_NUMBERS_ONLY = re.compile("[SN]N[SN]*")
_NEITHER = re.compile("[^LN]+")
_ONE_WORD = re.compile("SL+")


def _flags(kinds: str, length: int, token: bytes, level: int) -> int:
    first, last = kinds[0], kinds[-1]
    flags = ENDS_LETTER * (last == "L") | BEGINS_LETTER * (first == "L")
    flags |= BEGINS_SPACE * (first == "S" or (level == 2 and token[:1] in (b"C", b"W")))
    flags |= ENDS_MARKER * (last == "M") | BEGINS_MARKER * (first == "M")
    flags |= WHOLE_WORD * (_ONE_WORD.fullmatch(kinds) is not None)
    if length == 1 or any(kind.fullmatch(kinds) for kind in (_LETTERS_ONLY, _NUMBERS_ONLY, _NEITHER)):
        flags |= UNIFORM
    return flags


def _rank(before: str, after: str, next: str, level: int) -> int:
    """How good a cut between two characters is; `next` is the character after `after`, "" at the end."""
    wordlike_before, wordlike_after = before in "LU", after in "LU"
    if after == "S" and next in ("L", "N"):
        return 10
    if level == 0 and ((wordlike_after and not wordlike_before) or (after == "N" and before != "N")):
        return 9
    if (wordlike_before and not wordlike_after) or (before == "N" and after != "N"):
        return 9
    if before in "SB" and after not in "SB":
        return 7
    if before not in "SB" and after in "SB":
        return 8
    return 9 if after == "M" else 1


def shape(token: bytes, level: int) -> Shape:
    """The shape of a token that is not special, at a capcode level."""
    kinds, places = kinds_of(token, level)
    words = len(_WORD_START.findall(kinds))
    # A token of several words is never cut down to its leading space.
    shortest = 2 if words >= 2 and kinds[0] == "S" and kinds[1] in "LN" else 1
    ranks = {places[at]: _rank(kinds[at - 1], kinds[at], kinds[at + 1 : at + 2], level) for at in range(1, len(kinds))}
    # A cut inside a character has an ill-formed byte on both sides: rank 1.
    cuts = sorted(range(shortest, len(token)), key=lambda cut: (ranks.get(cut, 1), cut), reverse=True)
    begins = {"S": 0, "L": 1, "N": 2}.get(kinds[0], 3)
    return Shape(_flags(kinds, len(token), token, level), words, begins, tuple(cuts))


# ---- the whole vocabulary ------------------------------------------------------------------------------------------

_FOLLOW = (12, 1, 0, 10)  # class of a byte by the column that wins; numbers win nothing


def _order(token: bytes) -> tuple[int, bytes]:
    return len(token), token


class Builder:
    """Builds vocabularies at one capcode level and caches the shapes of tokens."""

    def __init__(self, capcode: int) -> None:
        self.capcode, self.marker = capcode, MARKERS[capcode]
        self._shapes: dict[bytes, Shape] = {}

    def shape(self, token: bytes) -> Shape:
        if token not in self._shapes:
            self._shapes[token] = shape(token, self.capcode)
        return self._shapes[token]

    def build(
        self,
        tokens: Iterable[Token],
        *,
        charset: int = 1,
        normalization: int = 1,
        mode: int = 5,
        reserve: int = 0,
        unk: int | Literal["new"] = NONE,
        deleted: Iterable[Deleted] = (),
        follow: bytes = bytes(256),
        unused: bytes = b"\0\0\0",
        name: str = "vocabulary",
    ) -> tm.Vocabulary:
        """A complete `Vocabulary`.

        Args:
            tokens: in any order, each once. Tokens without an id take the lowest free ones in (length, bytes) order.
            unk: an id, NONE for no unknown token, or "new" for the number of tokens (if free, else the lowest free).
            deleted: recorded in the file; other tokens do not get their ids.
            follow: follow classes of the vocabulary that this one modifies, for bytes that the tokens do not decide.
            charset, normalization, mode, reserve, unused: bytes of the file's header, as in `Vocabulary`.

        Raises:
            VocabularyError: a token occurs twice, is not 1 to 40 bytes long, or is the marker, a space and another
                token (a duplicate record has these bytes); two tokens have the same id.
        """
        base = sorted(tokens, key=lambda each: _order(each.token))
        gone = sorted(deleted, key=lambda each: _order(each.token))
        records = self._records(base, name)
        ids, unk = _assign(base, gone, unk, name)
        highest = max([-1, *ids, *(each.id for each in gone if each.id != NONE), *([unk] if unk != NONE else [])])
        finished = self._finish(records, base, ids)
        id_of = dict(zip((each.token for each in base), ids, strict=True))
        return tm.Vocabulary(
            capcode=self.capcode,
            charset=charset,
            normalization=normalization,
            mode=mode,
            reserve=reserve,
            unk=unk,
            table_size=highest + 1,
            delete_token=id_of.get(self.marker, NONE) if self.marker else NONE,
            records=finished,
            follow=self._follow(finished, follow),
            deleted=gone,
            unused=unused,
            name=name,
        )

    def _records(self, base: list[Token], name: str) -> list[tuple[bytes, int, bool]]:
        """(bytes, index of the base token, whether it is a duplicate), in file order."""
        for each in (*base[:1], *base[-1:]):  # the shortest and the longest
            if not 0 < len(each.token) <= LONGEST:
                raise VocabularyError(f"{name}: token {each.token!r} is {len(each.token)} bytes long (1 to {LONGEST})")
        records = [(each.token, index, False) for index, each in enumerate(base)]
        if self.capcode:
            lead = self.marker + b" "
            for index, each in enumerate(base):
                if len(each.token) <= LONGEST - 2 and self.shape(each.token).begins in (1, 2):
                    records.append((lead + each.token, index, True))
            records.sort(key=lambda record: _order(record[0]))
        for (token, _, _), (next, _, _) in zip(records, records[1:], strict=False):
            if token == next:
                raise VocabularyError(f"{name}: token {token!r} occurs twice, or is marker, space and another token")
        return records

    def _finish(self, records: list[tuple[bytes, int, bool]], base: list[Token], ids: list[int]) -> list[Record]:
        index_of = {token: index for index, (token, _, _) in enumerate(records)}
        finished = []
        for token, of, duplicate in records:
            score = -1.0 if duplicate else base[of].score
            if base[of].special:
                finished.append(Record(token, SPECIAL, 0, NONE, NONE, ids[of], score))
                continue
            flags, words, _, cuts = self.shape(token)
            alternatives = []
            for cut in cuts:
                if (alternative := index_of.get(token[:cut])) is not None:
                    alternatives.append(alternative)
                    if len(alternatives) == 2:
                        break
            alt1, alt2 = (*alternatives, NONE, NONE)[:2]
            finished.append(Record(token, flags, words, alt1, alt2, ids[of], score))
        return finished

    def _follow(self, records: list[Record], previous: bytes) -> bytes:
        counts = [[0, 0, 0, 0] for _ in range(256)]
        for record in records:
            if not record.flags & SPECIAL:
                counts[record.token[0]][self.shape(record.token).begins] += 1
        follow = bytearray(previous)
        for byte, columns in enumerate(counts):
            most = max(columns)
            if most > 2 and columns.count(most) == 1 and (decided := _FOLLOW[columns.index(most)]):
                follow[byte] = decided
        return bytes(follow)


def _assign(base: list[Token], gone: list[Deleted], unk: int | str, name: str) -> tuple[list[int], int]:
    """The id of each token, and of UNK."""
    taken = {each.id for each in base if each.id is not None}
    if len(taken) != sum(each.id is not None for each in base):
        raise VocabularyError(f"{name}: two tokens have the same id")
    reserved = taken | {each.id for each in gone if each.id != NONE} | ({unk} if isinstance(unk, int) else set())
    free = (id for id in range(NONE) if id not in reserved)
    ids = [next(free) if each.id is None else each.id for each in base]
    if isinstance(unk, int):
        return ids, unk
    return ids, len(base) if len(base) not in reserved.union(ids) else next(free)


def build(tokens: Iterable[Token], *, capcode: int, **settings: Any) -> tm.Vocabulary:
    """`Builder(capcode).build(tokens, **settings)`, for one vocabulary."""
    if capcode not in (0, 1, 2):
        raise VocabularyError(f"capcode level {capcode} (0, 1 or 2)")
    return Builder(capcode).build(tokens, **settings)


def take_apart(vocabulary: tm.Vocabulary) -> tuple[list[Token], dict[str, Any]]:
    """A vocabulary's bare tokens, and the keywords with which `build` makes the same vocabulary from them."""
    tokens = [
        Token(record.token, record.id, record.score, bool(record.flags & SPECIAL))
        for record in vocabulary.records
        if record.score != -1.0
    ]
    settings = {
        "capcode": vocabulary.capcode,
        "charset": vocabulary.charset,
        "normalization": vocabulary.normalization,
        "mode": vocabulary.mode,
        "reserve": vocabulary.reserve,
        "unk": vocabulary.unk,
        "deleted": list(vocabulary.deleted),
        "follow": vocabulary.follow,
        "unused": vocabulary.unused,
        "name": vocabulary.name,
    }
    return tokens, settings
