"""Vocabularies: golden vectors, the encoder against a naive one, streaming, and contradictory files."""

import base64
import gzip
import json
import random
import struct
import subprocess
import sys

import pytest
from handmade import NO_SHARED, SHARED, VOCABS, build, naive_encode, naive_normalize, small
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import FileError, VocabularyError
from edgekit.tokenizers.tokenmonster.unicode13 import nfd
from edgekit.tokenizers.tokenmonster.vocab_file import NONE, Record
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary

VECTORS = SHARED / "tokenmonster" / "vectors-dev.jsonl.gz"
HANDMADE = {
    "level 0": small(0),
    "level 1": small(1),
    "level 2": small(2),
    "quotemarks": small(2, normalization=8),
    "unknown": small(1, unk=True, singles=[b" ", b"\x7f", *(bytes([byte]) for byte in range(97, 123))]),
    "special": small(2, special=[b"<D eos>"]),
    "no marker": small(1, singles=[b" ", b"a", b"t"]),
}
english = st.lists(
    st.sampled_from(
        [
            " the",
            "The",
            " CAT",
            "cats",
            " on a",
            "'s",
            ".",
            "\n",
            ", ",
            "12",
            "é",
            "中",
            " ",
            "-",
            "<eos>",
            "(",
            "\u2019",
            "WORD",
            "x",
            "“",
        ]
    )  # fmt: skip
).map("".join)
texts = st.one_of(english, st.text())


def golden():
    with gzip.open(VECTORS, "rt", encoding="utf-8") as lines:
        for line in lines:
            vector = json.loads(line)
            source = vector.get("text")
            if "bytes_b64" in vector:
                source = base64.b64decode(vector["bytes_b64"])
            decoded = vector.get("decoded")
            decoded = base64.b64decode(vector["decoded_b64"]) if decoded is None else decoded.encode()
            yield vector["vocab"], source, vector["ids"], decoded


@pytest.fixture(scope="session")
def published() -> dict[str, Vocabulary]:
    if not VOCABS:
        pytest.skip(NO_SHARED)
    return {path.stem: Vocabulary.load(path) for path in VOCABS}


def streamed(vocabulary: Vocabulary, ids: list[int]) -> str:
    decoder = vocabulary.decoder()
    return "".join([decoder.feed(id) for id in ids]) + decoder.flush()


def test_vocabulary_golden_vectors_match(published):
    count = 0
    for name, source, ids, decoded in golden():
        vocabulary = published[name]
        if source is not None:
            assert vocabulary.encode(source) == ids, (name, source)
        assert vocabulary.decode_bytes(ids) == decoded, (name, ids)
        assert streamed(vocabulary, ids) == decoded.decode("utf-8", "replace"), (name, ids)
        count += 1
    assert count == 3228


def test_to_bytes_published_file_round_trips(published, tmp_path):
    for path in VOCABS:
        vocabulary = published[path.stem]
        assert vocabulary.to_bytes() == path.read_bytes()
        vocabulary.save(tmp_path / "copy.vocab")
        assert (tmp_path / "copy.vocab").read_bytes() == path.read_bytes()


def test_vocabulary_english_8000_has_published_facts(published):
    vocabulary = published["english-8000-strict-nocapcode-v1"]
    assert (len(vocabulary), vocabulary.table_size, len(vocabulary.records), vocabulary.maxlen) == (
        8000,
        8000,
        9244,
        40,
    )
    assert (vocabulary.capcode, vocabulary.delete_token, vocabulary.unk) == (1, 98, NONE)
    assert vocabulary.encode("Hello, World!") == [98, 1637, 593, 15, 3346, 4]
    assert vocabulary.decode([98, 1637, 593, 15, 3346, 4]) == "Hello, World!"
    assert vocabulary.base_bytes(1637) == b" Hel"
    zero = vocabulary.encode("x 0")[-1]
    assert vocabulary.piece(zero) == b"\x7f 0" or vocabulary.base_bytes(zero) == b" 0"
    assert published["tinystories-2048-strict"].special_ids == {1833}
    assert {record.id for record in vocabulary.records if record.score > -0.5} == set(range(8000))


@pytest.mark.parametrize("name", HANDMADE)
def test_to_bytes_handmade_file_round_trips(name, tmp_path):
    vocabulary = HANDMADE[name]
    data = vocabulary.to_bytes()
    again = Vocabulary.from_bytes(data)
    assert again.to_bytes() == data and again.records == vocabulary.records and again.unk == vocabulary.unk
    vocabulary.save(tmp_path / "a.vocab")
    assert Vocabulary.load(tmp_path / "a.vocab").encode("The cat sat.") == vocabulary.encode("The cat sat.")


def test_handmade_build_equals_published_fields(published):
    """The hand-made vocabularies follow the rules of the published ones: rebuilt from tokens, records are equal."""
    for name in ("english-1024-balanced-v1", "tinystories-2048-strict"):
        real = published[name]
        base = [record for record in real.records if record.score >= 0]
        special = [record.token for record in base if record.flags & 64]
        made = build([record.token for record in base], real.capcode, special=special, singles=[])
        assert [record[:5] for record in made.records] == [record[:5] for record in real.records], name


@pytest.mark.parametrize("name", HANDMADE)
@given(text=texts)
@settings(max_examples=120, deadline=None)
def test_encode_handmade_equals_naive_encoder(name, text):
    vocabulary = HANDMADE[name]
    stream = vocabulary.normalize(text)
    if vocabulary.normalization == 1:
        assert stream == naive_normalize(vocabulary, text)
    ids = vocabulary.encode(text)
    assert ids == naive_encode(vocabulary, stream) == vocabulary.encode(text.encode())
    if name in ("level 0", "level 1") and "\x7f" not in text:
        assert vocabulary.decode(ids) == nfd(text)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_encode_published_equals_naive_encoder(published, data):
    vocabulary = published[data.draw(st.sampled_from(sorted(published)))]
    text = data.draw(st.one_of(texts, st.binary()))
    assert vocabulary.encode(text) == naive_encode(vocabulary, vocabulary.normalize(text))


@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"])))
@settings(max_examples=150, deadline=None)
def test_decode_of_encode_is_nfd_of_text(published, text):
    vocabulary = published["english-8000-strict-nocapcode-v1"]
    assert vocabulary.decode(vocabulary.encode(text)) == nfd(text)


@pytest.mark.parametrize("name", HANDMADE)
@given(data=st.data())
@settings(max_examples=120, deadline=None)
def test_decoder_stream_equals_decode(name, data):
    vocabulary = HANDMADE[name]
    singles = st.integers(0, 300)  # ids of single bytes come first: many broken characters and markers
    ids = data.draw(st.lists(st.one_of(singles, st.integers(-2, vocabulary.table_size + 5))))
    whole = vocabulary.decode_bytes(ids)
    assert streamed(vocabulary, ids) == vocabulary.decode(ids) == whole.decode("utf-8", "replace")
    decoder = vocabulary.decoder()
    pieces = []
    for id in ids:
        trial, state = decoder.copy(), decoder.state
        trial.feed(id)
        assert decoder.state == state and hash(state) is not None  # a copy is independent
        pieces.append(decoder.feed_bytes(id))
        assert decoder.state == trial.state
    assert b"".join(pieces) + decoder.flush_bytes() == whole
    assert decoder.state == vocabulary.decoder().state


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_decoder_published_stream_equals_decode(published, data):
    vocabulary = published[data.draw(st.sampled_from(sorted(published)))]
    ids = data.draw(st.lists(st.one_of(st.integers(0, 260), st.integers(0, vocabulary.table_size))))
    assert streamed(vocabulary, ids) == vocabulary.decode(ids)


def test_decoder_feed_gives_whole_characters():
    vocabulary = HANDMADE["level 1"]
    decoder = vocabulary.decoder()
    ids = [vocabulary.encode(bytes([byte]))[-1] for byte in "🙂".encode()]
    assert [decoder.feed(id) for id in ids] == ["", "", "", "🙂"]
    assert decoder.feed(ids[0]) == "" and decoder.flush() == "\ufffd" and decoder.flush() == ""


def test_encode_unknown_and_special_tokens():
    unknown = HANDMADE["unknown"]
    assert unknown.encode("a\x01\x02\x03")[-3:] == [unknown.unk] * 3
    assert unknown.decode([unknown.unk, 10**9, -1]) == ""
    special = HANDMADE["special"]
    (eos,) = special.special_ids
    assert eos in special.encode("a<eos>b") and special.decode([eos]) == "<eos>"
    assert special.encode("") == [] and special.decode([]) == "" and special.decode_bytes([]) == b""


def test_encode_lone_surrogate_raises():
    with pytest.raises(UnicodeEncodeError):
        HANDMADE["level 1"].encode("a\ud800")


def test_encode_utf16_charset_raises_but_loads():
    data = bytearray(HANDMADE["level 0"].to_bytes())
    data[1] = 2
    vocabulary = Vocabulary.from_bytes(bytes(data))
    with pytest.raises(VocabularyError, match="UTF-16"):
        vocabulary.encode("a")


# ---- contradictory files ----


def changed(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def _tiny() -> bytes:
    return build([b"the", b" the", b"th"], 1, singles=[b" ", b"\x7f", b"t"]).to_bytes()


TINY = _tiny()
# The first record: 20, at 24: length 1, byte, flags, words, alt1, alt2, id, score; 17 bytes each.
LIES = {
    "only 0 bytes": b"",
    "only 23 bytes": TINY[:23],
    "capcode 3": changed(TINY, 0, b"\x03"),
    "charset 7": changed(TINY, 1, b"\x07"),
    "ids are in use, the header says": changed(TINY, 11, b"\xff\xff\xff"),
    "the table size is": changed(TINY, 14, b"\xfe\xff\xff"),
    "has id 5, the table size is 5": changed(TINY, 14, b"\x05\0\0"),
    "ends inside record 2 of": TINY[:60],
    "record 9 is 0 bytes long": changed(TINY, 17, b"\xff\xff\xff"),  # reads into the follow classes
    "the delete token 0 is not the marker": changed(TINY, 20, b"\0\0\0"),
    "the delete token has id 9": changed(TINY, 20, b"\x09\0\0"),
    "the unknown token has id 99": changed(TINY, 8, b"\x63\0\0"),
    "the unknown token's id 1 belongs": changed(TINY, 8, b"\x01\0\0"),
    "longest record is": changed(TINY, 23, b"\x28"),
    "record 0 is 41 bytes long": changed(TINY, 24, b"\x29"),
    "record 0 is 0 bytes long": changed(TINY, 24, b"\0"),
    "record 1 is out of order": changed(TINY, 25, b"u"),
    "record 0 counts 200 words": changed(TINY, 27, b"\xc8"),
    "not an earlier prefix": changed(TINY, 28, b"\0\0\0"),
    "a second alternative but no first": changed(TINY, 31, b"\0\0\0"),
    "which another token has": changed(TINY, 34, b"\x01\0\0"),
    "record 0 has score nan": changed(TINY, 37, struct.pack("<f", float("nan"))),
    "record 0 has score -0.5": changed(TINY, 37, struct.pack("<f", -0.5)),
    "duplicate of id 0, but is none": changed(TINY, 37, struct.pack("<f", -1)),
    "1 bytes too many": TINY + b"\0",
    "ends before the list of deleted tokens": TINY[:-1],
    "ends inside deleted token 0 of": TINY[:-3] + b"\xff\xff\xff",
    "a deleted token has 0 bytes": TINY[:-3] + b"\x01\0\0" + b"\0" + b"\xff" * 3 + b"\0" * 4,
    "a deleted token has 1 bytes and id 77": TINY[:-3] + b"\x01\0\0" + b"\x01a" + b"\x4d\0\0" + b"\0" * 4,
}


@pytest.mark.parametrize("reason", LIES)
def test_from_bytes_contradictory_field_is_named(reason, tmp_path):
    path = tmp_path / "wrong.vocab"
    path.write_bytes(LIES[reason])
    with pytest.raises(VocabularyError) as caught:
        Vocabulary.load(path)
    assert reason in str(caught.value) and "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_load_missing_file_raises(tmp_path):
    with pytest.raises(FileError, match="cannot read"):
        Vocabulary.load(tmp_path / "none.vocab")


def test_vocabulary_invalid_parts_raise():
    record = Record(b"a" * 41, 0, 0, NONE, NONE, 0, 0.0)
    parts = {"capcode": 0, "charset": 1, "normalization": 0, "mode": 5, "reserve": 0, "unk": NONE, "delete_token": NONE}
    with pytest.raises(VocabularyError, match="41 bytes"):
        Vocabulary(**parts, table_size=1, records=[record], follow=bytes(256))
    with pytest.raises(VocabularyError, match="follow"):
        Vocabulary(**parts, table_size=0, records=[], follow=b"")
    empty = Vocabulary(**parts, table_size=0, records=[], follow=bytes(256))
    assert empty.encode("abc") == [] and Vocabulary.from_bytes(empty.to_bytes()).decode([0]) == ""


def test_from_bytes_damaged_file_loads_or_raises():
    """Mutated and cut files load or raise VocabularyError; those that load still encode and decode."""
    rng = random.Random(7)
    originals = [TINY, *(vocabulary.to_bytes() for vocabulary in HANDMADE.values())]
    originals += [path.read_bytes() for path in VOCABS if path.stat().st_size < 60_000][:2]
    loaded = 0
    for original in originals:
        for _ in range(60 if len(original) < 20_000 else 15):
            data = bytearray(original)
            for _ in range(rng.choice([1, 1, 2, 5])):
                at = rng.randrange(len(data)) if rng.random() < 0.8 else rng.randrange(24)
                data[at] = rng.randrange(256)
            if rng.random() < 0.2:
                del data[rng.randrange(len(data)) :]
            try:
                vocabulary = Vocabulary.from_bytes(bytes(data))
            except VocabularyError as error:
                assert "\n" not in str(error)
                continue
            loaded += 1
            if vocabulary.charset != 2:
                ids = vocabulary.encode("The cat's (MAT), there were 12 é\x00\x7f <eos>" * 3)
                assert streamed(vocabulary, ids) == vocabulary.decode(ids)
    assert loaded


# ---- the reference itself, where it is installed ----

ASK = """
import json, sys
from pathlib import Path
from edgekit.training.reference_tokenizer import load
reference = load(Path(sys.argv[1]).read_bytes(), patience=30)
print(json.dumps([reference.encode(text) for text in json.load(sys.stdin)]))
"""


@pytest.fixture(scope="session")
def asked() -> list[str]:
    rng = random.Random(3)
    words = ["the", "Cat", "SAT", "don't", "1st", "(x)", "\u00e9t\u00e9", "\u4e2d", "\n", "--", "\U0001f642", "McKay"]
    return [rng.choice(["", " "]).join(rng.choices(words, k=12)) for _ in range(100)]


def test_vocabulary_equals_reference_package(published, asked):
    path = VOCABS[0]
    try:
        answer = subprocess.run(
            [sys.executable, "-c", ASK, str(path)], input=json.dumps(asked), capture_output=True, text=True, timeout=60
        )
    except subprocess.TimeoutExpired:
        pytest.skip("the tokenmonster package did not answer in 60 seconds")
    if answer.returncode:
        pytest.skip(answer.stderr.strip().splitlines()[-1])
    assert json.loads(answer.stdout) == [published[path.stem].encode(text) for text in asked]
