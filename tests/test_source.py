"""The model of `-m`: a path, a Hub id, or nothing."""

import fnmatch

import pytest

from edgekit.errors import CheckpointError, FileError
from edgekit.formats import hub


def test_resolve_path_is_returned(tmp_path):
    assert hub.resolve(tmp_path) == tmp_path
    assert hub.resolve(str(tmp_path)) == tmp_path


def test_resolve_hub_id_downloads_revision(monkeypatch, tmp_path):
    request = {}

    def download(name, *, revision, allow_patterns):
        request.update(name=name, revision=revision, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert hub.resolve("StentorLabs/Stentor2-12M", revision="v1") == tmp_path
    assert request["name"] == "StentorLabs/Stentor2-12M" and request["revision"] == "v1"

    def matches(name):
        return any(fnmatch.fnmatch(name, pattern) for pattern in request["patterns"])

    needed = ["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenmonster.vocab"]
    assert all(map(matches, needed))
    assert not any(map(matches, ["pytorch_model.bin", "modeling.py", "tokenizer.pkl"])), "no pickle, no code"


@pytest.mark.parametrize("trouble", [OSError("no route to host"), ValueError("odd id")])
def test_resolve_hub_failure_is_one_line(monkeypatch, trouble):
    def download(*_, **__):
        raise trouble

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(FileError, match=f"cannot be downloaded from the Hub: {trouble}"):
        hub.resolve("StentorLabs/Nothing")


@pytest.mark.parametrize("name", ["absent", "a/b/c", "owner/model.gguf", "../up/there"])
def test_resolve_neither_path_nor_id_raises(name):
    with pytest.raises(CheckpointError, match="does not exist, and is not a Hub id"):
        hub.resolve(name)


def test_resolve_none_is_bundled_model(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "BUNDLED", tmp_path)
    with pytest.raises(CheckpointError, match="the bundled model is missing"):
        hub.resolve(None)
    (tmp_path / "config.json").write_text("{}")
    assert hub.resolve(None) == tmp_path
