"""Statistics of the tokens of a tokenized corpus, compiled: uses, adjacent pairs, and the cost of a token's absence.

A *work* is a book, article or story; a piece of the corpus is part of one.
"""

import numpy as np
from numpy.typing import NDArray

from edgekit.training._compiled import compiled

__all__ = ["compare", "pairs", "spans", "uses"]


@compiled
def uses(ids, ends, weights, works, tokens):  # type: ignore[no-untyped-def]
    """Weighted uses of each token in all, and in the work that uses it most: float64 (tokens,) each.

    ids: (n,). ends: where each piece ends in `ids`; weights, works: of each piece, works ascending.
    """
    total, most, here = np.zeros(tokens), np.zeros(tokens), np.zeros(tokens)
    seen_in = np.full(tokens, -1, np.int64)
    start = 0
    for piece in range(ends.size):
        for place in range(start, ends[piece]):
            token = ids[place]
            if seen_in[token] != works[piece]:
                seen_in[token], here[token] = works[piece], 0
            here[token] += weights[piece]
            total[token] += weights[piece]
            most[token] = max(most[token], here[token])
        start = ends[piece]
    return total, most


def pairs(
    ids: NDArray[np.int32], ends: NDArray[np.int64], weights: NDArray[np.float32], works: NDArray[np.int64], tokens: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Adjacent tokens within a piece: (pair, weighted occurrences, those in the work with most), each (pairs,).
    A pair is first * tokens + second. Arguments as for `uses`."""
    piece = np.repeat(np.arange(ends.size, dtype=np.int32), np.diff(ends, prepend=0))
    inside = np.flatnonzero(piece[:-1] == piece[1:])
    keys = ids[inside].astype(np.int64) * tokens + ids[inside + 1]
    order = np.argsort(keys, kind="stable")
    return _runs(keys[order], piece[inside[order]], weights, works)


@compiled
def _runs(keys, piece, weights, works):  # type: ignore[no-untyped-def]
    distinct = np.empty(keys.size, np.int64)
    total, most = np.empty(keys.size), np.empty(keys.size)
    count, place = 0, 0
    while place < keys.size:
        key, work = keys[place], -1
        in_all, here, best = 0.0, 0.0, 0.0
        while place < keys.size and keys[place] == key:
            if works[piece[place]] != work:
                work, here = works[piece[place]], 0.0
            here += weights[piece[place]]
            in_all += weights[piece[place]]
            best = max(best, here)
            place += 1
        distinct[count], total[count], most[count] = key, in_all, best
        count += 1
    return distinct[:count], total[:count], most[:count]


@compiled
def spans(stream, ids, lengths, firsts, delete, marker, out):  # type: ignore[no-untyped-def]
    """How many bytes of the stream each token of one piece stands for, into `out`: uint8 (n,). A delete token before
    a virtual space stands for none, and that space is not counted.

    lengths, firsts: bytes and first byte of each token, (tokens,). delete, marker: id and byte of the delete token,
    or -1.
    """
    place, virtual = 0, False
    for each in range(ids.size):
        token = ids[each]
        taken = lengths[token]
        if token == delete:
            virtual = place >= stream.size or stream[place] != marker
            taken = 0 if virtual else 1
        elif virtual:
            taken, virtual = taken - 1, False
        elif delete >= 0 and firsts[token] != marker and stream[place] == marker:
            taken += 2  # a duplicate, which includes marker and space
        out[each] = taken
        place += taken


@compiled
def compare(  # type: ignore[no-untyped-def]
    ids, ends, widths, other_ends, other_widths, absent, weights, works, total, most, here, seen_in
):
    """Compare the same pieces tokenized with and without some tokens: between two places where both have a token
    boundary, the additional tokens are charged to the absent ones used there.

    ids, ends, widths: with them: the ids, where each piece ends, the bytes of each (`spans`).
    other_ends, other_widths: without them. absent: bool (tokens,). weights, works: as for `uses`.
    total, most: float64 (tokens,), added to: the weighted cost, and that in the work where it is highest.
    here: float64 (tokens,), seen_in: int64 (tokens,): working memory, zeros and -1 at first.
    """
    start, other_start = 0, 0
    for piece in range(ends.size):
        at, other_at, place, other_place = start, other_start, 0, 0
        while at < ends[piece]:
            begin, other_begin, used = at, other_at, 0
            moved = False
            while not moved or place != other_place:
                if place <= other_place and at < ends[piece]:
                    used += absent[ids[at]]
                    moved |= widths[at] > 0  # a delete token belongs to the token after it
                    place += widths[at]
                    at += 1
                elif other_at < other_ends[piece]:
                    other_place += other_widths[other_at]
                    other_at += 1
                else:
                    break
            additional = (other_at - other_begin) - (at - begin)
            if used and additional:
                share = additional / used * weights[piece]
                for each in range(begin, at):
                    token = ids[each]
                    if absent[token]:
                        if seen_in[token] != works[piece]:
                            seen_in[token], here[token] = works[piece], 0
                        here[token] += share
                        total[token] += share
                        most[token] = max(most[token], here[token])
        start, other_start = ends[piece], other_ends[piece]
