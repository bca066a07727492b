"""An exported page for the tests of it, made once a process: the bundled model as fp16 and as int8 rows."""

import atexit
import functools
import os
import tempfile
from pathlib import Path

import pytest

from edgekit.errors import FileError
from edgekit.web import export, npm

ROOT = Path(__file__).resolve().parents[1]


@functools.cache
def package() -> Path | str:
    """The npm package onnxruntime-web as `export-web` finds it, or why it is not there."""
    named = os.environ.get("EDGEKIT_ONNXRUNTIME_WEB")
    os.environ.setdefault("npm_config_fetch_retries", "0")  # without a network npm would try for minutes
    try:
        return Path(named) if named else npm.cached()
    except FileError as error:
        return str(error)


@functools.cache
def site() -> Path:
    """Skips, saying why, where a page cannot be made."""
    pytest.importorskip("onnx", reason="needs edgekit-lm[onnx]")
    pytest.importorskip("onnxruntime", reason="needs edgekit-lm[onnx]")
    found = package()
    if isinstance(found, str):
        pytest.skip(found)
    place = tempfile.TemporaryDirectory()
    atexit.register(place.cleanup)
    out = Path(place.name) / "site"
    export.export_web([None], out, quants=["fp16", "int8"], onnxruntime_web=found)
    return out


def artefact(kind: str) -> Path:
    """The `.onnx` inside; "fp16" or "int8_rows"."""
    return next((site() / "models").glob(f"*-{kind}-*.onnx"))
