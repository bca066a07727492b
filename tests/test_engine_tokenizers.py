"""The engine's tokenizers: TokenMonster against golden vectors and the Python encoder, BPE against llama.cpp and
`tokenizers`, GGUF files against the tokenizers of the same files, damaged input."""

import functools
import json
import random
import subprocess
import time

import pytest
from engine_build import ENGINE, make
from engine_tokenizers import PRE, gguf, llama_cpp, train
from handmade import NO_SHARED, VOCABS, small
from helpers import tokenmonster_files
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tokenizer_matrix import library_json
from test_tokenmonster import HANDMADE, LIES, TINY, golden

from edgekit.errors import VocabularyError
from edgekit.tokenizers import engine
from edgekit.tokenizers.engine import BYTE_BPE, PADDING, SENTENCEPIECE, SPECIAL, STOP, TOKENMONSTER, EngineTokenizer
from edgekit.tokenizers.load import from_files
from edgekit.tokenizers.tokenmonster import compiled
from edgekit.tokenizers.tokenmonster.specials import without_specials
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary
from edgekit.training import encoding

PARTS = [" the", "The", " CAT", "cats", "'s", "'lL", ".", "\n", ", ", "12", "1234567", "½", "é", "e\u0301", " ", "  ",
         "\u0301" * 31, "\u1100\u1161\u11a8", "\uac01", "中", "🙂", "-", "<eos>", "<s>", "</s>", "<tool>", "<|im_end|>",
         "(", "\u2019s", "WORD", "ÉCOLE", "İX", "A1b", "A'B", "ǅ", "\u1f80", "Ⅷ", "\U0001d400", "\x7f", "\x00", "$+",
         "\u1dfa", "\u00a0", "\u3000", "\x85", "\r\n", "\t", "/", "ȺȾa", "\u0f73", "\u0344", "\u212b", "\ufb2c",
         "▁", "_"]  # fmt: skip
texts = st.one_of(st.lists(st.sampled_from(PARTS)).map("".join), st.text())
fragments = st.sampled_from(
    [*(part.encode() for part in PARTS), b"\xff", b"\xc3", b"\xe2\x80", b"\xf0\x9f", b"\xa9", b"\xed\xa0\x80"]
)
inputs = st.one_of(texts, st.binary(), st.lists(fragments).map(b"".join))

FLAGGED = {f"flags {flags}, level {level}": small(level, normalization=flags)
           for flags in (1, 2, 3, 4, 6, 9, 16 + 8, 32 + 64, 128 + 16 + 1, 255) for level in (0, 1, 2)}  # fmt: skip
VOCABULARIES = HANDMADE | FLAGGED | {path.stem: Vocabulary.load(path) for path in VOCABS}


@pytest.fixture(scope="session", params=[False, True], ids=["whole", "compact"])
def bare(engine_library, request):
    """name -> the engine's tokenizer of a vocabulary, as the reference library reads it."""
    options = {"bare": True, "compact": request.param}
    return functools.cache(lambda name: EngineTokenizer(engine_library, VOCABULARIES[name].to_bytes(), **options))


def streamed(tokenizer, ids):
    decoder = tokenizer.decoder()
    pieces = [decoder.feed(id) for id in ids]
    whole = b"".join(pieces) + decoder.flush()
    assert decoder.flush() == b""
    return whole


# ---- TokenMonster --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not VOCABS, reason=NO_SHARED)
def test_tokenmonster_golden_vectors_match(bare):
    count = 0
    for name, source, ids, decoded in golden():
        if source is not None:
            assert bare(name).encode(source) == ids, (name, source)
        assert streamed(bare(name), ids) == decoded, (name, ids)
        count += 1
    assert count == 3228


@pytest.mark.parametrize("name", VOCABULARIES)
@given(data=inputs)
@settings(max_examples=40, deadline=None)
def test_tokenmonster_any_input_equals_python(bare, name, data):
    assert bare(name).encode(data) == VOCABULARIES[name].encode(data)


@pytest.mark.parametrize("name", [name for name in VOCABULARIES if not name.startswith("flags")])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_tokenmonster_stream_equals_python(bare, name, data):
    vocabulary = VOCABULARIES[name]
    singles = st.integers(0, 300)  # ids of single bytes come first: many broken characters and markers
    ids = data.draw(st.lists(st.one_of(singles, st.integers(0, vocabulary.table_size + 5))))
    whole = vocabulary.decode_bytes(ids)
    assert streamed(bare(name), ids) == whole
    ours, theirs = bare(name).decoder(), vocabulary.decoder()
    if b"\xed" not in whole:  # CPython withholds the first two bytes of a lone surrogate, which nothing can finish
        assert [ours.feed(id) for id in ids] == [theirs.feed_bytes(id) for id in ids]
        assert ours.flush() == theirs.flush_bytes()


def test_tokenmonster_long_texts_equal_python(bare):
    """Longer than the engine's window, with tokens and runs of capitals across its borders."""
    text = "The cat's mat (THE mat) was not there, and at 12 he sat.\n\n“Été”… 中文 \U0001f642 " * 150
    for name in ("level 0", "level 1", "level 2", "unknown", "flags 4, level 2", *(path.stem for path in VOCABS[:3])):
        for each in (text, "x" * 9000, "A" * 9000, "a" + "ÉA1 " * 2000, "\u0301" * 5000, "\u1161" * 5000):
            assert bare(name).encode(each) == VOCABULARIES[name].encode(each), name
        assert bare(name).encode(b"\xff\xf0" * 4000) == VOCABULARIES[name].encode(b"\xff\xf0" * 4000)


@pytest.mark.parametrize("compact", [False, True], ids=["whole", "compact"])
@pytest.mark.parametrize("name", ["level 1", "level 2", "special", *(path.stem for path in VOCABS)])
def test_tokenmonster_gguf_equals_tokenizer_of_its_files(engine_library, name, compact):
    vocabulary = VOCABULARIES[name]
    rows = -(-(vocabulary.table_size + 2) // 128) * 128
    files = tokenmonster_files(vocabulary.to_bytes(), rows, add_bos_token=name == "level 1")
    python, tokenizer = from_files(files, rows), EngineTokenizer(engine_library, gguf(files, rows), compact=compact)
    plain = EngineTokenizer(engine_library, vocabulary.to_bytes(), compact=compact)
    assert (tokenizer.kind, tokenizer.vocab_size, tokenizer.capcode) == (TOKENMONSTER, rows, vocabulary.capcode)
    assert (tokenizer.eos, tokenizer.bos, tokenizer.add_bos) == (python.eos, python.bos_id, python.bos is not None)
    assert (plain.vocab_size, plain.eos, plain.bos) == (rows, python.eos, python.bos_id)
    _compare(tokenizer, python, rows)
    for text in PARTS:
        assert plain.encode(text) == python.encode(text)
        assert plain.encode(f"a{text}b</s>", specials=True) == python.encode(f"a{text}b</s>", specials=True)
    for id in range(rows):
        silent = id in python._silent or id >= vocabulary.table_size
        assert tokenizer.piece(id) == (b"" if silent else vocabulary.piece(id))


@pytest.mark.skipif(not VOCABS, reason=NO_SHARED)
def test_tokenmonster_specials_inside_the_vocabulary_equal_python(engine_library):
    """Stentor3's layout: the model uses ids of ordinary tokens as its specials."""
    vocabulary = VOCABULARIES["english-1024-balanced-v1"]
    last = vocabulary.table_size - 1
    files = tokenmonster_files(
        vocabulary.to_bytes(),
        1152,
        added_tokens_decoder={str(last): {"content": "</s>"}, str(last - 1): {"content": "<s>"}},
        add_bos_token=True,
    )
    files["config.json"] = json.dumps({"eos_token_id": last, "bos_token_id": last - 1}).encode()
    python, tokenizer = from_files(files, 1152), EngineTokenizer(engine_library, gguf(files, 1152))
    assert (tokenizer.eos, tokenizer.bos) == (python.eos, python.bos_id) == (last, last - 1)
    _compare(tokenizer, python, 1152)


def _compare(tokenizer, python, rows, count=400):
    """Ids with and without specials, what prints nothing, and random ids decoded, against a Python tokenizer."""
    rng = random.Random(1)
    assert {id for id in range(rows) if tokenizer.type(id) & STOP} == python.stop
    for _ in range(count):
        text = "".join(rng.choices(PARTS, k=rng.randrange(10)))
        assert tokenizer.encode(text) == python.encode(text), text
        assert tokenizer.encode(text, specials=True) == python.encode(text, specials=True), text
        for ids in (tokenizer.encode(text), [rng.randrange(rows + 3) for _ in range(9)]):
            assert streamed(tokenizer, ids).decode("utf-8", "replace") == python.decode(ids), ids


def test_without_specials_equals_python(engine_library):
    """A tokenizer's own specials are not matched in text, and alternatives that were specials are replaced."""
    for name in ("special", *(path.stem for path in VOCABS if path.stem.startswith("tiny"))):
        vocabulary = VOCABULARIES[name]
        plain, ours = without_specials(vocabulary), EngineTokenizer(engine_library, vocabulary.to_bytes())
        for text in ("a<eos>b", "<eos>", " <eos>", "<|endoftext|>x"):
            assert ours.encode(text) == plain.encode(text)


@pytest.fixture
def installed(engine_library, monkeypatch):
    """Python finds the engine, and counts the tokenizers that it opens."""
    opened = []

    class Counted(EngineTokenizer):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            opened.append(self)

    monkeypatch.setattr(compiled, "library", lambda: engine_library)
    monkeypatch.setattr(encoding, "library", lambda: engine_library)
    monkeypatch.setattr(engine, "EngineTokenizer", Counted)
    monkeypatch.setattr(encoding, "EngineTokenizer", Counted)
    return opened


@pytest.mark.parametrize("name", ["level 1", "level 2", "special", "flags 9, level 2", *(path.stem for path in VOCABS)])
def test_tokenizer_with_the_engine_equals_without(installed, monkeypatch, name):
    vocabulary = VOCABULARIES[name]
    rows = -(-(vocabulary.table_size + 2) // 128) * 128
    files = tokenmonster_files(vocabulary.to_bytes(), rows)
    fast, plain = from_files(files, rows), without_specials(vocabulary)
    rng = random.Random(5)
    for text in ("".join(rng.choices(PARTS, k=rng.randrange(12))) for _ in range(200)):
        assert fast.encode(text) == plain.encode(text)
    assert len(installed) == 1
    monkeypatch.setattr(compiled, "library", lambda: None)
    assert from_files(files, rows).encode("The cat sat.") == plain.encode("The cat sat.")
    assert len(installed) == 1


def test_tokenizer_of_utf16_vocabulary_raises_as_without_the_engine(installed):
    data = TINY[:1] + b"\2" + TINY[2:]
    with pytest.raises(VocabularyError, match="UTF-16 cannot be encoded"):
        from_files(tokenmonster_files(data, 128), 128).encode("a")


def test_training_encoder_with_the_engine_equals_numba(installed, monkeypatch):
    pytest.importorskip("numba")
    vocabulary = VOCABULARIES["level 2"]
    texts = ["The cat's MAT", "", "12 \ud800 é" * 50, "\u0301" * 40]
    fast = encoding.encoder(vocabulary, "none", 1, 2)(texts)
    monkeypatch.setattr(encoding, "library", lambda: None)
    assert fast == encoding.encoder(vocabulary, "none", 1, 2)(texts) and len(installed) == 1


# ---- byte-pair encoding --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def trained(engine_library, tmp_path_factory):
    """pre-tokenizer -> (engine's, Python's, llama.cpp's) tokenizer of a small BPE."""

    def make(pre):
        pytest.importorskip("llama_cpp")
        files = train(pre)
        data = gguf(files, 512, pre=pre)
        path = tmp_path_factory.mktemp("bpe") / f"{pre}.gguf"
        return EngineTokenizer(engine_library, data), from_files(files, 512), llama_cpp(path, data)

    return functools.cache(make)


@pytest.mark.parametrize("pre", PRE)
@given(text=texts)
@settings(max_examples=100, deadline=None)
def test_byte_bpe_equals_tokenizers_and_llama_cpp(trained, pre, text):
    tokenizer, python, llama = trained(pre)
    ids = tokenizer.encode(text)
    if pre != "default":  # llama.cpp's own; tokenizer.json files have nothing like it
        assert ids == python.encode(text)
    # In these two, llama.cpp does not count marks to words and knows the case of ASCII only.
    if pre not in ("gpt-4o", "tekken") or text.isascii():
        assert ids == llama.tokenize(text.encode(), add_bos=False, special=False)


@pytest.mark.parametrize("pre", [pre for pre in PRE if pre != "default"])
def test_byte_bpe_gguf_equals_tokenizer_of_its_files(trained, pre):
    tokenizer, python, _ = trained(pre)
    assert (tokenizer.kind, tokenizer.vocab_size, tokenizer.bos, tokenizer.eos) == (BYTE_BPE, 512, 1, 2)
    assert [tokenizer.piece(id) for id in range(512)] == [*python.token_bytes]
    _compare(tokenizer, python, 512)


@pytest.mark.parametrize(
    "pre", ["starcoder", "refact", "codeshell", "exaone", "llama3", "llama-v3", "falcon3", "pixtral"]
)
def test_byte_bpe_other_name_of_a_pre_tokenizer_equals_llama_cpp(engine_library, tmp_path, pre):
    pytest.importorskip("llama_cpp")
    data = gguf(train("llama-bpe"), 512, pre=pre)  # merges of one split, words of another: what matters is both agree
    tokenizer, llama = EngineTokenizer(engine_library, data), llama_cpp(tmp_path / "a.gguf", data)
    rng = random.Random(4)
    for text in ("".join(rng.choices(PARTS, k=8)) for _ in range(150)):
        assert tokenizer.encode(text) == llama.tokenize(text.encode(), add_bos=False, special=False), text


def test_byte_bpe_unknown_pre_tokenizer_is_refused_by_name(engine_library):
    with pytest.raises(VocabularyError, match="splits words like mystery-7b, which this engine does not"):
        EngineTokenizer(engine_library, gguf(train("gpt-2"), 512, pre="mystery-7b"))


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_gguf_equals_tokenizer_of_its_files(engine_library, tmp_path, prefix):
    pytest.importorskip("llama_cpp")
    values = json.loads(library_json("sentencepiece"))
    if not prefix:
        values["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        values["decoder"]["decoders"].pop()
    files = {"tokenizer.json": json.dumps(values).encode()}
    files["tokenizer_config.json"] = json.dumps(
        {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    ).encode()
    data = gguf(files, 448)
    tokenizer, python = EngineTokenizer(engine_library, data), from_files(files, 448)
    assert (tokenizer.kind, tokenizer.bos, tokenizer.eos, tokenizer.add_bos) == (SENTENCEPIECE, 1, 2, True)
    assert [tokenizer.piece(id) for id in range(448)] == [*python.token_bytes]
    assert tokenizer.type(0) == SPECIAL and tokenizer.type(2) == SPECIAL | STOP and tokenizer.type(447) == PADDING
    _compare(tokenizer, python, 448)
    theirs = llama_cpp(tmp_path / "a.gguf", data)
    rng = random.Random(2)
    for text in ("".join(rng.choices(PARTS, k=8)) for _ in range(400)):
        assert tokenizer.encode(text) == theirs.tokenize(text.encode(), add_bos=False, special=False)


def test_sentencepiece_stories260k_equals_llama_cpp(engine_library, shared):
    pytest.importorskip("llama_cpp")
    from llama_cpp import Llama

    path = shared / "models" / "stories260K" / "stories260K.f32.gguf"
    tokenizer = EngineTokenizer(engine_library, path.read_bytes())
    theirs = Llama(str(path), vocab_only=True, verbose=False)
    story = (shared / "data" / "README.md").read_text()
    rng = random.Random(3)
    for text in [story, *("".join(rng.choices(PARTS, k=8)) for _ in range(400))]:
        assert tokenizer.encode(text) == theirs.tokenize(text.encode(), add_bos=False, special=False)


# ---- what cannot be read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [reason for reason in LIES if reason != "only 0 bytes"])
def test_vocab_contradictory_field_is_refused(engine_library, reason):
    with pytest.raises(VocabularyError) as caught:
        EngineTokenizer(engine_library, LIES[reason], bare=True)
    assert str(caught.value) and "\n" not in str(caught.value)


def test_vocab_utf16_is_refused_by_name(engine_library):
    data = TINY[:1] + b"\2" + TINY[2:]
    with pytest.raises(VocabularyError, match="charset UTF-16"):
        EngineTokenizer(engine_library, data)


def test_gguf_without_a_usable_tokenizer_is_refused_by_name(engine_library):
    files = train("gpt-2")
    for changes, reason in (
        ({"model": None}, "has no tokenizer"),
        ({"model": "bert"}, "kind bert, which this engine does not run"),
        ({"tokens": None}, "tokens is not a list"),
        ({"merges": None}, "merges is missing"),
        ({"merges": ["a"]}, "merge 0 is not a pair"),
        ({"merges": ["a 中"]}, "merge 0 joins or makes a text that is not a token"),
        ({"model": "llama"}, "scores does not have one score"),
        ({"tokens": ["a"] * 512}, "token 1 has the text of another one"),
    ):
        with pytest.raises(VocabularyError, match=reason):
            EngineTokenizer(engine_library, gguf(files, 512, **changes))


@pytest.mark.parametrize("compact", [False, True], ids=["whole", "compact"])
def test_vocab_mutated_file_is_read_as_python_does(engine_library, compact):
    """Whatever a damaged file is: both refuse it, or both give the same ids."""
    rng = random.Random(11)
    read = 0
    for original in [TINY, HANDMADE["level 2"].to_bytes(), HANDMADE["special"].to_bytes()]:
        for _ in range(80):
            data = bytearray(original)
            for _ in range(rng.choice([1, 1, 2, 5])):
                data[rng.randrange(len(data)) if rng.random() < 0.8 else rng.randrange(24)] = rng.randrange(256)
            data[1] = min(data[1], 3)
            try:
                vocabulary = Vocabulary.from_bytes(bytes(data))
            except VocabularyError:
                vocabulary = None
            if vocabulary is None or vocabulary.charset == 2:
                with pytest.raises(VocabularyError):
                    EngineTokenizer(engine_library, bytes(data), bare=True, compact=compact)
                continue
            read += 1
            text = "The cat's (MAT), there were 12 é\x00\x7f <eos>" * 3
            tokenizer = EngineTokenizer(engine_library, bytes(data), bare=True, compact=compact)
            assert tokenizer.encode(text) == vocabulary.encode(text)
    assert read > 30


@pytest.mark.parametrize("kind", ["monster", "sentencepiece", "gpt-2", "llama-bpe"])
def test_encode_hostile_text_takes_linear_time(engine_library, kind):
    """One word of 200,000 letters, or a run of what merges badly: well below a second, where n * n would take hours."""
    if kind == "monster":
        tokenizer = EngineTokenizer(engine_library, VOCABULARIES["level 2"].to_bytes())
    elif kind == "sentencepiece":
        files = {"tokenizer.json": library_json("sentencepiece").encode()}
        tokenizer = EngineTokenizer(engine_library, gguf(files, 448))
    else:
        tokenizer = EngineTokenizer(engine_library, gguf(train(kind), 512))
    for text in ("a" * 200_000, "A" * 200_000, " " * 200_000, "\u0301" * 100_000, "<|im_en" * 30_000, "A1" * 100_000):
        start = time.process_time()
        tokenizer.encode(text, specials=True)
        assert time.process_time() - start < 2


def test_damaged_files_under_sanitizers_are_refused_or_used():
    """Some thousand damaged files of each kind, in blocks of exactly their size: `make -C engine test` runs more."""
    make("build/checked/tokenizers")
    command = [ENGINE / "build" / "checked" / "tokenizers", "4000", "7"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
