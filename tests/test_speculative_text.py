"""A text from one vocabulary to another and back, with tokenizers of real models and every TokenMonster capcode."""

import codecs

import pytest
from handmade import small
from helpers import NO_SHARED, SHARED
from hypothesis import example, given, settings
from hypothesis import strategies as st
from speculative_toys import OTHER, SMALL, Spelled

from edgekit.formats.hub import BUNDLED
from edgekit.inference.speculative.begin import same_vocabulary
from edgekit.inference.speculative.transcript import PrefixIndex, Transcript, ends_of, normal_forms, normalized
from edgekit.tokenizers.huggingface import JsonTokenizer
from edgekit.tokenizers.load import from_files
from edgekit.tokenizers.tokenmonster.tokenizer import TokenMonsterTokenizer

STORIES = SHARED / "models" / "stories260K" / "hf"


def folder(path):
    files = {each.name: each.read_bytes() for each in path.iterdir() if each.suffix in (".json", ".vocab")}
    return from_files(files, 8064 if "tokenmonster.vocab" in files else 512)


TOKENIZERS = {
    "bundled": folder(BUNDLED),
    **{f"level {level}": TokenMonsterTokenizer(small(level), 2000) for level in (0, 1, 2)},
    **({"SentencePiece": folder(STORIES)} if STORIES.is_dir() else {}),
}
TEXT = "The cat wasn't on a mat: 'Then I'd sat there,' he said—naïvely. THE END 12 times\n\n  (and not) “♥é中文” walks"
WORDS = st.lists(st.sampled_from([TEXT[i : i + n] for n in (1, 2, 3, 5, 9) for i in range(len(TEXT) - n)]), max_size=14)


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]


def writable(tokenizer, text):
    """The text after a round trip: decomposed, or without what the tokenizer has no ids for."""
    return tokenizer.decode(tokenizer.encode(text))


@pytest.mark.parametrize("name", TOKENIZERS)
@given(WORDS)
@settings(max_examples=60, deadline=None)
def test_reencode_changed_text_prints_the_new_text(name, words):
    tokenizer = TOKENIZERS[name]
    text, other = writable(tokenizer, "".join(words)), writable(tokenizer, "".join(words[:-3]) + " then")
    transcript = Transcript(tokenizer, tokenizer.encode(other))
    assert transcript.text == other[: len(transcript.text)] and transcript.ends == ends_of(tokenizer, transcript.ids)
    same = next(
        (i for i, (a, b) in enumerate(zip(text, transcript.text, strict=False)) if a != b),
        min(len(text), len(transcript.text)),
    )
    encoded = transcript.reencode(text, same)
    if encoded is None:  # only if the text cannot be written
        assert tokenizer.decode(tokenizer.encode(text)) != text
        return
    kept, ids = encoded
    transcript.cut(kept)
    transcript.extend(ids)
    assert tokenizer.decode(transcript.ids) == text
    assert transcript.text == text[: len(transcript.text)] and transcript.unchanged <= kept


def test_reencode_shorter_text_equals_encoding_all_of_it(tokenizer):
    """And only about a window is encoded for it."""
    text = writable(tokenizer, TEXT.split("\n")[0] * 5)
    transcript = Transcript(tokenizer, tokenizer.encode(text + "s"))
    whole = tokenizer.encode(text)
    kept, ids = transcript.reencode(text, len(text))
    assert [*transcript.ids[:kept], *ids] == whole and len(ids) < len(whole) / 3


@pytest.mark.parametrize("name", TOKENIZERS)
@given(WORDS, WORDS)
@settings(max_examples=80, deadline=None)
def test_encode_next_ids_print_the_text(name, before, more):
    """After any ids; and where the tokenizer itself would continue from them, with the same ids."""
    tokenizer = TOKENIZERS[name]
    whole = tokenizer.encode("".join(before) + "".join(more))
    transcript = Transcript(tokenizer, tokenizer.encode("".join(before)))
    more = writable(tokenizer, "".join(more))
    ids = transcript.encode_next(more)
    if ids is not None:
        decoder = tokenizer.decoder(transcript.ids)
        assert "".join(map(decoder.feed, ids)) == more
    text = Transcript(tokenizer, whole).text
    if whole[: len(transcript.ids)] == transcript.ids and text == transcript.text + more and ids is not None:
        assert ids == whole[len(transcript.ids) :] or len(transcript.text) > 48  # the context of a window may differ


def test_encode_next_half_a_character_is_completed_with_bytes():
    tokenizer = Spelled(SMALL, stop=[0])
    heart = [SMALL.index(bytes([byte])) for byte in "♥".encode()]
    for known in (0, 1, 2):
        transcript = Transcript(tokenizer, [1, 4, *heart[:known]])
        assert transcript.text == "a " and transcript.encode_next("♥b") == [*heart[known:], 2]
    assert Transcript(tokenizer, [1, heart[0]]).encode_next("b") is None, (
        "no id continues half a character with a letter"
    )


def test_encode_next_after_a_lone_delete_marker():
    """TokenMonster's marker deletes the next space, so what follows it must begin with one."""
    tokenizer = TOKENIZERS["level 1"]
    vocabulary = tokenizer.vocabulary
    ids = vocabulary.encode("cat.the")
    transcript = Transcript(tokenizer, [*vocabulary.encode("cat."), vocabulary.delete_token])
    assert transcript.text == "cat." and tokenizer.decode(ids) == "cat.the"
    found = transcript.encode_next(" the")
    assert found is None or tokenizer.decode(transcript.ids + found) == "cat. the"
    found = transcript.encode_next("the")
    assert found is not None and tokenizer.decode(transcript.ids + found) == "cat.the"


@given(st.lists(st.binary(min_size=1, max_size=4), unique=True, max_size=30), st.binary(min_size=1, max_size=3))
@example([b"a", b"a\xff", b"a\xff\xff\xff\xff", b"b"], b"a")
@settings(max_examples=100, deadline=None)
def test_prefix_index_returns_all_ids_that_begin_with_the_text(others, text):
    assert PrefixIndex([b"", *others]).starting_with(text) == sorted(
        (i for i, piece in enumerate([b"", *others]) if piece.startswith(text) and piece),
        key=([b"", *others]).__getitem__,
    )


def test_pieces_are_what_ids_print_in_a_text(tokenizer):
    shown, decoder = tokenizer.token_bytes, codecs.getincrementaldecoder("utf-8")
    assert len(shown) == tokenizer.vocab_size
    if getattr(getattr(tokenizer, "vocabulary", None), "capcode", 0) < 2:
        ids = tokenizer.encode(TEXT)
        text = decoder("replace").decode(b"".join(shown[id] for id in ids)).replace("\x7f ", "").strip()
        assert text == writable(tokenizer, TEXT).strip()


def test_normal_forms_of_each_pair():
    decomposed, composed = TOKENIZERS["level 1"], Spelled(OTHER)
    assert normal_forms(decomposed, composed) == ("NFD", "NFC") and normal_forms(composed, decomposed) == ("NFC", "NFD")
    assert (
        normal_forms(decomposed, decomposed) == (None, None)
        and normalized("é", "NFD") == "e\u0301"
        and normalized("é", None) == "é"
    )


def test_same_vocabulary_ignores_only_padding():
    one = TOKENIZERS["level 1"]
    assert same_vocabulary(one, TokenMonsterTokenizer(small(1), 900)), "apart from padding"
    assert not same_vocabulary(one, TOKENIZERS["level 2"]) and not same_vocabulary(one, Spelled(OTHER))
    assert same_vocabulary(Spelled(SMALL), Spelled([*SMALL, b"", b""]))
    assert not same_vocabulary(Spelled(SMALL), Spelled([*SMALL, b"x"])) and not same_vocabulary(
        Spelled(SMALL), Spelled(OTHER)
    )


@pytest.mark.skipif(not STORIES.is_dir(), reason=NO_SHARED)
def test_same_vocabulary_read_by_edgekit_and_by_llamacpp():
    load = pytest.importorskip("edgekit.model").load
    pytest.importorskip("llama_cpp")
    foreign = load(STORIES.parent / "stories260K.f32.gguf", threads=1)
    assert isinstance(TOKENIZERS["SentencePiece"], JsonTokenizer)
    assert same_vocabulary(foreign.tokenizer, TOKENIZERS["SentencePiece"])
