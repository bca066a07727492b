"""Fixtures: models for all tests, a trained one from the shared folder if it is there, and seeded ones."""

import ctypes
import os
from pathlib import Path

import pytest
from engine_build import build
from helpers import NO_SHARED, SHARED, STENTOR, tokenmonster_files, write_model

from edgekit.formats.hub import BUNDLED
from edgekit.utils.engine import load

# A test that meets a mistake of our own should see it, not the guard's line: see edgekit/utils/guard.py.
os.environ.setdefault("EDGEKIT_TRACEBACKS", "1")


def pytest_terminal_summary(terminalreporter):
    """One line with the number of tests skipped without the shared folder."""
    reasons = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    missing = sum("shared folder" in reason or "../shared" in reason for reason in reasons)
    where = "is there" if SHARED.is_dir() else f"is missing ({SHARED})"
    terminalreporter.write_line(f"skipped without the shared folder, which {where}: {missing} of {len(reasons)} skips")


def pytest_collection_modifyitems(config, items):
    """Tests marked `real` download a model: they run only with `-m real`."""
    if "real" not in config.getoption("markexpr"):
        real = [item for item in items if item.get_closest_marker("real")]
        config.hook.pytest_deselected(items=real)
        items[:] = [item for item in items if item not in real]


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(NO_SHARED)
    return SHARED


@pytest.fixture
def one_thread():
    """torch on one thread: when tests run in parallel, two threads that wait for each other are slower than one."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def bundled() -> Path:
    """The bundled model, which is in every clone."""
    return BUNDLED


@pytest.fixture(scope="session")
def stories(shared: Path) -> Path:
    """stories260K: a real trained Llama with grouped-query attention and a SentencePiece vocabulary."""
    return shared / "models" / "stories260K" / "hf"


@pytest.fixture(scope="session")
def stentor(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of Stentor2-12M's shape with seeded weights and the real 8,000-token vocabulary."""
    vocab = (shared / "tokenmonster" / "vocabs" / "english-8000-strict-nocapcode-v1.vocab").read_bytes()
    return write_model(tmp_path_factory.mktemp("models") / "stentor", STENTOR, files=tokenmonster_files(vocab))


@pytest.fixture(scope="session")
def engine_path() -> Path:
    """The C engine as a shared library, built once; skips without a C compiler."""
    return build()


@pytest.fixture(scope="session")
def engine_library(engine_path: Path) -> ctypes.CDLL:
    """The C engine, loaded. It does not become `edgekit.utils.engine.library()`."""
    return load(engine_path)
