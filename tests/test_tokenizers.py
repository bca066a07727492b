"""Model-level tokenizers: TokenMonster's ids above the vocabulary, tokenizer.json, streams, specials out of band."""

import json
import subprocess
import sys
import time
from functools import cache

import pytest
import tokenizers
from handmade import NO_SHARED, SHARED, small
from helpers import tokenmonster_files
from hypothesis import given, settings
from hypothesis import strategies as st
from test_utf8_mask import byte_level_bpe

from edgekit.errors import PromptError, VocabularyError
from edgekit.tokenizers.huggingface import JsonTokenizer
from edgekit.tokenizers.load import from_files
from edgekit.tokenizers.tokenmonster.tokenizer import TokenMonsterTokenizer, files_for

STORIES = SHARED / "models" / "stories260K" / "hf"
TEXTS = [
    "", " ", "Once upon a time", "  two  spaces ", "a\nb\tc", "</s>", "a</s>b <s><unk>", "<|end|>",
    "été e\u0301 中文 🙂", "Hello, World! don't 12.5", "\ufffd", "<0x41>", "▁x",
]  # fmt: skip


def as_json(library: tokenizers.Tokenizer) -> bytes:
    return library.to_str().encode()


def metaspace() -> bytes:
    """A Unigram model whose specials are pieces of the model itself, as T5's are."""
    pieces = [("<unk>", 0.0), ("<s>", -5.0), ("</s>", -5.0), ("▁", -2.0), ("▁the", -1.0), ("cat", -1.5)]
    pieces += [(c, -3.0) for c in "abcdehstu/>"]
    library = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=0, byte_fallback=False))
    library.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    library.decoder = tokenizers.decoders.Metaspace()
    library.add_special_tokens(["<unk>", "<s>", "</s>"])
    library.post_processor = tokenizers.processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 2)])
    return as_json(library)


def words() -> bytes:
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "a": 1, "cat": 2, "é": 3}, "[UNK]"))
    library.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return as_json(library)


@cache
def tokenizer(name: str):
    if name == "stories260K":
        if not SHARED.is_dir():
            pytest.skip(NO_SHARED)
        return from_files({p.name: p.read_bytes() for p in STORIES.glob("*.json")}, 512)
    if name == "byte-level bpe":
        return JsonTokenizer(byte_level_bpe(), 448, stop=[0])
    if name in ("metaspace", "words"):
        return JsonTokenizer({"metaspace": metaspace, "words": words}[name](), 32)
    vocabulary = small(int(name[-1]), special=[b"<|>"] if name == "level 1" else [])
    return TokenMonsterTokenizer(vocabulary, vocabulary.table_size + 20)


ORDINARY = ["stories260K", "byte-level bpe", "metaspace", "words"]
ALL = [*ORDINARY, "level 0", "level 1", "level 2"]


def streamed(tok, tokens, context=()):
    decoder = tok.decoder(context)
    return "".join(map(decoder.feed, tokens)) + decoder.flush()


# ---- streams: one rule for all ----


@pytest.mark.parametrize("name", ALL)
def test_decoder_stream_equals_decode_and_continues_context(name):
    tok = tokenizer(name)

    @given(st.data())
    @settings(max_examples=80, deadline=None)
    def check(data):
        odd = [id for id in range(tok.vocab_size) if any(b >= 0x7F or b in b"CDW <" for b in bytes_of(tok, id))]
        ids = st.one_of(st.integers(0, tok.vocab_size - 1), st.sampled_from(odd or [0]))
        tokens = data.draw(st.lists(ids, max_size=24))
        cut = data.draw(st.integers(0, len(tokens)))
        assert streamed(tok, tokens) == tok.decode(tokens)
        context, rest = tokens[:cut], tokens[cut:]
        before = certain(tok, context)
        assert before + streamed(tok, rest, context) == tok.decode(tokens)
        if before == tok.decode(context):  # it ends at a character boundary
            assert tok.decode(context) + streamed(tok, rest, context) == tok.decode(tokens)

    check()


def bytes_of(tok, id: int) -> bytes:
    return tok.token_bytes[id] if isinstance(tok, JsonTokenizer) else tok.vocabulary.piece(id)


def certain(tok, context) -> str:
    decoder = tok.decoder()
    return "".join(map(decoder.feed, context))


@pytest.mark.parametrize("name", ALL)
def test_decoder_flush_starts_over(name):
    tok = tokenizer(name)
    ids = tok.encode(" the cat") or [1]
    decoder = tok.decoder()
    first = "".join(map(decoder.feed, ids)) + decoder.flush()
    assert first == "".join(map(decoder.feed, ids)) + decoder.flush() == tok.decode(ids)
    assert tok.utf8_mask(decoder) is tok.utf8_mask(tok.decoder())


def test_decoder_long_stream_takes_constant_time_per_id():
    tok = tokenizer("byte-level bpe")
    ids = tok.encode("the cat sat 🙂 ") * 2000
    begin = time.perf_counter()
    assert streamed(tok, ids) == tok.decode(ids)
    assert time.perf_counter() - begin < 5, "20,000 ids; a look back over all of them would take minutes"


# ---- ordinary tokenizers ----


@pytest.mark.parametrize("name", ORDINARY)
def test_json_tokenizer_text_equals_library(name):
    tok = tokenizer(name)
    library = tokenizers.Tokenizer.from_buffer(tok._data)
    library.encode_special_tokens = True
    for text in TEXTS:
        ids = tok.encode(text)
        if name != "metaspace":
            assert ids == library.encode(text, add_special_tokens=False).ids
        assert tok.decode(ids) == library.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("name", ORDINARY)
def test_json_tokenizer_any_ids_decode_as_library(name):
    tok = tokenizer(name)
    library = tokenizers.Tokenizer.from_buffer(tok._data)

    @given(st.lists(st.integers(0, tok.vocab_size - 1), max_size=12))
    @settings(max_examples=300, deadline=None)
    def agree(ids):
        theirs = library.decode(ids, skip_special_tokens=True)
        if "\ufffd" not in theirs or name == "byte-level bpe":
            assert tok.decode(ids) == theirs
        else:
            # Byte fallback: the library replaces whole runs of bytes; the rest of them is the same.
            assert "\ufffd" in tok.decode(ids)

    agree()


def test_json_tokenizer_stories260k_equals_transformers():
    tok = tokenizer("stories260K")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(STORIES)
    for text in ["Once upon a time", "Lily's été 🙂", "a  b\n"]:
        assert [tok.bos, *tok.encode(text)] == theirs.encode(text)
        assert tok.decode(tok.encode(text)) == theirs.decode(theirs.encode(text), skip_special_tokens=True) == text
    assert tok.bos == theirs.bos_token_id and tok.stop == {theirs.eos_token_id}


@pytest.mark.parametrize("name", ALL)
def test_encode_spelled_special_gives_no_special_id(name):
    tok = tokenizer(name)
    silent = tok.special_ids if isinstance(tok, JsonTokenizer) else set(tok.specials.values())
    spelled = ["</s>", "<s>", "<unk>", "<|end|>", "<|>", "a</s>b", "</s></s>"]
    for text in spelled:
        ids = tok.encode(text)
        known = silent - ({0} if name in ("metaspace", "words", "stories260K") else set())  # unknown text is <unk>
        assert not known & set(ids), (text, ids)
    if name not in ("metaspace", "words"):
        for text in spelled:
            assert tok.decode(tok.encode(text)) == text
    for id in silent:
        assert tok.decode([id]) == ""


def test_encode_specials_true_gives_special_id():
    tok = tokenizer("byte-level bpe")
    assert tok.encode("a<|end|>", specials=True)[-1] == 0 and tok.encode("a<|end|>")[-1] != 0
    tok = tokenizer("metaspace")
    assert 2 in tok.encode("the</s>", specials=True)
    tok = tokenizer("level 1")
    special = next(iter(tok.vocabulary.special_ids))
    base = tok.vocabulary.table_size
    assert tok.encode("</s>a<|><s>", specials=True) == [base, *tok.encode("a"), special, base + 1]
    assert tok.encode("", specials=True) == []


@pytest.mark.parametrize("name", ALL)
def test_encode_lone_surrogate_raises(name):
    for specials in (False, True):
        with pytest.raises(PromptError, match="not UTF-8"):
            tokenizer(name).encode("ab\ud800", specials=specials)


def test_from_files_bos_by_template_or_configuration():
    data = json.loads(byte_level_bpe())
    plain = {"tokenizer.json": json.dumps(data).encode()}
    assert from_files(plain, 448).bos is None
    library = tokenizers.Tokenizer.from_buffer(plain["tokenizer.json"])
    library.post_processor = tokenizers.processors.TemplateProcessing("<|end|> $A", special_tokens=[("<|end|>", 0)])
    requested = {"tokenizer.json": as_json(library)}
    assert from_files(requested, 448).bos == 0
    off = {**requested, "tokenizer_config.json": b'{"add_bos_token": false}'}
    assert from_files(off, 448).bos is None
    on = {**plain, "tokenizer_config.json": b'{"add_bos_token": true, "bos_token": {"content": "<|end|>"}}'}
    assert from_files(on, 448).bos == 0
    on = {**plain, "tokenizer_config.json": b'{"add_bos_token": true}', "config.json": b'{"bos_token_id": 7}'}
    assert from_files(on, 448).bos == 7
    assert from_files({"tokenizer.json": metaspace()}, 32).bos is None, "a template that only ends a text"


def test_from_files_stop_is_every_configured_eos():
    files = {
        "tokenizer.json": byte_level_bpe(),
        "config.json": b'{"eos_token_id": 5}',
        "generation_config.json": b'{"eos_token_id": [6, 7, 100000]}',
        "special_tokens_map.json": b'{"eos_token": "<|end|>"}',
    }
    assert from_files(files, 448).stop == {0, 5, 6, 7}
    assert from_files({"tokenizer.json": byte_level_bpe()}, 448).stop == frozenset()


def test_json_tokenizer_unmarked_eos_is_special():
    data = json.loads(byte_level_bpe())
    data["added_tokens"][0]["special"] = False
    files = {"tokenizer.json": json.dumps(data).encode(), "config.json": b'{"eos_token_id": 0}'}
    tok = from_files(files, 448)
    assert tok.stop == {0} and 0 not in tok.encode("a<|end|>") and tok.decode([0]) == ""
    assert tok.decode(tok.encode("a<|end|>b")) == "a<|end|>b"
    unmarked = from_files({**files, "config.json": b"{}"}, 448)
    assert 0 in unmarked.encode("a<|end|>"), "any other added token is a word of the vocabulary"


def test_json_tokenizer_truncation_and_padding_are_ignored():
    library = tokenizers.Tokenizer.from_buffer(byte_level_bpe())
    library.enable_truncation(3)
    library.enable_padding(length=50)
    assert len(JsonTokenizer(as_json(library), 448).encode("the cat sat on the mat zzzz")) > 8


AN_A = {"pattern": {"String": "a"}, "content": ""}


@pytest.mark.parametrize("decoder", [
    {"type": "WordPiece", "prefix": "##", "cleanup": True},
    {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Replace", **AN_A}]},
    {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"Regex": "a"}, "content": ""}]},
    {"type": "Sequence", "decoders": [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 1}]},
])  # fmt: skip
def test_json_tokenizer_unsupported_decoder_raises(decoder):
    data = {**json.loads(byte_level_bpe()), "decoder": decoder}
    with pytest.raises(VocabularyError, match="not supported"):
        JsonTokenizer(json.dumps(data).encode(), 448)


def test_decoder_strip_removes_at_most_n_characters():
    steps = [
        {"type": "Replace", "pattern": {"String": "Ġ"}, "content": " "},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 2, "stop": 0},
    ]
    data = {**json.loads(byte_level_bpe()), "decoder": {"type": "Sequence", "decoders": steps}}
    tok = JsonTokenizer(json.dumps(data).encode(), 448)
    library = tokenizers.Tokenizer.from_buffer(tok._data)
    space, a = library.token_to_id("Ġ"), library.token_to_id("a")
    for ids in ([space] * 3 + [a], [space, a, space], [a, space], [space], [0, space, space, space]):
        assert streamed(tok, ids) == tok.decode(ids) == library.decode(ids)


@pytest.mark.parametrize("files, size, message", [
    ({}, 512, "no tokenizer"),
    ({"tokenizer.model": b"x"}, 512, "tokenizer.model is not a whole SentencePiece model"),
    ({"tokenizer.json": b"{}"}, 512, "tokenizer.json cannot be read"),
    ({"tokenizer.json": b"\xff\x00"}, 512, "tokenizer.json cannot be read"),
    ({"tokenizer_config.json": b"[1]"}, 512, "not a JSON object"),
    ({"tokenizer_config.json": b"{"}, 512, "tokenizer_config.json is not JSON"),
    ({"tokenizer_config.json": b'{"tokenizer_type": "tokenmonster"}'}, 512, "tokenmonster.vocab.*not next to"),
    ({"tokenizer_config.json": b'{"tokenizer_type": "tokenmonster", "vocab_file": "../x"}'}, 512, "be a file name"),
    ({"tokenizer_config.json": b'{"tokenizer_type": "tokenmonster", "vocab_file": 3}'}, 512, "be a file name"),
    ({"tokenmonster.vocab": b"nonsense"}, 512, "^tokenmonster.vocab: "),
])  # fmt: skip
def test_from_files_damaged_is_one_line(files, size, message):
    with pytest.raises(VocabularyError, match=message) as caught:
        from_files(files, size)
    assert "\n" not in str(caught.value)


def test_from_files_more_ids_than_rows_names_both():
    vocabulary = small(1)
    with pytest.raises(VocabularyError, match=rf"{vocabulary.table_size} ids.*100 rows"):
        from_files(tokenmonster_files(vocabulary.to_bytes()), 100)
    with pytest.raises(VocabularyError, match=r"\d+ ids.*100 rows"):
        from_files({"tokenizer.json": byte_level_bpe()}, 100)
    with pytest.raises(VocabularyError, match=rf"{vocabulary.table_size} ids.*{vocabulary.table_size + 1} embedding"):
        files_for(vocabulary.to_bytes(), vocabulary.table_size + 1)


def test_base_imports_nothing_heavy():
    script = "import edgekit.tokenizers.base, sys; print(*sys.modules)"
    modules = set(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.split())
    assert "edgekit.tokenizers.base" in modules and not modules & {"numpy", "tokenizers", "huggingface_hub"}
