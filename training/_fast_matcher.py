"""TokenMonster's choice of tokens, compiled: a double-array trie of the records, with the rules of
edgekit/tokenizers/tokenmonster/matcher.py."""

import numpy as np

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
from edgekit.training._compiled import compiled

ROW = 8  # id, length, flags, words, alt1, alt2, score as first, score as second
_SLOT = 4  # start of the children, parent, longest record on the path to here, unused


def row(record: Record) -> tuple[int, ...]:
    token, flags, words, alt1, alt2, id, _score = record
    first = len(token) + bool(flags & UNIFORM) + max(0, words - 1) + 100 * words
    second = first + bool(flags & BEGINS_SPACE)
    return id, len(token), flags, words, *(-1 if alt == NONE else alt for alt in (alt1, alt2)), first, second


@compiled
def build_trie(joined, ends, order):
    """A double-array trie over tokens sorted by their bytes: the child of slot s by byte c is t = start[s] + c if
    parent[t] == s. Flat int32, _SLOT numbers per slot, 256 spare slots at the end; slot 0 is the root.

    joined: all tokens' bytes. ends: int64 (n + 1,), token i is joined[ends[i]:ends[i + 1]]. order: its record.
    """
    count = ends.size - 1
    slots = 1024 + 2 * joined.size
    start, parent = np.zeros(slots, np.int32), np.full(slots, -1, np.int32)
    best = np.full(slots, -1, np.int32)
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
        # The first place where all children fit. Parts that are nearly full are not searched again.
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


@compiled
def longest(trie, slot, data, place):
    """The longest record that starts at a slot, or -1."""
    while place < data.size:
        child = trie[slot * _SLOT] + data[place]
        if trie[child * _SLOT + 1] != slot:
            break
        slot = child
        place += 1
    return trie[slot * _SLOT + 2]


@compiled
def match(data, trie, records, classes, unk, delete):
    """Ids and their number, by the rules of matcher.py."""
    ids = np.empty(data.size // 3 + 16, np.uint32)
    count, place, size = 0, 0, data.size
    space = trie[0] + 0x20  # the slot after one space
    if trie[space * _SLOT + 1] != 0:
        space = -1
    while place < size:
        token = longest(trie, 0, data, place)
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
            row = token * ROW
            end = place + records[row + 1] - carry
            if end == size or (records[row + 2] & WHOLE_WORD and classes[data[end]] == 3):
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
                taken = records[first * ROW + 1] - carry
                at = place + taken
                next = longest(trie, 0, data, at)
                if next < 0:
                    continue
                flags = records[first * ROW + 2]
                words = records[first * ROW + 3]
                first_score = records[first * ROW + 6]
                if carry:
                    first_score -= 102 if words > 1 else 101
                next_flags = records[next * ROW + 2]
                stop = at + records[next * ROW + 1]
                after = classes[data[stop]] if stop < size else classes[0]
                score = first_score + records[next * ROW + 7]
                if after > 1:
                    score += 101 if after == 3 else 100
                if flags & ENDS_LETTER and next_flags & BEGINS_LETTER:
                    score -= 103
                if flags & ENDS_MARKER and next_flags & BEGINS_MARKER:
                    score -= 100
                if after == 1 and next_flags & ENDS_LETTER:
                    score -= 3
                if stop <= end:
                    score -= 100 if stop < end else 10000
                if score > best:
                    best, best_first, best_at, best_token = score, first, at, next
                joinable = delete >= 0 and next_flags & BEGINS_LETTER and records[next * ROW + 3] == 0
                if after != 1 or not joinable or space < 0:
                    continue
                spaced = longest(trie, space, data, at)
                if spaced < 0 or at + records[spaced * ROW + 1] - 1 <= stop:
                    continue
                next_flags = records[spaced * ROW + 2]
                stop = at + records[spaced * ROW + 1] - 1
                after = classes[data[stop]] if stop < size else classes[0]
                score = first_score + records[spaced * ROW + 6] - 2
                if after > 1:
                    score += 101 if after == 3 else 100
                if flags & ENDS_LETTER:
                    score -= 103
                if flags & ENDS_MARKER and next_flags & BEGINS_MARKER:
                    score -= 100
                if after == 1 and next_flags & ENDS_LETTER:
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
                ids[count], ids[count + 1] = records[virtual_first * ROW], delete
                count += 2
                place, token, carry = virtual_at, virtual_token, 1
            else:
                ids[count] = records[best_first * ROW]
                count += 1
                place, token, carry = best_at, best_token, 0
    return ids, count
