"""The compiled encoder gives the plain encoder's ids, for every vocabulary and any text or bytes."""

import os
import subprocess
import sys

import pytest
from handmade import VOCABS, small
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary

np = pytest.importorskip("numpy")
pytest.importorskip("numba", reason="needs numba: pip install 'edgekit-lm[train]'")

from edgekit.training.fast_tokenizer import FastEncoder  # noqa: E402

VOCABULARIES = {
    "level 0": small(0),
    "level 1": small(1),
    "level 2": small(2),
    "quotemarks": small(2, normalization=8),
    "lowercase": small(1, normalization=3),
    "unknown": small(1, unk=True, singles=[b" ", b"\x7f", *(bytes([byte]) for byte in range(97, 123))]),
    "special": small(2, special=[b"<D eos>"]),
    "no marker": small(1, singles=[b" ", b"a", b"t"]),
    **{path.stem: Vocabulary.load(path) for path in VOCABS},
}
FAST = {name: FastEncoder(vocabulary) for name, vocabulary in VOCABULARIES.items()}

parts = [" the", "The", " CAT", "cats", " on a", "'s", ".", "\n", ", ", "12", "é", "中", " ", "-", "<eos>", "(",
         "\u2019s", "WORD", "x", "“", "\u0301", "\u0301" * 31, "\uac00", "ÉCOLE", "Ⅷ", "\U0001d400", "\u0130", "ǅ",
         "\u1f80", "İX", "A1b", "\x7f", "\x00", "\u1dfa", "🙂", "ȺȾa", "\u2c6f"]  # fmt: skip
texts = st.one_of(st.lists(st.sampled_from(parts)).map("".join), st.text())
fragments = st.sampled_from(
    [*(part.encode() for part in parts), b"\xff", b"\xc3", b"\xe2\x80", b"\xf0\x9f", b"\xa9", b"\xed\xa0\x80"]
)
inputs = st.one_of(texts, st.binary(), st.lists(fragments).map(b"".join))


@pytest.mark.parametrize("name", VOCABULARIES)
@given(data=inputs)
@settings(max_examples=150, deadline=None)
def test_encode_any_input_equals_plain_encoder(name, data):
    ids = FAST[name].encode(data)
    assert ids.dtype == np.uint16 and ids.ndim == 1
    assert ids.tolist() == VOCABULARIES[name].encode(data)


def test_encode_batch_long_texts_equals_plain_encoder():
    text = "The cat's mat (THE mat) was not there, and at 12 he sat.\n\n“Été”… 中文 \U0001f642 " * 3000
    texts = [text, "", "a", text[:1000].encode(), "x" * 50_000, "A" * 50_000, "\u0301" * 5000, b"\xff" * 5000]
    for name in list(VOCABULARIES)[:3] + list(VOCABULARIES)[-2:]:
        batch = FAST[name].encode_batch(texts)
        assert [ids.tolist() for ids in batch] == [VOCABULARIES[name].encode(text) for text in texts]
        assert batch[1].shape == (0,)


def test_encode_large_ids_are_uint32():
    base = VOCABULARIES["level 1"]
    last = max(record.id for record in base.records)
    records = [record._replace(id=70_000) if record.id == last else record for record in base.records]
    parts = {name: getattr(base, name) for name in ("capcode", "charset", "normalization", "mode", "reserve", "unk",
                                                    "delete_token", "follow")}  # fmt: skip
    wide = Vocabulary(**parts, table_size=70_001, records=records)
    ids = FastEncoder(wide).encode(wide.base_bytes(70_000).decode())
    assert ids.dtype == np.uint32 and ids.tolist() == wide.encode(wide.base_bytes(70_000))


def test_encode_lone_surrogate_raises():
    with pytest.raises(UnicodeEncodeError):
        FAST["level 1"].encode("\ud800")


def test_compile_without_cache_folder_works(tmp_path):
    """numba caches compiled code next to the source or in a cache folder; without either it compiles again."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    script = (
        "import numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "caching._CacheImpl = caching.CacheImpl\n"
        "from edgekit.training import fast_tokenizer\n"
        "print(type(fast_tokenizer._code_point._cache).__name__)\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(blocked)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "NullCache"
