"""TokenMonster's choice of tokens, in plain Python: from a normalised byte stream to ids.

At each step the longest match, and two shorter ones that the vocabulary names, are each scored together with the
longest match that would come next, with and without an inserted "delete marker, space" before that one. A score is a
part that depends on the first token alone, and a part that depends on the second, on two flags of the first and on
the follow class of the byte after both; sixteen numbers, so they are summed beforehand. The rules and constants
are the reference library's. `edgekit.training.fast_tokenizer` is the same, compiled.
"""

import functools
import itertools
from collections.abc import Sequence

from edgekit.tokenizers.tokenmonster.vocab_file import (
    BEGINS_LETTER,
    BEGINS_MARKER,
    BEGINS_SPACE,
    ENDS_LETTER,
    ENDS_MARKER,
    NONE,
    UNIFORM,
    WHOLE_WORD,
    Record,
)

__all__ = ["Matcher", "class_indexes"]

_CLASS_INDEX = {1: 1, 10: 2, 12: 3}
_LETTER, _SPACE = 1, 3
_WORST = -(1 << 30)


# An id that may be chosen where a token matched: (id, bytes of text taken, kind, score as the first of two), where
# kind is 4 * (ends in a letter + 2 * ends on a marker).
_Choice = tuple[int, int, int, int]

# A record, ready for the loop. Plain tuples: CPython unpacks them several times faster than named ones.
#   0 id
#   1 length in bytes
#   2 one whole word: a space after it decides for this token
#   3 score as the second of two, by kind of the first + class of the byte after
#   4 the same if its leading space is virtual, that is, not in the text
#   5 joinable: if the text continues inside a word after it, a virtual space before it may be better
#   6 itself and its alternatives, unchanged and with their leading space virtual
_Token = tuple[int, int, bool, tuple[int, ...], tuple[int, ...], bool, tuple[tuple[_Choice, ...], tuple[_Choice, ...]]]


@functools.cache
def _scores(length: int, flags: int, words: int) -> tuple[bool, tuple[int, ...], tuple[int, ...], bool, int, int, int]:
    """Everything that depends only on a record's shape: 2, 3, 4 and 5 above, its kind, and its scores as the first."""
    uniform = bool(flags & UNIFORM)
    common = length + uniform + max(0, words - 1) + 100 * words
    second, virtual = [], []
    for kind, after in itertools.product(range(4), range(4)):
        score = common + (after == _SPACE) + 100 * (after > _LETTER)
        score -= 3 * bool(flags & ENDS_LETTER and after == _LETTER)
        score -= 100 * bool(kind & 2 and flags & BEGINS_MARKER)
        second.append(score + bool(flags & BEGINS_SPACE) - 103 * bool(kind & 1 and flags & BEGINS_LETTER))
        virtual.append(score - 2 - 103 * (kind & 1))
    kind = 4 * bool(flags & ENDS_LETTER) + 8 * bool(flags & ENDS_MARKER)
    carried = length - 1 + uniform + max(0, words - 2) + 100 * (words - 1)
    joinable = bool(flags & BEGINS_LETTER) and not words
    return bool(flags & WHOLE_WORD), tuple(second), tuple(virtual), joinable, kind, common, carried


# The tokens that can begin with four bytes: for each fifth byte the lengths of the longer tokens, longest first; the
# best match within the four; and the same two with a space before them.
_Lengths = tuple[int, ...]
_Start = tuple[dict[int, _Lengths], _Token | None, _Lengths, _Token | None]


class _Starts(dict[bytes, _Start]):
    """Filled as texts are encoded; bounded, since a hostile text may contain anything."""

    def __init__(self, tokens: dict[bytes, _Token]) -> None:
        super().__init__()
        self._tokens = tokens
        self._longer: dict[bytes, dict[int, _Lengths]] = {}
        for token in sorted(tokens, key=len, reverse=True):
            if len(token) > 4:
                by_fifth = self._longer.setdefault(token[:4], {})
                lengths = by_fifth.get(token[4], ())
                if len(token) not in lengths:
                    by_fifth[token[4]] = (*lengths, len(token))

    def _best(self, start: bytes) -> _Token | None:
        matches = (self._tokens.get(start[:length]) for length in range(len(start), 0, -1))
        return next((token for token in matches if token is not None), None)

    def __missing__(self, start: bytes) -> _Start:
        spaced = b" " + start
        lengths = self._longer.get(spaced[:4], {}).get(spaced[4], ()) if len(start) == 4 else ()
        lengths = tuple(length for length in lengths if length > 5)
        entry = self._longer.get(start, {}), self._best(start), lengths, self._best(spaced)
        if len(self) >= 1 << 18:
            self.clear()
        self[start] = entry
        return entry


def class_indexes(follow: bytes) -> bytes:
    """Follow classes as 0 undecided, 1 letter, 2 other, 3 space."""
    return bytes(_CLASS_INDEX.get(kind, 0) for kind in follow)


class Matcher:
    """The encoder of one vocabulary.

    Args:
        records: sorted by (length, bytes).
        follow: the follow class of each byte value, 256 bytes.
        unk: the id of a byte without a token, or NONE.
        delete_token: the id of the delete marker, or NONE.
    """

    def __init__(self, records: Sequence[Record], follow: bytes, unk: int, delete_token: int) -> None:
        self._unk, self._delete = unk, delete_token
        self._classes = class_indexes(follow)
        self._tokens: dict[bytes, _Token] = {}
        plain: list[_Choice] = []
        carried: list[_Choice] = []
        for token, flags, words, alt1, alt2, id, _score in records:
            length = len(token)
            whole, second, virtual, joinable, kind, first, carried_first = _scores(length, flags, words)
            plain.append((id, length, kind, first))
            carried.append((id, length - 1, kind, carried_first))
            choices: tuple[tuple[_Choice, ...], tuple[_Choice, ...]]
            if alt1 == NONE:
                choices = (plain[-1],), (carried[-1],)
            elif alt2 == NONE:
                choices = (plain[-1], plain[alt1]), (carried[-1], carried[alt1])
            else:
                choices = (plain[-1], plain[alt1], plain[alt2]), (carried[-1], carried[alt1], carried[alt2])
            joinable = joinable and self._delete != NONE
            self._tokens[token] = id, length, whole, second, virtual, joinable, choices
        self._starts = _Starts(self._tokens)

    def encode(self, data: bytes) -> list[int]:
        tokens, starts, unk, delete = self._tokens.get, self._starts, self._unk, self._delete
        classes = data.translate(self._classes) + self._classes[:1]
        padded = data + b"\0\0\0\0\0"  # every byte has four after it; no token extends into them
        ids: list[int] = []
        add, size, place = ids.append, len(data), 0
        while place < size:
            longer, token, _, _ = starts[data[place : place + 4]]
            if longer:
                for length in longer.get(padded[place + 4], ()):
                    if (found := tokens(data[place : place + length])) is not None:
                        token = found
                        break
            if token is None:
                if unk != NONE:
                    add(unk)
                place += 1
                continue
            carry = 0  # 1 while the leading space of `token` is virtual
            while True:
                id, length, whole, _, _, _, choices = token
                end = place + length - carry
                if end == size or (whole and classes[end] == _SPACE):
                    add(id)
                    place = end
                    break
                best = best_virtual = _WORST
                for first, taken, kind, first_score in choices[carry]:
                    at = place + taken
                    longer, token, lengths, spaced = starts[data[at : at + 4]]
                    if longer:
                        for length in longer.get(padded[at + 4], ()):
                            if (found := tokens(data[at : at + length])) is not None:
                                token = found
                                break
                    if token is None:
                        continue
                    _, length, _, scores, _, joinable, _ = token
                    stop = at + length
                    after = classes[stop]
                    score = first_score + scores[kind + after]
                    if stop <= end:
                        score -= 100 if stop < end else 10000
                    if score > best:
                        best, best_first, best_at, best_token = score, first, at, token
                    if after != _LETTER or not joinable:
                        continue
                    # The next token would stop inside a word: look for a better one that begins with a space.
                    for longest in lengths:
                        if longest <= length + 1:
                            break
                        if (found := tokens(b" " + data[at : at + longest - 1])) is not None:
                            spaced = found
                            break
                    if spaced is None or spaced[1] <= length + 1:
                        continue
                    stop = at + spaced[1] - 1
                    score = first_score + spaced[4][kind + classes[stop]]
                    if stop <= end:
                        score -= 100 if stop < end else 10000
                    if score > best_virtual:
                        best_virtual, virtual_first, virtual_at, virtual_token = score, first, at, spaced
                if best == _WORST:
                    add(id)
                    place = end
                    break
                if best_virtual > best:
                    add(virtual_first)
                    add(delete)
                    place, token, carry = virtual_at, virtual_token, 1
                else:
                    add(best_first)
                    place, token, carry = best_at, best_token, 0
        return ids
