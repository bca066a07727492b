"""`ban_replacement` masks: nothing they allow prints U+FFFD, nothing well-formed is banned, some id is allowed."""

import codecs
import random
from functools import cache

import numpy as np
import pytest
import tokenizers
from handmade import SHARED, VOCABS, build, small
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgekit.tokenizers.huggingface import JsonTokenizer
from edgekit.tokenizers.tokenmonster.tokenizer import TokenMonsterTokenizer
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary
from edgekit.tokenizers.utf8_mask import DEAD, Masks, machine

TEXTS = [
    "The cat's (MAT), McKAY: naïve été 12",
    "中文字 한국어 ไทย",
    "🙂👩\u200d🚀 \U0010ffff",
    "a\nb\tc  ÉTÉ À\u0301",
    "\ufeff\uffff\ufffc",
]
CORPUS = ["the cat sat on the mat and it was été and 中文", "naïve 🙂 cats, mats — and so on"] * 20


def byte_level_bpe(size: int = 400) -> bytes:
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(CORPUS, trainer)
    return library.to_str().encode()


@cache
def tokenizer(name: str):
    if name == "byte-level bpe":
        return JsonTokenizer(byte_level_bpe(), 448, stop=[0])
    if name == "stories260K":
        if not SHARED.is_dir():
            pytest.skip("needs the shared folder: a SentencePiece vocabulary with byte fallback")
        return JsonTokenizer((SHARED / "models/stories260K/hf/tokenizer.json").read_bytes(), 512, stop=[2])
    if name.startswith("level"):
        vocabulary = small(int(name[-1]), special=[b"<|>"] if name == "level 1" else [])
        return TokenMonsterTokenizer(vocabulary, vocabulary.table_size + 20)
    paths = [path for path in VOCABS if path.stem == name]
    if not paths:
        pytest.skip("needs the shared folder: published vocabularies")
    vocabulary = Vocabulary.load(paths[0])
    return TokenMonsterTokenizer(vocabulary, -(-(vocabulary.table_size + 2) // 128) * 128)


ALL = [
    "level 0", "level 1", "level 2", "byte-level bpe", "stories260K", "english-8000-strict-nocapcode-v1",
    "englishcode-16000-clean-v1",
]  # fmt: skip


def text_of(tok, tokens, context=()):
    decoder = tok.decoder(context)
    return "".join(map(decoder.feed, tokens)) + decoder.flush()


def piece(tok, id: int) -> bytes:
    return tok._masks._pieces[id]


@pytest.mark.parametrize("name", ALL)
def test_mask_sampling_never_prints_u_fffd(name):
    tok, rng = tokenizer(name), np.random.default_rng(5)
    short = np.array([0 < len(piece(tok, id)) <= 1 for id in range(tok.vocab_size)])
    odd = np.array([any(b >= 0x80 or b in b"\x7fCDW" for b in piece(tok, id)) for id in range(tok.vocab_size)])
    unfinished = 0
    for round in range(25):
        length = int(rng.integers(1, 40))
        decoder, tokens, pieces = tok.decoder(), [], []
        for left in reversed(range(length)):
            # Half of the rounds may end anywhere by their length, the others end in a whole character.
            mask = tok.utf8_mask(decoder, left if round % 2 else None)
            assert mask.any() and mask.shape == (tok.vocab_size,) and mask.dtype == bool
            # Prefer the hard cases: parts of characters, and markers among them.
            liked = [mask & short & odd, mask & odd, mask][int(rng.integers(3))]
            token = int(rng.choice(np.flatnonzero(liked if liked.any() else mask)))
            tokens.append(token)
            pieces.append(decoder.feed(token))
            assert "\ufffd" not in pieces[-1], (tokens, pieces)
        rest = decoder.flush()
        if round % 2:
            assert "\ufffd" not in rest, (tokens, pieces, rest)
            assert "\ufffd" not in tok.decode(tokens)
        unfinished += "\ufffd" in rest
    assert unfinished, "the test is too easy: no round ended inside a character"


@pytest.mark.parametrize("name", ALL)
def test_mask_encoded_text_is_never_banned(name):
    tok = tokenizer(name)
    for text in TEXTS:
        decoder, ids = tok.decoder(), tok.encode(text)
        for place, id in enumerate(ids):
            assert tok.utf8_mask(decoder)[id], (text, place, id)
            assert tok.utf8_mask(decoder, len(ids) - place - 1)[id]
            decoder.feed(id)


@pytest.mark.parametrize("name", ["level 0", "level 1", "level 2", "byte-level bpe"])
def test_mask_equals_trying_every_id(name):
    """Soundness and completeness by brute force: after one more id, is anything ill-formed?"""
    tok, rng = tokenizer(name), random.Random(2)
    singles = [id for id in range(tok.vocab_size) if len(piece(tok, id)) == 1]
    for _ in range(12):
        context: list[int] = []
        for _ in range(rng.randrange(5)):
            mask = tok.utf8_mask(tok.decoder(context))
            allowed = [id for id in singles if mask[id]]
            context.append(rng.choice([id for id in allowed if piece(tok, id)[0] >= 0x7F] or allowed))
        mask = tok.utf8_mask(tok.decoder(context))
        for id in range(tok.vocab_size):
            decoder = tok.decoder(context)
            printed = decoder.feed(id)
            whole = "\ufffd" not in printed + decoder.flush()
            if not piece(tok, id):
                special = id in tok.stop or id in getattr(tok, "special_ids", ()) or id == getattr(tok, "bos_id", None)
                special = special or id in getattr(getattr(tok, "vocabulary", None), "special_ids", ())
                clean = "\ufffd" not in text_of(tok, [], context)
                assert mask[id] == (special and clean), (context, id)
            elif whole:
                assert mask[id], (context, id)
            elif "\ufffd" in printed:
                assert not mask[id], (context, id)
            else:
                # Unfinished: these vocabularies have all bytes, so some bytes must finish it, as the mask claims.
                finished = any("\ufffd" not in text_of(tok, more, [*context, id]) for more in endings(tok))
                assert mask[id] == finished, (context, id)


@cache
def endings(tok):
    byte = {piece(tok, id)[0]: id for id in range(tok.vocab_size) if len(piece(tok, id)) == 1}
    continuations = [byte[b] for b in (0x80, 0x9F, 0xA0, 0xBE)]
    markers = [byte[b] for b in b"a\x7fD" if b in byte]
    starts = [[], *([m] for m in markers), *([m, n] for m in markers for n in markers)]
    ends = [[a] for a in continuations] + [[a, b] for a in continuations for b in continuations]
    ends += [[a, b, c] for a in continuations for b in continuations for c in (continuations[0],)]
    return [s + e for s in starts for e in ends]


def test_mask_stop_ids_only_between_characters():
    tok = tokenizer("level 1")
    vocabulary = tok.vocabulary
    byte = {vocabulary.base_bytes(id): id for id in range(vocabulary.table_size)}
    assert tok.utf8_mask(tok.decoder())[[tok.eos, tok.bos_id]].all()
    assert tok.utf8_mask(tok.decoder([byte[b"\x7f"]]))[tok.eos], "a pending marker is not an unfinished character"
    half = tok.utf8_mask(tok.decoder([byte[b"\xe2"]]))
    assert not half[[tok.eos, tok.bos_id]].any() and half[byte[b"\x82"]] and not half[byte[b"\xe2"]]
    assert half[byte[b"\x7f"]], "the marker deletes the byte after it, not this one"
    assert not tok.utf8_mask(tok.decoder())[vocabulary.table_size + 2 :].any(), "padding"
    assert not tok.utf8_mask(tok.decoder([byte[b"\x7f"], byte[b"\xe2"]]))[byte[b"\x82"]], "its lead byte was deleted"


def test_mask_u_fffd_token_is_banned():
    for name in ("level 0", "byte-level bpe"):
        tok = tokenizer(name)
        ids = tok.encode("\ufffd")
        masks = [tok.utf8_mask(tok.decoder(ids[:n]))[id] for n, id in enumerate(ids)]
        assert not all(masks)


def test_mask_lead_byte_without_continuation_is_banned():
    masks = Masks([b"a", b"\xc3", b"\xe0", b"\x82", b"\xe2\x82\xac", b"", b"\xe0\x9f"], specials=[5])
    assert masks.mask(masks.start).tolist() == [True, True, False, False, True, True, False], "E0 wants A0 or more"
    masks = Masks([b"a", b"\xc3", b"\xe2", b"\x82", b"\xe2\x82", b"\xc2"], specials=[])
    assert masks.mask(masks.start).tolist() == [True, True, True, False, True, True]
    assert masks.mask(masks.start, 1).tolist() == [True, True, False, False, True, True]
    assert masks.mask(masks.start, 0).tolist() == [True, False, False, False, False, False]
    assert masks.mask(masks.start, 10) is masks.mask(masks.start, 4), "cached"
    with pytest.raises(ValueError, match="read-only"):
        masks.mask(masks.start)[0] = False


def test_mask_prompt_ending_in_half_a_character():
    masks = Masks([b"a", b"\xf0\x9f", b"\x99\x82", b"\xe2"], specials=[])
    initial = masks.mask(masks.start).tolist()
    assert initial == [True, True, False, True]
    assert masks.mask(masks.after_bytes(b"so \xf0\x9f")).tolist() == [False, False, True, False], "finish it"
    assert masks.mask(masks.after_bytes(b"\xf0")).tolist() == initial, "nothing can"
    assert masks.after_bytes(b"\xff\xe2\x82 ") == masks.start, "lost bytes stay lost"
    masks = Masks([b"a", b"\x9f"], specials=[])
    late = masks.mask(masks.after_bytes(b"\xf0"), 0)
    assert late.tolist() == [False, True], "too late to finish: continue it anyway"


@pytest.mark.parametrize("level", [0, 1, 2])
def test_mask_vocabulary_of_all_bytes_always_allows_an_id(level):
    tok = TokenMonsterTokenizer(build([], level), 300)
    rng = np.random.default_rng(level)
    decoder, seen = tok.decoder(), set()
    for _ in range(600):
        mask = tok.utf8_mask(decoder)
        assert mask.any()
        allowed = np.flatnonzero(mask)
        high = [id for id in allowed if (piece(tok, id) or b"\0")[0] >= 0x7F or piece(tok, id) == b"D"]
        token = int(rng.choice(high or allowed))
        assert "\ufffd" not in decoder.feed(token)
        seen.add(piece(tok, token))
    assert len(seen) > 100


def test_mask_vocabulary_without_text_allows_specials():
    assert not Masks([b"", b""]).mask(1).any()
    assert Masks([b"", b""], specials=[1]).mask(1).tolist() == [False, True]


@given(st.binary(max_size=12))
@example(b"\xed\xa0")
@example(b"\x80\xed\xbf\x80")
@settings(max_examples=300)
def test_machine_real_states_equal_python_decoder(data):
    automaton, strict, real = machine(0), 1, 1
    for value in data:
        strict = int(automaton.strict[strict, automaton.classes[value]])
        real = automaton.real[real][automaton.classes[value]]
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    printed = decoder.decode(data)
    if decoder.getstate()[0][:1] == b"\xed" and decoder.getstate()[0][1:] >= b"\xa0":
        # Python waits for the third byte of a surrogate, which is ill-formed anyway; the automaton does not.
        printed += decoder.decode(b"", final=True)
    assert (strict == DEAD) == ("\ufffd" in printed)
    assert bool(automaton.clean[real]) == (not decoder.getstate()[0])
    if strict != DEAD:
        assert strict == real
