"""Finding the C engine: in the package, by the environment variable, or not at all."""

import re
import shutil

import pytest
from engine_build import ENGINE

from edgekit.errors import FileError
from edgekit.utils import engine


@pytest.fixture
def library(tmp_path, monkeypatch):
    """`library` without its cache, with an empty folder as the package's."""
    monkeypatch.delenv(engine.OVERRIDE, raising=False)
    monkeypatch.setattr(engine, "PACKAGE", tmp_path)
    return engine.library.__wrapped__


def test_version_equals_the_headers():
    assert re.search(r'EK_VERSION "(.+)"', (ENGINE / "edgekit.h").read_text())[1] == engine.VERSION


def test_library_not_installed_is_none(library, tmp_path, monkeypatch):
    assert library() is None
    (tmp_path / "_engine.so").write_bytes(b"not a library")
    assert library() is None


def test_library_next_to_the_package_is_loaded(library, tmp_path, monkeypatch, engine_path):
    shutil.copy(engine_path, tmp_path / "_engine.abi3.so")
    assert library().ek_version() == engine.VERSION.encode()
    monkeypatch.setenv(engine.OVERRIDE, "off")
    assert library() is None


def test_library_of_the_environment_is_loaded_or_refused(library, tmp_path, monkeypatch, engine_path):
    monkeypatch.setenv(engine.OVERRIDE, str(engine_path))
    assert library().ek_version() == engine.VERSION.encode()
    monkeypatch.setenv(engine.OVERRIDE, str(tmp_path / "absent.so"))
    with pytest.raises(FileError, match=r"absent\.so is not a library of the edgekit engine"):
        library()
    monkeypatch.setenv(engine.OVERRIDE, str(engine_path))
    monkeypatch.setattr(engine, "VERSION", "9.9")
    with pytest.raises(FileError, match="version 0.3.0 of the engine, but 9.9 is needed: build it again"):
        library()
