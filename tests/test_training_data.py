"""Training text: cleaned as the card says, tokenized once, packed without loss, in an order that can be resumed."""

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


def cards_clean_text(text: str) -> str:
    """The function of Stentor2's model card, word for word."""
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
def test_cleaning_is_the_card_s(sample):
    assert sources.clean(sample, "collapse") == cards_clean_text(sample)
    assert sources.clean(sample, "none") == sample


def test_cleaning_that_keeps_lines():
    assert sources.clean(" One  ﬁne\tday \n\n\n\n two \nthree\n", "lines") == "One fine day\n\ntwo\nthree"


def prepared(tmp_path, sources, vocabulary=BYTES, meter=shards.silent, **more):
    texts = Data(sources=tuple(sources), cache=str(tmp_path / "cache"), **more)
    return shards.prepare(texts, vocabulary, BOS, EOS, meter)


def stream(found, row):
    return found.shards[row["shard"]][row["start"] : row["start"] + row["tokens"]]


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


def test_shards_hold_every_document(tmp_path):
    folder, rows = texts(tmp_path)
    found = prepared(tmp_path, [Source(path=str(folder))])
    assert found.corpora == ("even", "odd") and len(found.documents) == len(rows)
    for row, document in zip(rows, found.documents, strict=True):
        assert bytes(stream(found, document).astype(np.uint8)[:-1]).decode() == row["text"]
        assert stream(found, document)[-1] == EOS
        assert (found.corpora[document["corpus"]], document["bytes"]) == (row["corpus"], len(row["text"]))


def test_documents_begin_with_bos_if_asked(tmp_path):
    folder, rows = texts(tmp_path)
    plain, begun = (prepared(tmp_path, [Source(path=str(folder))], add_bos=add) for add in (False, True))
    assert plain.folder != begun.folder
    for row, document in zip(rows, begun.documents, strict=True):
        ids = stream(begun, document)
        assert (ids[0], ids[-1], bytes(ids[1:-1].astype(np.uint8)).decode()) == (BOS, EOS, row["text"])
    assert (begun.documents["tokens"] == plain.documents["tokens"] + 1).all()


def test_shards_are_made_once(tmp_path):
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


def test_processes_encode_the_same(tmp_path, monkeypatch):
    folder, _ = texts(tmp_path, 400)
    alone = prepared(tmp_path, [Source(path=str(folder))], workers=1)
    monkeypatch.setattr(encoding, "SMALL", 1000)
    monkeypatch.setattr(encoding, "BATCH", 500)
    many = prepared(tmp_path / "many", [Source(path=str(folder))], workers=2)
    assert np.array_equal(alone.documents, many.documents)
    assert np.array_equal(alone.shards[0], many.shards[0])


def test_encoding_processes_need_no_main_module(tmp_path):
    """multiprocessing's would import the caller's main module, which a script read from stdin does not have."""
    folder, _ = texts(tmp_path, 200)
    script = f"""
from edgekit.training import data, encoding, shards
from edgekit.training.sections import Data, Source
encoding.SMALL = encoding.BATCH = 500
texts = Data(sources=(Source(path={str(folder)!r}),), cache={str(tmp_path)!r}, workers=2)
found = shards.prepare(texts, data.vocabulary("bytes"), 257, 256)
assert len(found.documents) == 200
"""
    subprocess.run([sys.executable, "-"], input=script.encode(), check=True, timeout=60)


def test_a_process_that_dies_is_said(tmp_path, monkeypatch):
    folder, _ = texts(tmp_path, 200)
    monkeypatch.setattr(encoding, "SMALL", 500)
    monkeypatch.setattr(encoding, "BATCH", 500)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Exception, match="a tokenizing process died"):
        prepared(tmp_path, [Source(path=str(folder))], workers=2)
    assert not list((tmp_path / "cache").iterdir())


def test_splits_are_by_document(tmp_path):
    folder, rows = texts(tmp_path, 400)
    found = prepared(tmp_path, [Source(path=str(folder))], validation_fraction=0.2)
    out = {rows[i]["doc"] for i in np.flatnonzero(found.documents["split"])}
    kept = {rows[i]["doc"] for i in np.flatnonzero(found.documents["split"] == 0)}
    assert out and kept and not out & kept and 0.1 < len(out) / 200 < 0.3
    assert out == {row["doc"] for row in rows if shards.held_out(row["doc"], 0.2)}


def test_budgets(tmp_path):
    folder, _ = texts(tmp_path, 400)
    other, _ = texts(tmp_path, 10, "other")
    both = [Source(path=str(other)), Source(path=str(folder))]
    found = prepared(tmp_path, both, source_token_budget=8000)
    sizes = [int(found.documents["tokens"][found.documents["source"] == i].sum()) for i in (0, 1)]
    assert sizes[0] < 1000 and 8000 <= sum(sizes) < 8100  # what the small one lacks the other gives
    found = prepared(tmp_path, [Source(path=str(folder), tokens=500)])
    assert 500 <= found.documents["tokens"].sum() < 600


def blocks(tmp_path, size=32, seed=1, **source):
    folder, _ = texts(tmp_path)
    found = prepared(tmp_path, [Source(path=str(folder), **source)])
    r = recipe.from_dict({"data": {"sources": [{"path": str(folder), **source}]}, "training": {"max_train_steps": 1}})
    return data.Blocks(found, data.weights_of(r, found), size, seed)


def test_an_epoch_has_every_token_once(tmp_path):
    made = blocks(tmp_path)
    every = np.concatenate([stream(made.data, d) for d in made.documents])
    count = made.count(0)
    seen = made.batch(0, range(count)).ravel()
    assert count == len(every) // 32 and len(seen) == count * 32
    lacking = np.bincount(every, minlength=257) - np.bincount(seen, minlength=257)
    assert lacking.min() >= 0 and lacking.sum() == len(every) % 32


def test_the_order_is_a_function_of_seed_epoch_and_position(tmp_path):
    one = blocks(tmp_path)
    asked = [(0, 3), (1, 0), (0, 3), (5, 2), (1, 0)]
    first = {at: one.batch(at[0], [at[1]]) for at in asked}
    two = data.Blocks(one.data, one.weights, 32, 1)
    for epoch, position in itertools.islice(reversed(asked), 5):
        assert np.array_equal(two.batch(epoch, [position]), first[epoch, position])
    assert not np.array_equal(one.batch(0, range(5)), one.batch(1, range(5)))
    assert not np.array_equal(one.batch(0, range(5)), data.Blocks(one.data, one.weights, 32, 2).batch(0, range(5)))


def test_weights(tmp_path):
    made = blocks(tmp_path, weights={"odd": 2.5}, weight=1)
    rng = np.random.default_rng([1, 0])  # the documented draw, to see how often each document comes
    copies = np.floor(made.weights) + (rng.random(len(made.weights)) < made.weights % 1)
    assert set(copies[made.weights == 1]) == {1} and set(copies[made.weights == 2.5]) == {2, 3}
    assert made.count(0) == int((made.documents["tokens"] * copies).sum()) // 32
    with pytest.raises(RecipeError, match=r"names 'evn', which is not in it: it has even, odd"):
        blocks(tmp_path / "x", weights={"evn": 2})


@pytest.fixture(autouse=True)
def _folder(tmp_path):
    (tmp_path / "x").mkdir()


def test_validation_blocks(tmp_path):
    folder, _ = texts(tmp_path, 400)
    found = prepared(tmp_path, [Source(path=str(folder))], validation_fraction=0.2)
    whole = data.validation(found, 32, None)
    assert set(whole) == {"even", "odd"}
    rows = found.split(shards.VALIDATION)
    for i, name in enumerate(found.corpora):
        joined = np.concatenate([stream(found, d) for d in rows[rows["corpus"] == i]])
        assert np.array_equal(whole[name].ravel(), joined[: len(joined) // 32 * 32])
    some = data.validation(found, 32, 10)
    assert 2 <= sum(map(len, some.values())) <= 10
    with pytest.raises(DataError, match="validation text has .* fewer than one block"):
        data.validation(found, 1 << 20, None)
    assert data.bytes_per_token(found)["odd"] == pytest.approx(
        rows["bytes"][rows["corpus"] == 1].sum() / rows["tokens"][rows["corpus"] == 1].sum()
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
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
def test_bad_files_are_one_line(tmp_path, name, content, said):
    path = tmp_path / (name or "absent.txt")
    if name:
        path.write_bytes(content)
    with pytest.raises((DataError, FileError), match=said) as caught:
        prepared(tmp_path, [Source(path=str(path))])
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").iterdir() if (tmp_path / "cache").is_dir() else [])


def test_an_empty_folder(tmp_path):
    with pytest.raises(DataError, match=r"has no \.txt"):
        prepared(tmp_path, [Source(path=str(tmp_path / "x"))])


def test_less_than_a_block(tmp_path):
    (tmp_path / "a.txt").write_text("short")
    found = prepared(tmp_path, [Source(path=str(tmp_path / "a.txt"))])
    with pytest.raises(DataError, match="the training text has 6 tokens, fewer than one block of 32"):
        data.Blocks(found, np.ones(1), 32, 0)


def test_text_files_may_hold_several_documents(tmp_path):
    (tmp_path / "a.txt").write_text("one\n<|endoftext|>\ntwo <|endoftext|> two\n<|endoftext|>\n")
    found = prepared(tmp_path, [Source(path=str(tmp_path / "a.txt"))])
    assert found.documents["bytes"].tolist() == [3, 21] and found.corpora == ("a",)


def test_the_hub(monkeypatch, tmp_path):
    """Streamed by name; without `datasets`, one line that says what to install."""
    source = Source(hub="someone/texts", subset="en", revision="abc", text_field="body")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match="pip install datasets"):
        prepared(tmp_path, [source])
    asked = []

    class Fake:
        @staticmethod
        def load_dataset(*args, **kwargs):
            asked.append((args, kwargs))
            return iter([{"body": "one"}, {"body": "two"}])

    monkeypatch.setitem(sys.modules, "datasets", Fake)
    found = prepared(tmp_path, [source])
    assert asked == [(("someone/texts", "en"), {"split": "train", "revision": "abc", "streaming": True})]
    assert found.corpora == ("texts",) and found.documents["bytes"].tolist() == [3, 3]


def test_a_hub_that_fails(monkeypatch, tmp_path):
    class Fake:
        @staticmethod
        def load_dataset(*args, **kwargs):
            raise ConnectionError("no network\nat all")

    monkeypatch.setitem(sys.modules, "datasets", Fake)
    with pytest.raises(DataError, match="cannot stream someone/texts: no network at all"):
        prepared(tmp_path, [Source(hub="someone/texts")])


def test_a_vocabulary_of_bytes_loses_nothing():
    everything = "".join(map(chr, range(0x20, 0x2FF))) + "日本\U0001f600"
    assert BYTES.decode(BYTES.encode(everything)) == everything
    assert BYTES.encode(b"\xff\0") == [255, 0]
