"""The cache of conversions: damage is noticed and made good, a cache that cannot be written does not matter."""

import os
import stat

import pytest
from helpers import write_model

from edgekit.conversion import cache
from edgekit.formats.checkpoint import LlamaConfig

pytest.importorskip("gguf")
TINY = LlamaConfig(
    vocab_size=288, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=1, head_dim=16, max_position_embeddings=64,
)  # fmt: skip


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    return write_model(tmp_path / "model", TINY)


def converted(source):
    return cache.converted(source, "gguf", "q8_0")


def test_a_conversion_is_made_once(source, caplog):
    first = converted(source)
    before = first.stat()
    assert converted(source) == first and first.stat().st_mtime_ns == before.st_mtime_ns and not caplog.records


@pytest.mark.parametrize("damage", [
    lambda path: path.write_bytes(path.read_bytes()[:-100]),
    lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"),
    lambda path: path.write_bytes(b""),
    lambda path: path.with_name(path.name + ".json").unlink(),
    lambda path: path.with_name(path.name + ".json").write_bytes(b"[1"),
    lambda path: path.with_name(path.name + ".json").write_bytes(b"[]"),
])  # fmt: skip
def test_a_damaged_file_is_converted_again_with_a_note(source, damage, caplog):
    path = converted(source)
    whole = path.read_bytes()
    damage(path)
    assert converted(source) == path and path.read_bytes() == whole
    assert "damaged: converting again" in caplog.text
    caplog.clear()
    assert converted(source) == path and not caplog.records


def test_a_file_that_was_only_copied_is_hashed_once(source, monkeypatch):
    path = converted(source)
    os.utime(path, (1, 1))
    asked = []
    monkeypatch.setattr(cache, "_sha256", lambda path, real=cache._sha256: asked.append(path) or real(path))
    assert cache.is_whole(path) and asked == [path]
    assert cache.is_whole(path) and asked == [path]


def test_where_the_cache_cannot_be_written_the_conversion_is_used_and_not_kept(source, tmp_path, monkeypatch, caplog):
    (tmp_path / "cache").write_text("a file where the folder should be")
    path = converted(source)
    assert path.is_file() and tmp_path / "cache" not in path.parents
    assert "cannot be written" in caplog.text
    assert converted(source) == path
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    cache._kept.close()
    cache._folder.clear()
    assert not path.exists()
