"""Find and load the C engine, a shared library that is built with the package where there is a C compiler.

The modules that use it declare the prototypes of their own functions.
"""

import ctypes
import functools
import os
from pathlib import Path

from edgekit.errors import FileError

INTERFACE = 2
"""`EK_INTERFACE` of the header that this package was written for."""
OVERRIDE = "EDGEKIT_ENGINE"
"""Environment variable: the path of another library, or `off` for none."""
ALIGNMENT = 64
"""`EK_ALIGNMENT`: of every block of memory that the engine is given."""
PACKAGE = Path(__file__).resolve().parents[1]


class Error(ctypes.Structure):
    """`ek_error`: one sentence, empty if there was no error."""

    _fields_ = [("text", ctypes.c_char * 256)]


@functools.cache
def library() -> ctypes.CDLL | None:
    """The engine, loaded once; None if it is not installed.

    Raises:
        FileError: the library of `EDGEKIT_ENGINE` cannot be loaded, or has another interface.
    """
    chosen = os.environ.get(OVERRIDE)
    if chosen == "off":
        return None
    if chosen:
        return load(Path(chosen))
    for path in sorted(PACKAGE.glob("_engine*")):
        if path.suffix in (".so", ".dylib", ".pyd", ".dll"):
            try:
                return load(path)
            except FileError:  # of another processor, or left from an earlier version
                continue
    return None


def load(path: Path) -> ctypes.CDLL:
    """Load the library at `path`. Raises `FileError` if that is impossible, or it has another interface."""
    try:
        engine = ctypes.CDLL(str(path))
        interface = engine.ek_interface()
    except (OSError, AttributeError) as error:
        raise FileError(f"{path} is not a library of the edgekit engine: {error}") from error
    if interface != INTERFACE:
        raise FileError(f"{path} has interface {interface}, but {INTERFACE} is needed: build the engine again")
    return engine
