"""An exported page for tests, written once per process: the bundled model as fp16 and as int8 rows."""

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
    """The npm package onnxruntime-web as `export-web` finds it, or the reason why there is none."""
    given = os.environ.get("EDGEKIT_ONNXRUNTIME_WEB")
    os.environ.setdefault("npm_config_fetch_retries", "0")  # without a network npm would retry for minutes
    try:
        return Path(given) if given else npm.cached()
    except FileError as error:
        return str(error)


@functools.cache
def site() -> Path:
    """The exported folder. Skips with the reason if it cannot be written."""
    pytest.importorskip("onnx", reason="needs edgekit-lm[onnx]")
    pytest.importorskip("onnxruntime", reason="needs edgekit-lm[onnx]")
    ort = package()
    if isinstance(ort, str):
        pytest.skip(ort)
    place = tempfile.TemporaryDirectory()
    atexit.register(place.cleanup)
    out = Path(place.name) / "site"
    export.export_web([None], out, quants=["fp16", "int8"], onnxruntime_web=ort)
    return out


def artefact(kind: str) -> Path:
    """The `.onnx` file of a type: "fp16" or "int8_rows"."""
    return next((site() / "models").glob(f"*-{kind}-*.onnx"))
