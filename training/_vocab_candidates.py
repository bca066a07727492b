"""Count the substrings of a corpus that may become tokens.

Windows are counted by length: a window of n bytes is counted only if its first n - 1 bytes are frequent and could still
become a token (see _vocab_modes.py). Each length is one pass over the remaining places; all lengths together take about
a second per megabyte.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.tokenizers.tokenmonster.vocab_file import LONGEST
from edgekit.training._compiled import compiled
from edgekit.training._vocab_modes import judge
from edgekit.training.vocab_build import kinds_of

__all__ = ["count_candidates"]


def count_candidates(
    streams: list[NDArray[np.uint8]],
    weights: NDArray[np.float32],
    *,
    mode: str,
    level: int,
    one_word: bool = False,
    minimum: float,
    progress: Callable[[Iterable[Any], str, int], Iterator[Any]],
) -> dict[bytes, float]:
    """Substrings of 2 to 40 bytes that `mode` allows at a capcode level, with their weighted number of occurrences.

    Args:
        streams: normalized documents, uint8 (n,) each.
        weights: of the documents, float32 (documents,).
        minimum: windows with a lower weight are left out, as are all that start with them.
    """
    used = np.flatnonzero(sum(np.bincount(stream, minlength=256) for stream in streams))
    width = len(used) + 1  # one more code, for the end of a document
    codes, weight_at = _codes(streams, weights, used)
    letters = np.array([*(_begins_letter(byte, level) for byte in used.tolist()), False])
    place = np.flatnonzero(codes != len(used)).astype(np.int32)
    group = np.zeros(place.size, np.int32)  # index in `windows` of the one at each place
    windows = [b""]
    allowed: list[tuple[int, float, bool]] = []  # windows that may be tokens: index, weight, also before a letter?
    candidates: dict[bytes, float] = {}
    for length in progress(range(1, LONGEST + 2), "counting substrings", LONGEST + 1):
        counts = _count(codes, place, group, length, width, weight_at, len(windows))
        before_letter = counts.reshape(len(windows), width)[:, letters].sum(1)
        for index, weight, anywhere in allowed:
            count = weight if anywhere else weight - before_letter[index]
            if count >= minimum and length > 2:
                candidates[windows[index]] = float(count)
        if length > LONGEST or not place.size:
            continue
        renamed = np.full(counts.size, -1, np.int32)
        longer: list[bytes] = []
        allowed = []
        for key in np.flatnonzero(counts >= minimum).tolist():
            if key % width == len(used):
                continue
            window = windows[key // width] + bytes((int(used[key % width]),))
            verdict = judge(window, mode, level, one_word)
            if verdict.accepted:
                allowed.append((len(longer), float(counts[key]), verdict.before_letter))
            if verdict.accepted or verdict.extendable:
                renamed[key] = len(longer)
                longer.append(window)
        size = _advance(codes, place, group, length, width, renamed)
        place, group, windows = place[:size], group[:size], longer
    return candidates


def _codes(
    streams: list[NDArray[np.uint8]], weights: NDArray[np.float32], used: NDArray[Any]
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """The corpus as small codes with a gap (the last code) after each document, and the weight at each place."""
    code_of = np.zeros(256, np.int16)
    code_of[used] = np.arange(len(used))
    size = sum(stream.size + 1 for stream in streams)
    codes, weight_at, place = np.full(size, len(used), np.int16), np.zeros(size, np.float32), 0
    for stream, weight in zip(streams, weights, strict=True):
        codes[place : place + stream.size] = code_of[stream]
        weight_at[place : place + stream.size] = weight
        place += stream.size + 1
    return codes, weight_at


def _begins_letter(byte: int, level: int) -> bool:
    """Whether a character that starts with this byte is a letter or mark (beyond ASCII: nearly always)."""
    if byte < 0x80:
        return kinds_of(bytes((byte,)), level)[0] == "L"
    return 0xC3 <= byte <= 0xEF and byte != 0xE2


@compiled
def _count(codes, place, group, length, width, weight_at, groups):  # type: ignore[no-untyped-def]
    """Weight of each window of `length` bytes: float32 (groups * width,), by its start's group and its last code."""
    counts = np.zeros(groups * width, np.float32)
    for each in range(place.size):
        counts[group[each] * width + codes[place[each] + length - 1]] += weight_at[place[each]]
    return counts


@compiled
def _advance(codes, place, group, length, width, renamed):  # type: ignore[no-untyped-def]
    """Drop, in place, the places of dropped windows; returns how many remain."""
    size = 0
    for each in range(place.size):
        new = renamed[group[each] * width + codes[place[each] + length - 1]]
        if new >= 0:
            place[size], group[size] = place[each], new
            size += 1
    return size
