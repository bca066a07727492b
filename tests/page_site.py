"""An exported page for tests, written once per process: the bundled model as q4_0 and as q8_0."""

import atexit
import functools
import tempfile
from pathlib import Path

import pytest

from edgekit.utils.engine import library
from edgekit.web import export

ROOT = Path(__file__).resolve().parents[1]


@functools.cache
def site() -> Path:
    """The exported folder. Skips with the reason if it cannot be written."""
    if library() is None:
        pytest.skip("needs edgekit's engine, which is compiled at installation: install gcc and edgekit again")
    place = tempfile.TemporaryDirectory()
    atexit.register(place.cleanup)
    out = Path(place.name) / "site"
    export.export_web([None], out, quants=["q4_0", "q8_0"])
    return out


def artefact(kind: str) -> Path:
    """The `.gguf` file of a type: "q4_0" or "q8_0"."""
    return next((site() / "models").glob(f"*-{kind}-*.gguf"))
