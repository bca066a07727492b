"""Training a vocabulary: the result is valid, lossless and reproducible; bad input is one line."""

import gzip
import json
import random
import re
import unicodedata

import numpy as np
import pytest

from edgekit.errors import DataError, SettingError
from edgekit.tokenizers.tokenmonster.vocab_file import MODES, NONE
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary

pytest.importorskip("numba")  # of the extra `train`
from edgekit.tokenizers.tokenmonster.settings import VocabTraining
from edgekit.training import _vocab_counts, _vocab_text, vocab_train
from edgekit.training._vocab_candidates import count_candidates
from edgekit.training._vocab_modes import judge
from edgekit.training._vocab_trial import Trial, absence
from edgekit.training.fast_tokenizer import FastEncoder
from edgekit.training.vocab_build import Token, build, take_apart

NAMES = "Anna Ben Clara Dan Ella Finn Greta Hugo".split()
THINGS = "river garden lantern wooden boat silver button umbrella mountain kitchen window".split()
DEEDS = "walked to,looked at,dreamed of,painted,remembered,walked around,carried".split(",")


def story(seed: int) -> str:
    """Some sentences with dialogue, numbers, accents and quotes."""
    draw = random.Random(seed)
    lines = []
    for _ in range(12):
        name, thing, deed = draw.choice(NAMES), draw.choice(THINGS), draw.choice(DEEDS)
        lines.append(f"Once upon a time {name} {deed} the {thing}.")
        lines.append(f'"It isn\'t the {draw.choice(THINGS)}," said {name}, {draw.randint(2, 99)} times.')
        lines.append(draw.choice(["The café was closed; nobody came!", "And they all went home.\n"]))
    return "\n".join(lines)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Measure in fewer, larger groups, so that the tests take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocab_train, "GROUPS", 3)
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    with gzip.open(folder / "stories-00.jsonl.gz", "wt", encoding="utf-8") as file:
        for seed in range(60):
            file.write(json.dumps({"text": story(seed), "doc": f"s{seed}", "corpus": "stories"}) + "\n")
    (folder / "plain-1.txt").write_text("\n\n".join(story(seed) for seed in range(100, 110)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(corpus):
    return vocab_train.train([corpus], VocabTraining(size=450))


# ---- the result -----------------------------------------------------------------------------------------------------


def test_train_gives_valid_vocabulary_of_requested_size(trained, tmp_path):
    vocabulary = trained.vocabulary
    vocabulary.save(tmp_path / "x.vocab")
    again = Vocabulary.load(tmp_path / "x.vocab")
    assert again.to_bytes() == vocabulary.to_bytes()
    assert (again.size, again.table_size, again.unk) == (450, 450, NONE)
    assert (MODES[again.mode], again.capcode, again.normalization, again.reserve) == ("strict", 1, 1, 1)
    assert again.base_bytes(again.delete_token) == b"\x7f"


def test_train_derived_fields_equal_build(trained):
    tokens, settings = take_apart(trained.vocabulary)
    settings["follow"] = bytes(256)
    assert build(tokens, **settings).to_bytes() == trained.vocabulary.to_bytes()


def test_train_compresses_its_text(trained, corpus):
    assert trained.bytes_per_token > 4
    assert trained.works == 61 and trained.candidates > 194
    again = vocab_train.bytes_per_token(trained.vocabulary, [corpus])
    assert again == pytest.approx(trained.bytes_per_token, rel=1e-9)
    assert any(record.token.startswith(b" Once upon a time") for record in trained.vocabulary.records)


def test_train_scores_are_shares_of_the_text(trained):
    scores = [record.score for record in trained.vocabulary.records if record.score != -1.0]
    assert min(scores) >= 0 and 0.9999 < sum(scores) < 1.2  # each forced delete token counts as one more byte


@pytest.mark.parametrize("level, mode", [(1, "strict"), (2, "strict"), (0, "balanced"), (2, "unfiltered")])
def test_train_encoding_is_lossless(corpus, level, mode):
    made = vocab_train.train([corpus], VocabTraining(size=400, capcode=level, mode=mode))
    vocabulary, fast = made.vocabulary, FastEncoder(made.vocabulary)
    draw = np.random.default_rng(level)
    texts = [
        story(7).encode(),
        "Straße, naïve 中文 🙂 — “x”".encode(),
        b"\x00\x01\x1f\x7e\t\r\n",
        bytes(range(128, 256)),
    ]
    texts += [draw.integers(0, 256, 200, dtype=np.uint8).tobytes() for _ in range(5)]
    for text in texts:
        ids = vocabulary.encode(text)
        assert fast.encode(text).tolist() == ids
        stream = np.frombuffer(bytearray(vocabulary.normalize(text)), np.uint8)
        single = _vocab_text.Corpus([stream], np.ones(1, np.float32), np.zeros(1, np.int64), len(text))
        assert Trial(vocabulary, single).spans.sum() == stream.size, "every byte is in a token"
        expected = unicodedata.normalize("NFD", text.decode("utf-8", "surrogateescape"))
        if level == 1:
            expected = expected.replace("\x7f", "\x14")  # the delete marker's own byte is lost at this level
        assert vocabulary.decode_bytes(ids).decode("utf-8", "surrogateescape") == expected


def test_train_twice_gives_the_same_vocabulary(corpus, trained):
    settings = VocabTraining(size=450)
    assert vocab_train.train([corpus], settings).vocabulary.to_bytes() == trained.vocabulary.to_bytes()


def test_train_order_of_files_does_not_matter(corpus, trained):
    paths = sorted(corpus.iterdir(), reverse=True)
    assert vocab_train.train(paths, VocabTraining(size=450)).vocabulary.to_bytes() == trained.vocabulary.to_bytes()


def test_train_reports_progress_of_each_part(corpus):
    seen = []

    def progress(items, what, total):
        seen.append((what, total, len(items) == total))
        yield from items

    vocab_train.train([corpus], VocabTraining(size=300), progress=progress)
    assert {what for what, _, _ in seen} == {"reading", "counting substrings", "pruning", "refining", "tokenizing"}
    assert all(right for _, _, right in seen)


def test_read_cleaning_is_applied(tmp_path):
    (tmp_path / "a.txt").write_text("two  words\n\n\nand\tmore")
    for cleaning, text in (("none", "two  words\n\n\nand\tmore"), ("collapse", "two words and more")):
        corpus = _vocab_text.read([tmp_path], _bytes, vocab_train.silent, cleaning=cleaning)
        assert corpus.streams[0].tobytes().decode() == text


def test_train_one_word_has_no_tokens_of_several_words(corpus, trained):
    """No token continues into a second word, so the same text takes more tokens."""
    single = vocab_train.train([corpus], VocabTraining(size=350, one_word=True))

    def phrases(vocabulary):
        tokens = [record.token.decode("utf-8", "replace") for record in vocabulary.records]
        return [token for token in tokens if re.search(r"[^\W\d_]['\u2019]? +[^\W\d_]", token)]

    assert phrases(trained.vocabulary) and not phrases(single.vocabulary)
    assert single.vocabulary.size == 350 and single.bytes_per_token < trained.bytes_per_token


def test_read_weights_by_corpus(tmp_path):
    for name, word in (("one", "apple"), ("two", "banana")):
        lines = [json.dumps({"text": f"the {word} {number} " * 3}) for number in range(30)]
        (tmp_path / f"{name}-00.jsonl").write_text("\n".join(lines))
    corpus = _vocab_text.read([tmp_path], _bytes, vocab_train.silent, weights={"two": 5.0})
    assert sorted(set(corpus.weights.tolist())) == [1.0, 5.0]
    assert (corpus.weights == 5).sum() == 30 and len(set(corpus.works.tolist())) == 60
    with pytest.raises(SettingError, match="no corpus is named 'three': there are one, two"):
        _vocab_text.read([tmp_path], _bytes, vocab_train.silent, weights={"three": 2.0})
    with pytest.raises(SettingError, match="above 0"):
        _vocab_text.read([tmp_path], _bytes, vocab_train.silent, weights={"one": 0.0})


def _bytes(text: str):
    return np.frombuffer(bytearray(text.encode()), np.uint8)


# ---- the parts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode, level, yes, no", [
    ("strict", 1, [" the", " of the", " don't", "ing", "'s", "12", " 7", ".\n\n\x7f", " (\x7f", '."', "\u00e9", "   "],
     [" the.", "a1", "the cat", ' x"', "\x7f the", " of the ", ". ", "s\n", '("', "\x7f"[:0] + "a\x7f"]),
    ("strict", 2, [" the", "\nDC", " of the"], ["C the", "D the", "a.D"]),
    ("consistent", 1, [" the.", " well-known", " a1", "(the)"], [" the ...", " the cat. A"]),
    ("balanced", 1, [" the. The", "x, y", ".\n"], [" the ", "a  b", " the\n"]),
    ("clean", 1, ["the\n\nnext", ", "], ["the  next", " the "]),
    ("unfiltered", 1, ["the  next", " the "], ["\x7f the"]),
])  # fmt: skip
def test_judge_mode_accepts_and_rejects(mode, level, yes, no):
    assert [text for text in yes if not judge(text.encode(), mode, level).accepted] == []
    assert [text for text in no if judge(text.encode(), mode, level).accepted] == []


@pytest.mark.parametrize(
    "name",
    """english-1024-balanced-v1 english-8000-strict-nocapcode-v1 englishcode-16000-clean-v1
    fiction-4096-balanced-v1 tinystories-2048-strict""".split(),
)
def test_judge_accepts_all_published_tokens(shared, name):
    vocabulary = Vocabulary.load(shared / "tokenmonster" / "vocabs" / f"{name}.vocab")
    mode = MODES[vocabulary.mode]
    tokens = [r.token for r in vocabulary.records if r.score >= 0 and len(r.token) > 1 and not r.flags & 64]
    assert [token for token in tokens if not judge(token, mode, vocabulary.capcode).accepted] == []


def test_count_candidates_is_exact():
    texts = [story(seed).encode() for seed in range(5)]
    weights = np.array([1, 2, 1, 1, 3], np.float32)
    streams = [np.frombuffer(text, np.uint8) for text in texts]
    counts = count_candidates(
        streams, weights, mode="unfiltered", level=0, minimum=3, progress=vocab_train.silent
    )  # fmt: skip
    for token in random.Random(1).sample(sorted(counts), 300):
        overlapping = [sum(text.startswith(token, at) for at in range(len(text))) for text in texts]
        assert counts[token] == np.dot(overlapping, weights)
    assert b"Once upon a time " in counts and b"O" not in counts and max(map(len, counts)) == 40


def test_count_candidates_phrase_not_before_a_letter():
    streams = [np.frombuffer(b" of these of the of the", np.uint8)]
    counts = count_candidates(
        streams, np.ones(1, np.float32), mode="strict", level=1, minimum=2, progress=vocab_train.silent
    )
    assert counts[b" the"] == 3 and counts[b" of the"] == 2 and b" of th" not in counts


def test_uses_and_pairs_report_the_most_frequent_work():
    ids = np.array([0, 1, 0, 1, 0, 1, 2, 0, 1], np.int32)
    ends, weights = np.array([4, 7, 9]), np.array([1, 2, 1], np.float32)
    total, most = _vocab_counts.uses(ids, ends, weights, np.array([0, 0, 1]), 3)
    assert total.tolist() == [5, 5, 2] and most.tolist() == [4, 4, 2]
    keys, total, most = _vocab_counts.pairs(ids, ends, weights, np.array([0, 0, 1]), 3)
    assert dict(zip(keys.tolist(), zip(total.tolist(), most.tolist(), strict=True), strict=True)) == {
        1: (5, 4), 3: (1, 1), 5: (2, 2)
    }  # fmt: skip


def test_absence_equals_additional_tokens_without_it():
    texts = [story(seed) for seed in range(8)]
    whole = [bytes((byte,)) for byte in range(256)]

    def made(tokens):
        return build([Token(token) for token in [*whole, *tokens]], capcode=1)

    streams = [np.frombuffer(bytearray(made([]).normalize(text)), np.uint8) for text in texts]
    corpus = _vocab_text.Corpus(streams, np.ones(8, np.float32), np.zeros(8, np.int64), 0)
    tokens = [b" the", b" time", b" ti", b" walked", b" walked to", b" river", b"ed", b" was"]
    costs = absence(tokens, corpus, made, len(tokens), np.random.default_rng(0))  # each is left out separately
    before = Trial(made(tokens), corpus).ids.size
    for token in tokens:
        after = Trial(made([other for other in tokens if other != token]), corpus).ids.size
        assert costs[token] == pytest.approx(after - before), token


def test_pieces_long_text_is_cut_at_newlines():
    text = "\n".join(story(seed) for seed in range(150))
    assert "".join(_vocab_text._pieces(text)) == text and len(list(_vocab_text._pieces(text))) > 3
    assert list(_vocab_text._pieces("x" * 100_000)) == ["x" * 100_000]


def test_sample_is_a_part_in_order(corpus):
    whole = _vocab_text.read([corpus], _bytes, vocab_train.silent)
    part = whole.sample(20_000, np.random.default_rng(0))
    assert 10_000 < sum(stream.size for stream in part.streams) <= 24_000
    assert (np.diff(part.works) >= 0).all() and part.works.size == len(part.streams)
    assert whole.sample(1 << 40, np.random.default_rng(0)) is whole


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, content, words", [
    ("a.txt", b"", "a.txt is empty"),
    ("a.txt", b"GIF\0\0\1", "binary"),
    ("a.txt", b"caf\xe9", "not UTF-8"),
    ("a.jsonl.gz", b"plain", "not a whole gzip"),
    ("a.jsonl.gz", gzip.compress(b'{"text": "x"}' * 99, mtime=0)[:-20], "not a whole gzip"),
    ("a.jsonl", b'{"text": "x"}\n{"text": ', "line 2 is not JSON"),
    ("a.jsonl", b'{"body": "x"}', "line 1 has no text"),
    ("a.jsonl", b'{"text": ""}', "no text in"),
    ("a.gif", b"GIF", "is not one of"),
    ("a.txt", b"too little for so many", "lower the size"),
])  # fmt: skip
def test_train_bad_file_raises(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        vocab_train.train([tmp_path / name], VocabTraining(size=600))


def test_train_missing_data_raises(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        vocab_train.train([tmp_path / "nowhere.txt"], VocabTraining())
    with pytest.raises(DataError, match="has no"):
        vocab_train.train([tmp_path], VocabTraining())


def test_train_size_below_single_bytes_raises(corpus):
    with pytest.raises(SettingError, match="above 256"):
        vocab_train.train([corpus], VocabTraining(size=256))
    with pytest.raises(SettingError, match="above 233"):
        vocab_train.train([corpus], VocabTraining(size=200, capcode=2))


def test_settings_invalid_mode_raises(corpus):
    with pytest.raises(SettingError, match="mode must be"):
        VocabTraining(mode="loose")
    with pytest.raises(SettingError, match="needs capcode 1 or 2"):
        vocab_train.train([corpus], VocabTraining(size=300, capcode=0))


def test_read_lone_surrogates_in_json_are_replaced(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a \\ud800 b"}\n')
    corpus = _vocab_text.read([tmp_path], _bytes, vocab_train.silent)
    assert corpus.streams[0].tobytes().decode() == "a \ufffd b"
