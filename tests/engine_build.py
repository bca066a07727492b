"""Build the C engine for tests; conftest.py has the fixtures."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ENGINE = Path(__file__).resolve().parents[1] / "engine"


def make(*arguments: str, **variables: str) -> str:
    """Run `make -C engine`, one at a time even if tests run in parallel; its output. Skips without a compiler."""
    compiler = variables.get("CC", "cc")
    for program in ("make", compiler):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program} to build the engine")
    with open(ENGINE / "Makefile") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        command = [
            "make",
            "-s",
            "-C",
            str(ENGINE),
            *arguments,
            *(f"{name}={value}" for name, value in variables.items()),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def build() -> Path:
    """The shared library: that of EDGEKIT_ENGINE, or built from the sources as they are now."""
    chosen = os.environ.get("EDGEKIT_ENGINE")
    if chosen and chosen != "off":
        return Path(chosen)
    make()
    return ENGINE / "build" / "libedgekit.so"
