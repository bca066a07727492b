"""The model of `-m`: a path, a Hub id, or nothing."""

import pytest

from edgekit.errors import CheckpointError, FileError
from edgekit.formats import hub


def test_resolve_path_is_returned(tmp_path):
    assert hub.resolve(tmp_path) == tmp_path
    assert hub.resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("trouble", [OSError("no route to host"), ValueError("odd id")])
def test_resolve_hub_failure_is_one_line(monkeypatch, trouble):
    def asked(*_, **__):
        raise trouble

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", asked)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "absent")
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
