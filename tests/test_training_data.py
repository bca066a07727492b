"""Training text: cleaned as in the model card, tokenized once, packed without loss, in a resumable order."""

import gzip
import itertools
import json
import subprocess
import sys
import unicodedata

import numpy as np
import pytest

pytest.importorskip("numba")

from edgekit.errors import DataError, FileError, MissingExtraError, RecipeError
from edgekit.training import data, encoding, recipe, shards, sources
from edgekit.training.sections import Data, Source

EOS, BOS = 256, 257
BYTES = data.vocabulary("bytes")


def clean_text_of_the_card(text: str) -> str:
    """The function in Stentor2's model card, verbatim."""
    text = unicodedata.normalize("NFKC", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    text = " ".join(lines)
    text = " ".join(text.split())
    return text


HARD = [
    "",
    " a  b ",
    "a\r\n\r\nb\x0bc\x1cd",
    "ﬁne ½\u00a0x\u2028y\u3000z",
    "\ttab\n\n\n\nend\n",
    "e\u0301 \u200b x\x85y",
]


@pytest.mark.parametrize("sample", HARD)
def test_clean_collapse_equals_model_card(sample):
    assert sources.clean(sample, "collapse") == clean_text_of_the_card(sample)
    assert sources.clean(sample, "none") == sample


def test_clean_lines_keeps_line_breaks():
    assert sources.clean(" One  ﬁne\tday \n\n\n\n two \nthree\n", "lines") == "One fine day\n\ntwo\nthree"


def prepared(tmp_path, sources, vocabulary=BYTES, meter=shards.silent, **more):
    texts = Data(sources=tuple(sources), cache=str(tmp_path / "cache"), **more)
    return shards.prepare(texts, vocabulary, BOS, EOS, meter)


def stream(tokens, row):
    return tokens.shards[row["shard"]][row["start"] : row["start"] + row["tokens"]]


def texts(tmp_path, count=40, name="corpus"):
    """A folder of one JSON-lines file and one gzipped, two corpora."""
    folder = tmp_path / name
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = [
        {"text": "".join(map(chr, rng.integers(97, 123, rng.integers(3, 90)))), "doc": f"d{i // 2}",
         "corpus": "odd" if i % 2 else "even"}
        for i in range(count)
    ]  # fmt: skip
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows[: count // 2])) + "\n\n")
    (folder / "b-00.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows[count // 2 :])).encode()))
    return folder, rows


def test_prepare_has_every_document(tmp_path):
    folder, rows = texts(tmp_path)
    tokens = prepared(tmp_path, [Source(path=str(folder))])
    assert tokens.corpora == ("even", "odd") and len(tokens.documents) == len(rows)
    for row, document in zip(rows, tokens.documents, strict=True):
        assert bytes(stream(tokens, document).astype(np.uint8)[:-1]).decode() == row["text"]
        assert stream(tokens, document)[-1] == EOS
        assert (tokens.corpora[document["corpus"]], document["bytes"]) == (row["corpus"], len(row["text"]))


def test_prepare_add_bos_starts_documents_with_bos(tmp_path):
    folder, rows = texts(tmp_path)
    plain, with_bos = (prepared(tmp_path, [Source(path=str(folder))], add_bos=add) for add in (False, True))
    assert plain.folder != with_bos.folder
    for row, document in zip(rows, with_bos.documents, strict=True):
        ids = stream(with_bos, document)
        assert (ids[0], ids[-1], bytes(ids[1:-1].astype(np.uint8)).decode()) == (BOS, EOS, row["text"])
    assert (with_bos.documents["tokens"] == plain.documents["tokens"] + 1).all()


def test_prepare_same_inputs_reuses_shards(tmp_path):
    folder, _ = texts(tmp_path)
    seen = []
    first = prepared(tmp_path, [Source(path=str(folder))], meter=lambda *a, **k: seen.append(a))
    assert seen and first.folder.is_dir()
    seen.clear()
    again = prepared(tmp_path, [Source(path=str(folder), weight=3.0)], meter=lambda *a, **k: seen.append(a))
    assert again.folder == first.folder and not seen  # weights change the order, not the shards
    assert prepared(tmp_path, [Source(path=str(folder))], cleaning="lines").folder != first.folder
    (folder / "a.jsonl").write_text('{"text": "another"}')
    assert prepared(tmp_path, [Source(path=str(folder))]).folder != first.folder
    (first.folder / "000.bin").write_bytes(b"\0\0")
    with pytest.raises(DataError, match="is damaged"):
        shards.open_shards(first.folder)


def test_prepare_in_processes_gives_the_same_shards(tmp_path, monkeypatch):
    folder, _ = texts(tmp_path, 400)
    single = prepared(tmp_path, [Source(path=str(folder))], workers=1)
    monkeypatch.setattr(encoding, "SMALL", 1000)
    monkeypatch.setattr(encoding, "BATCH", 500)
    many = prepared(tmp_path / "many", [Source(path=str(folder))], workers=2)
    assert np.array_equal(single.documents, many.documents)
    assert np.array_equal(single.shards[0], many.shards[0])


def test_prepare_script_from_stdin_works(tmp_path):
    """multiprocessing would import the caller's main module, which a script read from stdin does not have."""
    folder, _ = texts(tmp_path, 200)
    script = f"""
from edgekit.training import data, encoding, shards
from edgekit.training.sections import Data, Source
encoding.SMALL = encoding.BATCH = 500
texts = Data(sources=(Source(path={str(folder)!r}),), cache={str(tmp_path)!r}, workers=2)
tokens = shards.prepare(texts, data.vocabulary("bytes"), 257, 256)
assert len(tokens.documents) == 200
"""
    subprocess.run([sys.executable, "-"], input=script.encode(), check=True, timeout=60)


def test_prepare_dead_process_raises(tmp_path, monkeypatch):
    folder, _ = texts(tmp_path, 200)
    monkeypatch.setattr(encoding, "SMALL", 500)
    monkeypatch.setattr(encoding, "BATCH", 500)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Exception, match="a tokenizing process died"):
        prepared(tmp_path, [Source(path=str(folder))], workers=2)
    assert not list((tmp_path / "cache").iterdir())


def test_prepare_validation_fraction_splits_by_document(tmp_path):
    folder, rows = texts(tmp_path, 400)
    tokens = prepared(tmp_path, [Source(path=str(folder))], validation_fraction=0.2)
    out = {rows[i]["doc"] for i in np.flatnonzero(tokens.documents["split"])}
    training = {rows[i]["doc"] for i in np.flatnonzero(tokens.documents["split"] == 0)}
    assert out and training and not out & training and 0.1 < len(out) / 200 < 0.3
    assert out == {row["doc"] for row in rows if shards.held_out(row["doc"], 0.2)}


def test_prepare_token_budgets_limit_sources(tmp_path):
    folder, _ = texts(tmp_path, 400)
    other, _ = texts(tmp_path, 10, "other")
    both = [Source(path=str(other)), Source(path=str(folder))]
    tokens = prepared(tmp_path, both, source_token_budget=8000)
    sizes = [int(tokens.documents["tokens"][tokens.documents["source"] == i].sum()) for i in (0, 1)]
    assert sizes[0] < 1000 and 8000 <= sum(sizes) < 8100  # the large source makes up for the small one
    tokens = prepared(tmp_path, [Source(path=str(folder), tokens=500)])
    assert 500 <= tokens.documents["tokens"].sum() < 600


def blocks(tmp_path, size=32, seed=1, **source):
    folder, _ = texts(tmp_path)
    tokens = prepared(tmp_path, [Source(path=str(folder), **source)])
    r = recipe.from_dict({"data": {"sources": [{"path": str(folder), **source}]}, "training": {"max_train_steps": 1}})
    return data.Blocks(tokens, data.weights_of(r, tokens), size, seed)


def test_blocks_epoch_has_every_token_once(tmp_path):
    packed = blocks(tmp_path)
    every = np.concatenate([stream(packed.data, d) for d in packed.documents])
    count = packed.count(0)
    seen = packed.batch(0, range(count)).ravel()
    assert count == len(every) // 32 and len(seen) == count * 32
    lacking = np.bincount(every, minlength=257) - np.bincount(seen, minlength=257)
    assert lacking.min() >= 0 and lacking.sum() == len(every) % 32


def test_blocks_order_depends_on_seed_epoch_and_position_only(tmp_path):
    one = blocks(tmp_path)
    asked = [(0, 3), (1, 0), (0, 3), (5, 2), (1, 0)]
    first = {at: one.batch(at[0], [at[1]]) for at in asked}
    two = data.Blocks(one.data, one.weights, 32, 1)
    for epoch, position in itertools.islice(reversed(asked), 5):
        assert np.array_equal(two.batch(epoch, [position]), first[epoch, position])
    assert not np.array_equal(one.batch(0, range(5)), one.batch(1, range(5)))
    assert not np.array_equal(one.batch(0, range(5)), data.Blocks(one.data, one.weights, 32, 2).batch(0, range(5)))


def test_blocks_weights_repeat_documents(tmp_path):
    packed = blocks(tmp_path, weights={"odd": 2.5}, weight=1)
    rng = np.random.default_rng([1, 0])  # the documented draw: how often each document is repeated
    copies = np.floor(packed.weights) + (rng.random(len(packed.weights)) < packed.weights % 1)
    assert set(copies[packed.weights == 1]) == {1} and set(copies[packed.weights == 2.5]) == {2, 3}
    assert packed.count(0) == int((packed.documents["tokens"] * copies).sum()) // 32
    with pytest.raises(RecipeError, match=r"names 'evn', which is not in it: it has even, odd"):
        blocks(tmp_path / "x", weights={"evn": 2})


@pytest.fixture(autouse=True)
def _folder(tmp_path):
    (tmp_path / "x").mkdir()


def test_validation_blocks_by_corpus_up_to_limit(tmp_path):
    folder, _ = texts(tmp_path, 400)
    tokens = prepared(tmp_path, [Source(path=str(folder))], validation_fraction=0.2)
    whole = data.validation(tokens, 32, None)
    assert set(whole) == {"even", "odd"}
    rows = tokens.split(shards.VALIDATION)
    for i, name in enumerate(tokens.corpora):
        joined = np.concatenate([stream(tokens, d) for d in rows[rows["corpus"] == i]])
        assert np.array_equal(whole[name].ravel(), joined[: len(joined) // 32 * 32])
    some = data.validation(tokens, 32, 10)
    assert 2 <= sum(map(len, some.values())) <= 10
    with pytest.raises(DataError, match="validation text has .* fewer than one block"):
        data.validation(tokens, 1 << 20, None)
    assert data.bytes_per_token(tokens)["odd"] == pytest.approx(
        rows["bytes"][rows["corpus"] == 1].sum() / rows["tokens"][rows["corpus"] == 1].sum()
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "a.txt is empty"),
        ("a.txt", b" \n\n", "a.txt is empty"),
        ("a.txt", b"ab\0c", r"a.txt is binary, not text \(a zero at byte 2\)"),
        ("a.txt", b"ab\xff\xfe", r"a.txt is not UTF-8 text \(at byte 2\)"),
        ("a.jsonl", b'{"text": "x"}\n{"text"\n', "a.jsonl line 2 is not JSON"),
        ("a.jsonl", b'{"words": "x"}', "a.jsonl line 1 has no text under 'text'"),
        ("a.jsonl", b"[1]", "a.jsonl line 1 is not a JSON object"),
        ("a.jsonl.gz", b"\x1f\x8b\x08", "is not a whole gzip file"),
        ("a.jsonl.gz", b"plain", "is not a whole gzip file"),
        ("a.pdf", b"x", "is not one of .txt"),
        ("", b"", "does not exist"),
    ],
)
def test_prepare_bad_file_raises_one_line(tmp_path, name, content, message):
    path = tmp_path / (name or "absent.txt")
    if name:
        path.write_bytes(content)
    with pytest.raises((DataError, FileError), match=message) as caught:
        prepared(tmp_path, [Source(path=str(path))])
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").iterdir() if (tmp_path / "cache").is_dir() else [])


def test_prepare_empty_folder_raises(tmp_path):
    with pytest.raises(DataError, match=r"has no \.txt"):
        prepared(tmp_path, [Source(path=str(tmp_path / "x"))])


def test_blocks_too_little_text_raises(tmp_path):
    (tmp_path / "a.txt").write_text("short")
    tokens = prepared(tmp_path, [Source(path=str(tmp_path / "a.txt"))])
    with pytest.raises(DataError, match="the training text has 6 tokens, fewer than one block of 32"):
        data.Blocks(tokens, np.ones(1), 32, 0)


def test_prepare_text_file_splits_at_endoftext(tmp_path):
    (tmp_path / "a.txt").write_text("one\n<|endoftext|>\ntwo <|endoftext|> two\n<|endoftext|>\n")
    tokens = prepared(tmp_path, [Source(path=str(tmp_path / "a.txt"))])
    assert tokens.documents["bytes"].tolist() == [3, 21] and tokens.corpora == ("a",)


def test_prepare_hub_streams_or_names_datasets(monkeypatch, tmp_path):
    """Streamed by name; without `datasets`, one line with what to install."""
    source = Source(hub="someone/texts", subset="en", revision="abc", text_field="body")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match="pip install datasets"):
        prepared(tmp_path, [source])
    calls = []

    class Fake:
        @staticmethod
        def load_dataset(*args, **kwargs):
            calls.append((args, kwargs))
            return iter([{"body": "one"}, {"body": "two"}])

    monkeypatch.setitem(sys.modules, "datasets", Fake)
    tokens = prepared(tmp_path, [source])
    assert calls == [(("someone/texts", "en"), {"split": "train", "revision": "abc", "streaming": True})]
    assert tokens.corpora == ("texts",) and tokens.documents["bytes"].tolist() == [3, 3]


def test_prepare_hub_failure_raises_one_line(monkeypatch, tmp_path):
    class Fake:
        @staticmethod
        def load_dataset(*args, **kwargs):
            raise ConnectionError("no network\nat all")

    monkeypatch.setitem(sys.modules, "datasets", Fake)
    with pytest.raises(DataError, match="cannot stream someone/texts: no network at all"):
        prepared(tmp_path, [Source(hub="someone/texts")])


def test_bytes_vocabulary_is_lossless():
    everything = "".join(map(chr, range(0x20, 0x2FF))) + "日本\U0001f600"
    assert BYTES.decode(BYTES.encode(everything)) == everything
    assert BYTES.encode(b"\xff\0") == [255, 0]
