"""The attack of tests/hostile with fixed seeds, and the guard that readers of foreign bytes run under."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.errors import CheckpointError, DataError, FileError, UsageError
from edgekit.utils import guard

HOSTILE = Path(__file__).parent / "hostile"


def attack(*arguments: str, timeout: float) -> str:
    """Run the driver; its table. Fails with it if anything but a clean error or a text came out."""
    environment = {k: v for k, v in os.environ.items() if k != guard.TRACEBACKS}
    command = [sys.executable, str(HOSTILE / "run.py"), "--workers", "1", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
    return run.stdout


@pytest.fixture(scope="module")
def packages():
    for name in ("torch", "onnx", "onnxruntime", "llama_cpp", "gguf"):
        pytest.importorskip(name)
    if sys.platform != "linux":
        pytest.skip("the driver forks, and reads /proc")


def test_mutated_files_of_every_format_fixed_seeds_end_cleanly(packages):
    table = attack("--first", "1000", "--count", "12", "--minutes", "5", timeout=400)
    assert all(int(line.split()[2]) for line in table.splitlines() if line.startswith(("folder", "gguf", "onnx")))


@pytest.mark.slow
def test_mutated_files_of_a_minute_fixed_seeds_end_cleanly(packages):
    attack("--first", "50000", "--count", "150", "--minutes", "10", timeout=700)


@pytest.fixture
def no_tracebacks(monkeypatch):
    monkeypatch.delenv(guard.TRACEBACKS, raising=False)


@pytest.mark.parametrize("raised", [KeyError("bits"), OverflowError("too large"), RecursionError(), UnicodeError("x")])
def test_guard_exception_of_a_parser_names_the_file(no_tracebacks, raised):
    message = r"^a\.gguf is damaged, or not what edgekit reads \(\w+Error"
    with pytest.raises(CheckpointError, match=message) as caught, guard.reading("a.gguf"):
        raise raised
    assert caught.value.__cause__ is raised


def test_guard_other_errors_keep_their_kind(no_tracebacks):
    for raised, kind in ((MemoryError(), DataError), (OSError(36, "File name too long"), FileError)):
        with pytest.raises(kind, match="x"), guard.reading("x", DataError):
            raise raised
    for untouched in (UsageError("a"), KeyboardInterrupt(), SystemExit(3), ModuleNotFoundError("b")):
        with pytest.raises(type(untouched)) as caught, guard.reading("x"):
            raise untouched
        assert caught.value is untouched


def test_guard_with_tracebacks_hides_nothing(monkeypatch):
    monkeypatch.setenv(guard.TRACEBACKS, "1")
    with pytest.raises(KeyError), guard.reading("x"):
        raise KeyError("ours")


def test_guard_panic_of_a_rust_library_is_caught(no_tracebacks):
    class PanicException(BaseException):
        """As pyo3 names it."""

    @guard.reads(DataError)
    def read(path: str) -> None:
        raise PanicException("index out of bounds")

    with pytest.raises(DataError, match="words.json is damaged.*PanicException: index out of bounds"):
        read("words.json")
