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


def test_interface_equals_the_headers():
    assert re.search(r"#define EK_INTERFACE (\d+)", (ENGINE / "edgekit.h").read_text())[1] == str(engine.INTERFACE)


def test_library_not_installed_is_none(library, tmp_path, monkeypatch):
    assert library() is None
    (tmp_path / "_engine.so").write_bytes(b"not a library")
    assert library() is None


def test_library_next_to_the_package_is_loaded(library, tmp_path, monkeypatch, engine_path):
    shutil.copy(engine_path, tmp_path / "_engine.abi3.so")
    assert library().ek_interface() == engine.INTERFACE
    monkeypatch.setenv(engine.OVERRIDE, "off")
    assert library() is None


def test_library_of_the_environment_is_loaded_or_refused(library, tmp_path, monkeypatch, engine_path):
    monkeypatch.setenv(engine.OVERRIDE, str(engine_path))
    assert library().ek_interface() == engine.INTERFACE
    monkeypatch.setenv(engine.OVERRIDE, str(tmp_path / "absent.so"))
    with pytest.raises(FileError, match=r"absent\.so is not a library of the edgekit engine"):
        library()
    monkeypatch.setenv(engine.OVERRIDE, str(engine_path))
    monkeypatch.setattr(engine, "INTERFACE", 0)
    with pytest.raises(FileError, match=r"has interface \d+, but 0 is needed: build the engine again"):
        library()
