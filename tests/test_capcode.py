"""Normalisation and capcode: the specification's own examples, rare cases, and a naive implementation on any text."""

import json
import unicodedata

import pytest
from handmade import NO_SHARED, SHARED, naive_level1, naive_level2
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.tokenizers.tokenmonster import unicode13
from edgekit.tokenizers.tokenmonster.capcode import (
    ACCENTS,
    COLLAPSE,
    LEADING_SPACE,
    LOWERCASE,
    NFD,
    QUOTEMARKS,
    TRIM,
    UNIX_LINES,
    Undo,
    incomplete_tail,
    normalize,
)
from edgekit.tokenizers.tokenmonster.unicode13 import (
    CLASS,
    is_inert,
    nfd,
    nonstarters,
    runs,
    simple_lower,
    simple_upper,
)

# Text that capcode changes, and anything else.
texts = st.text(
    st.one_of(
        st.sampled_from("aAbZé É1٣ '\u2019-\n\x7f\u0301\u0130ßǅ\U0001d400中CDW ."),
        st.characters(exclude_categories=["Cs"]),
    )
)


def undone(data: bytes, level: int) -> bytes:
    undo = Undo(level)
    return undo.feed(data) + undo.flush()


@pytest.mark.parametrize(
    ("text", "level", "stream"),
    [
        ("Hello", 1, "\x7f Hello"),
        ("a-b", 1, "\x7f a-\x7f b"),
        (" don't x1 1st", 1, " don't x\x7f 1 1\x7f st"),
        ("'tis", 1, "'\x7f tis"),
        ("a\x7fb", 1, "\x7f a\x14\x7f b"),
        ("\nx\u00a0y", 1, "\n\x7f x\u00a0\x7f y"),
        ("Hello", 2, "DC hello"),
        ("HELLO World", 2, "DW helloC world"),
        ("a B", 2, "D aW b"),
        ("ABCdef", 2, "DC aDC bDC cdef"),
        ("A1B2c", 2, "DC aD 1DC bD 2D c"),
        ("X's Y2 I", 2, "DC x'sW yD 2W i"),
        ("\u0130x", 2, "DC ix"),  # one-to-one lowercase
        ("\u1f88 \u1f80", 2, "\u1f88 \u1f80"),  # a titlecase letter is not a capital
        ("\U0001d400b A\U0001d400b", 2, "DC \U0001d400bC a\U0001d400b"),  # a capital without a lowercase
        ("no change", 0, "no change"),
    ],
)
def test_normalize_examples_match(text, level, stream):
    assert normalize(text.encode(), 0, level).decode() == stream


@pytest.mark.parametrize("level", [1, 2])
@given(text=texts)
@settings(max_examples=300, deadline=None)
def test_normalize_equals_naive_rules_and_undoes(level, text):
    stream = normalize(text.encode(), 0, level)
    assert stream.decode() == (naive_level1 if level == 1 else naive_level2)(text)
    if level == 1:
        assert undone(stream, 1) == text.replace("\x7f", "\x14").encode()
    elif "\u0130" not in text and all(CLASS[simple_lower(c)] == "l" for c in text if CLASS[c] == "u"):
        expected = "".join(c if CLASS[c] != "u" else simple_upper(simple_lower(c)) for c in text)
        assert undone(stream, 2).decode() == expected


def test_undo_examples_match():
    assert undone(b"\x7f\x7f x", 1) == b" x"
    assert undone(b"a\x7f", 1) == b"a"
    assert undone(b"\x7f\xc3\xa9", 1) == b"\xa9"  # a byte, not a character
    assert undone(b"DC helloW world two", 2) == b"Hello WORLD two"
    assert undone(b"W abc1d'e x", 2) == b" ABC1D'E x"
    assert undone(b"DCxa", 2) == b"A"  # a deleted character leaves the capital pending
    assert undone(b"CWab c", 2) == b"AB c"
    assert undone("W \u1f80\u00dfx".encode(), 2).decode() == " \u1f88\u00dfX"
    assert undone(b"C\xff" + "C\u2c6f".encode() * 4, 2) == b"\xff" + "\u2c6f".encode() * 4
    assert undone(b"\xc3D \xa9", 2) == b"\xc3\xa9"
    assert undone(b"D\xe2\x82x", 2) == b"\x82x"


@given(data=st.binary(max_size=40).map(lambda raw: raw.translate(bytes([*b"CDW \x7f\xc3\xa9aB", *range(9, 256)]))),
       cuts=st.lists(st.integers(0, 40)), level=st.sampled_from([0, 1, 2]))  # fmt: skip
@settings(max_examples=400, deadline=None)
def test_undo_in_pieces_equals_whole(data, cuts, level):
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    undo = Undo(level)
    pieces = b""
    for start, end in zip(edges, edges[1:], strict=False):
        undo = undo.copy()
        pieces += undo.feed(data[start:end])
    assert pieces + undo.flush() == undone(data, level)
    assert undo.state == Undo(level).state


def test_nfd_new_characters_follow_unicode_13():
    assert nfd("é\u1e69") == "e\u0301s\u0323\u0307"
    # U+1DFA and U+0898 are marks since 14.0: here unassigned, so nothing is reordered across them or onto them.
    assert nfd("a\u0301\u1dfa\u0323é") == "a\u0301\u1dfa\u0323e\u0301"
    assert nfd("a\u0301\udcff\u0323") == "a\u0301\udcff\u0323"


@given(text=st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=12))
@settings(max_examples=300, deadline=None)
def test_nfd_old_characters_equal_unicodedata(text):
    text = "".join(char for char in text if CLASS[char] != "-")
    assert nfd(text) == unicodedata.normalize("NFD", text)


def test_nfd_long_runs_of_marks_are_stream_safe():
    marks = "\u0301" * 30
    assert nfd("a" + marks) == "a" + marks
    assert nfd("a" + marks + "\u0323") == "a" + marks + "\u034f\u0323"
    assert nfd("é" + marks) == "e" + marks + "\u034f\u0301"  # é itself ends in one non-starter
    assert nfd("\u0344" * 16) == "\u0308\u0301" * 15 + "\u034f\u0308\u0301"
    assert nfd("\uac00" + marks[:29]) == "\u1100\u1161" + marks[:29]
    assert nfd("\uac00" + marks) == "\u1100\u1161" + marks[:29] + "\u034f\u0301"  # a vowel jamo counts
    assert nfd("a" + "\u1161" * 31) == "a" + "\u1161" * 30 + "\u034f\u1161"
    assert nfd("a" + marks + "\udcff" + marks) == "a" + marks + "\udcff" + marks
    assert nfd("a" + marks + "\u0301" * 31) == "a" + marks + "\u034f" + marks + "\u034f\u0301"


@pytest.mark.parametrize(
    ("data", "tail"),
    [(b"", 0), (b"abc", 0), ("é".encode(), 0), (b"\xf0\xc3\xa9", 3), (b"x\xe0\xa9", 2), (b"\xc2", 1), (b"\xc0", 0),
     (b"\xc1\xc1", 0), (b"\xf5\xc3\xa9", 3), (b"\xf7", 1), (b"\xf8\xc3\xa9", 0), (b"\xf4\x8f\xbf\xbf", 0),
     (b"\xe2\xc3\xa9", 0), (b"\xff\xc2\xcc", 1)],
)  # fmt: skip
def test_incomplete_tail_is_left_unchanged(data, tail):
    assert incomplete_tail(data) == tail


def test_normalize_ill_formed_bytes_pass_through():
    assert normalize(b"\xf0\xc3\xa9", NFD, 0) == b"\xf0\xc3\xa9"
    assert normalize(b"\xf0\xc3\xa9a", NFD, 0) == b"\xf0e\xcc\x81a"
    assert normalize(b"\xc3\xa9\xf0\xc3\xa9", NFD, 1) == b"\x7f e\xcc\x81\xf0\x7f \xc3\xa9"
    assert normalize(b"a\xed\xa0\x80b\xc0\xaf", NFD, 1) == b"\x7f a\xed\xa0\x80\x7f b\xc0\xaf"


def test_normalize_flags_apply():
    assert normalize("“a” ‘b’".encode(), QUOTEMARKS, 0) == b"\"a\" 'b'"
    assert normalize(b"a\r\nb\r", UNIX_LINES, 0) == b"a\nb\r"
    assert normalize(b"a   b", COLLAPSE, 0) == b"a b"
    assert normalize(b" \n a ", TRIM, 0) == b"a"
    assert [normalize(text, LEADING_SPACE, 0) for text in (b"", b"a", b" a")] == [b"", b" a", b" a"]
    assert normalize("Élan ÇA".encode(), ACCENTS | LOWERCASE, 0) == b"elan ca"


def test_unicode_tables_match_unicodedata():
    starts, classes = runs()
    assert len(starts) == len(classes) and starts[0] == 0 and starts == sorted(set(starts))
    samples = {"a": "l", "A": "u", "ǅ": "t", "中": "t", "٣": "n", "\u0301": "m", "\u0903": "s", "-": "o", "\u0378": "-"}
    assert {char: CLASS[char] for char in samples} == samples
    assert (simple_upper("ß"), simple_upper("\u1f80"), simple_upper("ŉ"), simple_lower("\u0130")) == (
        "ß", "\u1f88", "ŉ", "i")  # fmt: skip
    assert simple_upper("\u019b") == "\u019b"  # has an uppercase letter since 16.0
    assert nonstarters("\u1f82") == (0, 3) and nonstarters("\u0344") == (2, 2) and nonstarters("\uff9e") == (1, 1)
    assert is_inert("中") and not is_inert("é") and not is_inert("\u0301") and not is_inert("\uff9e")


def test_unicode_tables_equal_shared_file():
    path = SHARED / "tokenmonster" / "unicode13_ranges.json"
    if not path.exists():
        pytest.skip(NO_SHARED)
    starts, classes = runs()
    mine: dict[str, set[int]] = {}
    for start, end, each in zip(starts, [*starts[1:], 0x110000], classes, strict=True):
        mine.setdefault(each, set()).update(range(start, end))
    groups = {"letter": "ult", "number": "n", "mark": "ms", "upper": "u", "lower": "l", "assigned": "ultnmso"}
    shared = json.loads(path.read_text())
    for name, kinds in groups.items():
        expected = {point for low, high in shared[name] for point in range(low, high + 1)}
        assert set().union(*(mine[each] for each in kinds)) == expected, name


def test_normalize_caches_are_bounded():
    memo = unicode13._Memo()
    for point in range(0x11000, 0x11000 + (1 << 16) + 100):
        memo[chr(point)]
    assert len(memo) <= 1 << 16
