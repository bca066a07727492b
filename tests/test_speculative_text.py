"""A text from one vocabulary into another and back, with real models' tokenizers and every TokenMonster kind."""

import codecs

import pytest
from handmade import small
from helpers import SHARED
from hypothesis import example, given, settings
from hypothesis import strategies as st
from speculative_toys import OTHER, SMALL, Spelled

from edgekit.formats.hub import BUNDLED
from edgekit.inference.speculative.begin import same_vocabulary
from edgekit.inference.speculative.transcript import Openings, Transcript, ends_of, formed, forms
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
    """The text as the tokenizer gives it back: decomposed, or without what it has no ids for."""
    return tokenizer.decode(tokenizer.encode(text))


@pytest.mark.parametrize("name", TOKENIZERS)
@given(WORDS)
@settings(max_examples=60, deadline=None)
def test_a_text_that_took_another_turn_is_written_again(name, words):
    tokenizer = TOKENIZERS[name]
    text, other = writable(tokenizer, "".join(words)), writable(tokenizer, "".join(words[:-3]) + " then")
    own = Transcript(tokenizer, tokenizer.encode(other))
    assert own.text == other[: len(own.text)] and own.ends == ends_of(tokenizer, own.ids)
    same = next(
        (i for i, (a, b) in enumerate(zip(text, own.text, strict=False)) if a != b), min(len(text), len(own.text))
    )
    found = own.respell(text, same)
    if found is None:  # never where the text can be written at all
        assert tokenizer.decode(tokenizer.encode(text)) != text
        return
    kept, ids = found
    own.cut(kept)
    own.extend(ids)
    assert tokenizer.decode(own.ids) == text
    assert own.text == text[: len(own.text)] and own.unchanged <= kept


def test_the_end_is_written_as_the_whole_would_be(tokenizer):
    """And no more than a window's length is tokenized for it."""
    text = writable(tokenizer, TEXT.split("\n")[0] * 5)
    own = Transcript(tokenizer, tokenizer.encode(text + "s"))
    whole = tokenizer.encode(text)
    kept, ids = own.respell(text, len(text))
    assert [*own.ids[:kept], *ids] == whole and len(ids) < len(whole) / 3


@pytest.mark.parametrize("name", TOKENIZERS)
@given(WORDS, WORDS)
@settings(max_examples=80, deadline=None)
def test_what_is_spelt_is_printed(name, before, more):
    """From wherever the ids stand; and where the tokenizer itself would go on from them, as it does."""
    tokenizer = TOKENIZERS[name]
    whole = tokenizer.encode("".join(before) + "".join(more))
    own = Transcript(tokenizer, tokenizer.encode("".join(before)))
    more = writable(tokenizer, "".join(more))
    ids = own.spell(more)
    if ids is not None:
        decoder = tokenizer.decoder(own.ids)
        assert "".join(map(decoder.feed, ids)) == more
    text = Transcript(tokenizer, whole).text
    if whole[: len(own.ids)] == own.ids and text == own.text + more and ids is not None:
        assert ids == whole[len(own.ids) :] or len(own.text) > 48  # a window may see it otherwise


def test_half_a_character_is_finished_with_its_bytes():
    tokenizer = Spelled(SMALL, stop=[0])
    heart = [SMALL.index(bytes([byte])) for byte in "♥".encode()]
    for known in (0, 1, 2):
        own = Transcript(tokenizer, [1, 4, *heart[:known]])
        assert own.text == "a " and own.spell("♥b") == [*heart[known:], 2]
    assert Transcript(tokenizer, [1, heart[0]]).spell("b") is None, "no id goes on from half a character to a letter"


def test_after_a_lone_delete_marker():
    """TokenMonster's marker takes away the next space: what follows it must bring one to be taken away."""
    tokenizer = TOKENIZERS["level 1"]
    vocabulary = tokenizer.vocabulary
    ids = vocabulary.encode("cat.the")
    own = Transcript(tokenizer, [*vocabulary.encode("cat."), vocabulary.delete_token])
    assert own.text == "cat." and tokenizer.decode(ids) == "cat.the"
    found = own.spell(" the")
    assert found is None or tokenizer.decode(own.ids + found) == "cat. the"
    found = own.spell("the")
    assert found is not None and tokenizer.decode(own.ids + found) == "cat.the"


@given(st.lists(st.binary(min_size=1, max_size=4), unique=True, max_size=30), st.binary(min_size=1, max_size=3))
@example([b"a", b"a\xff", b"a\xff\xff\xff\xff", b"b"], b"a")
@settings(max_examples=100, deadline=None)
def test_openings(made, text):
    assert Openings([b"", *made]).of(text) == sorted(
        (i for i, piece in enumerate([b"", *made]) if piece.startswith(text) and piece), key=([b"", *made]).__getitem__
    )


def test_pieces_are_what_ids_print_in_a_text(tokenizer):
    shown, decoder = tokenizer.token_bytes, codecs.getincrementaldecoder("utf-8")
    assert len(shown) == tokenizer.vocab_size
    if getattr(getattr(tokenizer, "vocabulary", None), "capcode", 0) < 2:
        ids = tokenizer.encode(TEXT)
        said = decoder("replace").decode(b"".join(shown[id] for id in ids)).replace("\x7f ", "").strip()
        assert said == writable(tokenizer, TEXT).strip()


def test_unicode_forms():
    apart, composed = TOKENIZERS["level 1"], Spelled(OTHER)
    assert forms(apart, composed) == ("NFD", "NFC") and forms(composed, apart) == ("NFC", "NFD")
    assert forms(apart, apart) == (None, None) and formed("é", "NFD") == "e\u0301" and formed("é", None) == "é"


def test_which_vocabularies_are_the_same():
    one = TOKENIZERS["level 1"]
    assert same_vocabulary(one, TokenMonsterTokenizer(small(1), 900)), "but for padding"
    assert not same_vocabulary(one, TOKENIZERS["level 2"]) and not same_vocabulary(one, Spelled(OTHER))
    assert same_vocabulary(Spelled(SMALL), Spelled([*SMALL, b"", b""]))
    assert not same_vocabulary(Spelled(SMALL), Spelled([*SMALL, b"x"])) and not same_vocabulary(
        Spelled(SMALL), Spelled(OTHER)
    )


@pytest.mark.skipif(not STORIES.is_dir(), reason="needs the project's shared folder beside the checkout")
def test_a_vocabulary_is_the_same_read_by_edgekit_or_by_llamacpp():
    load = pytest.importorskip("edgekit.model").load
    pytest.importorskip("llama_cpp")
    foreign = load(STORIES.parent / "stories260K.f32.gguf", threads=1)
    assert isinstance(TOKENIZERS["SentencePiece"], JsonTokenizer)
    assert same_vocabulary(foreign.tokenizer, TOKENIZERS["SentencePiece"])
