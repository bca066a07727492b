"""Vocabularies built from bare tokens equal the published files; modifications give the reference library's ids."""

import time

import pytest

from edgekit.errors import SettingError, VocabularyError
from edgekit.tokenizers.tokenmonster.vocab_file import NONE, Deleted
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary
from edgekit.utils import registry

pytest.importorskip("numba")  # of the extra `train`
from edgekit.training import vocab_modify as modify
from edgekit.training.vocab_build import Builder, Token, build, take_apart

PUBLISHED = (
    "code-2048-unfiltered-nocapcode-v1",
    "english-1024-balanced-v1",
    "english-8000-strict-nocapcode-v1",
    "englishcode-16000-clean-v1",
    "fiction-4096-balanced-v1",
    "tinystories-2048-strict",
)


@pytest.fixture(scope="session")
def published(shared):
    def load(name: str) -> Vocabulary:
        return Vocabulary.load(shared / "tokenmonster" / "vocabs" / f"{name}.vocab")

    return load


@pytest.fixture(scope="session")
def english(published) -> Vocabulary:
    return published("english-8000-strict-nocapcode-v1")


# ---- building ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_build_published_vocabulary_equals_its_file(published, name):
    vocabulary = published(name)
    tokens, settings = take_apart(vocabulary)
    settings["follow"] = bytes(256)  # only tokens, ids, scores and the header come from the file
    assert build(reversed(tokens), **settings).to_bytes() == vocabulary.to_bytes()


def test_build_without_ids_gives_published_ids(english):
    tokens, settings = take_apart(english)
    assert build([each._replace(id=None) for each in tokens], **settings).to_bytes() == english.to_bytes()


def test_build_32000_tokens_is_fast():
    words = [b" %d%s" % (number, b"ab"[number % 2 :]) for number in range(32_000)]
    start = time.process_time()
    vocabulary = build([Token(word) for word in words], capcode=1)
    assert vocabulary.size == 32_000
    assert time.process_time() - start < 6, "well under 2 s on an idle machine"


def flags_of(token: bytes, level: int) -> int:
    return Builder(level).shape(token).flags


@pytest.mark.parametrize("token, level, flags", [
    (b"a", 1, 1 | 2 | 128),
    (b" the", 1, 1 | 4 | 32 | 128),
    (b" the cat", 1, 1 | 4 | 128),
    (b" 12", 1, 4 | 128),
    (b"a1", 1, 2),
    (b"'s", 1, 1),
    (b".\n\x7f", 1, 8 | 128),
    (b"\x7f", 1, 8 | 16 | 128),
    (b"C the", 2, 1 | 4 | 16),
    (b"D", 2, 8 | 16 | 128),
    (b"C", 1, 1 | 2 | 128),  # a letter, not a marker
    ("\u00e9".encode(), 1, 1 | 2),
    ("\u2014".encode(), 1, 128),
    (b"\xc3", 1, 128),
])  # fmt: skip
def test_shape_flags_of_token(token, level, flags):
    assert flags_of(token, level) == flags


def test_build_alternatives_prefer_the_end_of_a_word():
    vocabulary = build([Token(t) for t in (b" ", b" o", b" of", b" of t", b" of th", b" of the")], capcode=1)
    records = vocabulary.records
    longest = records[-1]
    assert [records[alt].token for alt in (longest.alt1, longest.alt2)] == [b" of", b" of th"]


def test_build_duplicate_has_the_id_of_its_token():
    vocabulary = build([Token(b"\x7f"), Token(b" "), Token(b"cat")], capcode=1)
    twin = next(record for record in vocabulary.records if record.score == -1.0)
    assert (twin.token, twin.id) == (b"\x7f cat", 2)
    assert vocabulary.encode("cat") == [2]


def test_build_follow_classes_need_three_tokens_else_keep_previous():
    tokens = [Token(t) for t in (b"a", b"ab", b"ac", b"b", b"bb")]
    assert build(tokens, capcode=0).follow[ord("a")] == 1
    assert build(tokens, capcode=0).follow[ord("b")] == 0
    assert build(tokens, capcode=0, follow=bytes([10]) * 256).follow[ord("b")] == 10


def test_build_free_ids_skip_given_and_deleted_ones():
    tokens = [Token(b"a"), Token(b"b", 0), Token(b"cc"), Token(b"dd", 5)]
    vocabulary = build(tokens, capcode=0, deleted=[Deleted(b"zz", 1, 0.5)], unk="new")
    assert {record.token: record.id for record in vocabulary.records} == {b"a": 2, b"b": 0, b"cc": 3, b"dd": 5}
    assert (vocabulary.unk, vocabulary.table_size, vocabulary.size) == (4, 6, 5)


@pytest.mark.parametrize("tokens, words", [
    ([Token(b"a"), Token(b"a")], "occurs twice"),
    ([Token(b"a"), Token(b"\x7f a")], "occurs twice"),
    ([Token(b"")], "0 bytes"),
    ([Token(b"x" * 41)], "41 bytes"),
    ([Token(b"a", 3), Token(b"b", 3)], "same id"),
])  # fmt: skip
def test_build_invalid_tokens_raises(tokens, words):
    with pytest.raises(VocabularyError, match=words):
        build(tokens, capcode=1)


def test_build_unknown_capcode_level_raises():
    with pytest.raises(VocabularyError, match="capcode level 3"):
        build([Token(b"a")], capcode=3)


# ---- modifying -----------------------------------------------------------------------------------------------------


def test_add_special_gets_the_next_id(english):
    changed = modify.add_special(english, ["<eos>"])
    assert changed.base_bytes(8000) == b"<\x7f eos>"
    assert (changed.size, changed.table_size, changed.special_ids) == (8001, 8001, {8000})
    # As in the reference library: a regular token that overlaps its start wins.
    assert 8000 in changed.encode("a<eos>b")
    assert 8000 not in changed.encode(" <eos>")
    again = modify.add_special(changed, ["<pad>"])
    assert again.special_ids == {8000, 8001}
    assert [record.id for record in again.records if record.score >= 0][:214] == list(range(214))


def test_add_special_removes_regular_tokens_that_contain_it(english):
    changed = modify.add_special(english, [" the"])
    gone = {each.token: each.id for each in changed.deleted}
    assert b" of the" in gone and b" the" in gone
    assert changed.special_ids == {gone[b" the"]}, "it was a regular token, so it keeps its id"
    assert Vocabulary.from_bytes(changed.to_bytes()).to_bytes() == changed.to_bytes()


@pytest.mark.parametrize("text", ["", "x" * 41, "<a><b><c><d><e><f><g><h><i><j>"])
def test_add_special_too_long_or_empty_raises(english, text):
    with pytest.raises(SettingError, match="1 to 40"):
        modify.add_special(english, [text])


def test_add_special_twice_raises(english):
    with pytest.raises(SettingError, match="already"):
        modify.add_special(modify.add_special(english, ["<eos>"]), ["<eos>"])


def test_resize_keeps_ids_and_growing_restores_them(english):
    small = modify.resize(english, 4000)
    ids = {record.token: record.id for record in small.records}
    assert (small.size, max(ids.values()), small.table_size) == (4000, 7998, 8000)
    assert ids.items() <= {record.token: record.id for record in english.records}.items()
    grown = modify.resize(small, 8000)
    assert grown.records == english.records
    assert len(grown.deleted) == 4000, "they stay in the list of deleted tokens too"
    assert modify.resize(grown, 4000).to_bytes() == small.to_bytes()


def test_resize_beyond_limits_raises(english):
    with pytest.raises(SettingError, match="can shrink to"):
        modify.resize(english, 100)
    with pytest.raises(SettingError, match="can grow to 8000"):
        modify.resize(english, 8001)


def test_add_new_token_never_takes_a_deleted_id(english):
    small = modify.resize(english, 4000)
    changed = modify.add(small, [b" brandnewtoken", b" the"])
    new = {record.token: record.id for record in changed.records}
    assert new[b" brandnewtoken"] == 8000
    assert new[b" the"] == {record.token: record.id for record in english.records}[b" the"]


def test_add_deleted_token_gets_its_id_back(english):
    before = {record.token: record.id for record in english.records}
    without = modify.delete(english, [b" the"])
    assert without.size == 7999 and without.deleted[0].token == b" the"
    again = modify.add(without, [b" the"])
    assert {record.token: record.id for record in again.records} == before


@pytest.mark.parametrize("token, words", [(b"a", "single byte"), (b" nosuchtoken", "no token")])
def test_delete_single_byte_or_unknown_raises(english, token, words):
    with pytest.raises(SettingError, match=words):
        modify.delete(english, [token])


def test_add_token_with_delete_marker_raises(english):
    with pytest.raises(SettingError, match="delete marker"):
        modify.add(english, [b"\x7f hello"])


def test_enable_and_disable_unk(english):
    with_unk = modify.enable_unk(english)
    assert (with_unk.unk, with_unk.size) == (8000, 8001)
    assert with_unk.encode(b"\x00") == [8000]
    assert modify.enable_unk(with_unk) is with_unk
    assert modify.disable_unk(with_unk).to_bytes() == english.to_bytes()
    full = build([Token(bytes((byte,))) for byte in range(256)], capcode=1)
    with pytest.raises(SettingError, match="nothing can be unknown"):
        modify.enable_unk(full)


def test_reset_ids_renumbers_from_zero(english):
    small = modify.reset_ids(modify.enable_unk(modify.resize(english, 4000)))
    assert (small.table_size, small.unk) == (4001, 4000)
    assert [record.id for record in small.records if record.score >= 0] == list(range(4000))
    assert {each.id for each in small.deleted} == {NONE}


def test_build_result_loads_in_reference_library(english):
    """The published library as reference, if its server can be started."""
    reference = registry.load("training", "reference_tokenizer")
    try:
        loaded = reference.load(modify.add_special(english, ["<eos>"]).to_bytes(), patience=5)
    except registry.MissingExtraError as missing:
        pytest.skip(str(missing))
    for text in ("Hello, World!", "a<eos>b", "It's 3 o'clock."):
        assert loaded.encode(text) == modify.add_special(english, ["<eos>"]).encode(text)
