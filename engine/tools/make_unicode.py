"""Write engine/unicode_tables.inc: categories, simple case, decompositions and combining classes, as small tables.

    python engine/tools/make_unicode.py > engine/unicode_tables.inc

Categories are those of the `regex` package (its Unicode is newer than 13.0), because byte-level BPE splits words by
them. TokenMonster needs Unicode 13.0 whatever the source has: letters, numbers and marks that were assigned later have
classes of their own, and case, decompositions and combining classes are those of 13.0.
"""

import itertools
import sys
import unicodedata
from collections.abc import Callable, Iterable

import regex

from edgekit.tokenizers.tokenmonster.unicode13 import CLASS, nonstarters, simple_lower, simple_upper

POINTS = range(0x110000)
BLOCK = 16
GROUP = 16  # blocks of one entry of the first table

# Class numbers as in unicode.h. The first pattern that matches decides.
CATEGORIES = [r"\p{Lu}", r"\p{Ll}", r"\p{Lt}", r"\p{L}", r"\p{N}", r"\p{Mn}", r"\p{M}", r"\p{P}", r"\s"]
IN_13 = "oulttnmsoo"
NEWER = {1: 10, 2: 11, 4: 12, 5: 13, 6: 14, 7: 15}
KINDS = {"u": 1, "l": 2, "t": 4, "n": 8, "m": 16, "s": 16}


def classes() -> list[int]:
    patterns = [regex.compile(pattern) for pattern in CATEGORIES]
    found = []
    for point in POINTS:
        char = chr(point)
        kind = next((i + 1 for i, pattern in enumerate(patterns) if pattern.match(char)), 0)
        newer = CLASS[char] == "-" and IN_13[kind] != "o"
        found.append(NEWER[kind] if newer else kind)
    return found


def numbers(kind: str, name: str, values: Iterable[int]) -> None:
    print(f"static const {kind} {name}[] = {{")
    line = "   "
    for value in values:
        text = f" {value},"
        if len(line) + len(text) > 119:
            print(line)
            line = "   "
        line += text
    print(line + "\n};\n")


def shared(sequences: Iterable[tuple[int, ...]]) -> tuple[list[int], list[int]]:
    """Indexes, and the different sequences one after another."""
    places: dict[tuple[int, ...], int] = {}
    indexes = [places.setdefault(each, len(places)) for each in sequences]
    return indexes, [value for each in places for value in each]


def write_classes(values: list[int]) -> None:
    last = max(point for point in range(0xE0000) if values[point])
    assert all(values[p] == 6 for p in range(0xE0100, 0xE01F0)) and not any(values[0xE01F0:]), "see unicode.c"
    end = -(-(last + 1) // (BLOCK * GROUP)) * BLOCK * GROUP
    blocks, data = shared(tuple(values[i : i + BLOCK]) for i in range(0, end, BLOCK))
    groups, middle = shared(tuple(blocks[i : i + GROUP]) for i in range(0, len(blocks), GROUP))
    print(f"#define UNICODE_END {end}u\n")
    assert max(groups) < 256
    numbers("uint8_t", "unicode_groups", groups)
    numbers("uint16_t", "unicode_blocks", middle)
    numbers("uint8_t", "unicode_classes", (a | b << 4 for a, b in zip(data[::2], data[1::2], strict=True)))


def write_kinds() -> None:
    """ASCII's kinds for capcode."""
    kinds = [KINDS.get(CLASS[chr(point)], 0) for point in range(128)]
    kinds[ord("'")], kinds[ord(" ")] = 32, 64
    numbers("uint8_t", "unicode_ascii", kinds)


def runs(values: dict[int, int], step: Callable[[int], int] = lambda value: value) -> list[tuple[int, int, int]]:
    """Neighbouring code points: first, count, value of the first; `step` gives the value expected next."""
    found: list[tuple[int, int, int]] = []
    expected = None
    for point, value in sorted(values.items()):
        if found and point == found[-1][0] + found[-1][1] and value == expected and found[-1][1] < 2047:
            found[-1] = (found[-1][0], found[-1][1] + 1, found[-1][2])
        else:
            found.append((point, 1, value))
        expected = step(value)
    return found


def write_case(name: str, mapping: Callable[[str], str]) -> None:
    """Runs with one distance: `first << 11 | span`, and `distance * 2 + (every second code point only)`."""
    distances = {p: ord(mapping(chr(p))) - p for p in POINTS if mapping(chr(p)) != chr(p) and p > 127}
    found: list[list[int]] = []  # first, last, distance, stride
    for point, distance in sorted(distances.items()):
        gap = point - found[-1][1] if found else 0
        if found and found[-1][2] == distance and gap in (1, 2) and found[-1][3] in (0, gap):
            found[-1][1], found[-1][3] = point, gap
        else:
            found.append([point, point, distance, 0])
    assert all(last - first < 2048 for first, last, _, _ in found)
    numbers("uint32_t", f"unicode_{name}_runs", (first << 11 | last - first for first, last, _, _ in found))
    numbers("int32_t", f"unicode_{name}_distances", (2 * distance + (stride == 2) for _, _, distance, stride in found))


def write_decompositions() -> None:
    """For each decomposable code point its first part (16 bits) and an index: plane of the first part, second part."""
    hangul = range(0xAC00, 0xD7A4)
    known = [p for p in POINTS if p not in hangul and CLASS[chr(p)] != "-" and canonical(p)]
    pairs = {point: canonical(point) for point in known}
    assert not any(len(parts) == 2 and parts[1] in pairs for parts in pairs.values())
    seconds = {(0, 0): 0}
    rest = [seconds.setdefault((p[0] >> 16, p[1] if len(p) == 2 else 0), len(seconds)) for p in pairs.values()]
    assert len(seconds) <= 256
    starts = runs(dict.fromkeys(known, 0))
    numbers("uint32_t", "unicode_decomposed_runs", (first << 11 | count - 1 for first, count, _ in starts))
    counts = itertools.accumulate([0, *(count for _, count, _ in starts[:-1])])
    numbers("uint16_t", "unicode_decomposed_places", counts)
    numbers("uint16_t", "unicode_first_parts", (parts[0] & 0xFFFF for parts in pairs.values()))
    numbers("uint8_t", "unicode_second_parts", rest)
    numbers("uint32_t", "unicode_parts", (plane << 21 | second for plane, second in seconds))


def canonical(point: int) -> list[int]:
    text = unicodedata.decomposition(chr(point))
    return [] if not text or text.startswith("<") else [int(part, 16) for part in text.split()]


def write_marks() -> None:
    """Combining class, and non-starters at the start and the end of the compatibility decomposition."""
    marks: dict[int, int] = {}
    kinds = {}
    for point in itertools.chain(range(0xAC00), range(0xD7A4, 0xD800), range(0xF900, 0xF0000)):
        char = chr(point)  # neither Hangul syllables, which unicode.c counts, nor surrogates, nor private use
        mark = (unicodedata.combining(char), *nonstarters(char))
        if CLASS[char] != "-" and any(mark):
            marks[point] = kinds.setdefault(mark, len(kinds))
    found = runs(marks)
    numbers("uint32_t", "unicode_mark_runs", (first << 11 | count - 1 for first, count, _ in found))
    numbers("uint8_t", "unicode_mark_kinds", (kind for _, _, kind in found))
    numbers("uint16_t", "unicode_marks", (ccc | lead << 8 | trail << 12 for ccc, lead, trail in kinds))


if __name__ == "__main__":
    if tuple(map(int, unicodedata.unidata_version.split("."))) < (13, 0, 0):
        sys.exit("needs a Python with Unicode 13.0 or newer")
    print("/* Generated by tools/make_unicode.py from the Unicode Character Database (Copyright Unicode, Inc., under the")
    print(" * Unicode License, https://www.unicode.org/license.txt). Do not edit. */\n")
    write_classes(classes())
    write_kinds()
    write_case("lower", simple_lower)
    write_case("upper", simple_upper)
    write_decompositions()
    write_marks()
