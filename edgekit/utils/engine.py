"""Find and load the C engine, a shared library that is built with the package where there is a C compiler.

The modules that use it declare the prototypes of their own functions.
"""

import ctypes
import functools
import os
from pathlib import Path

from edgekit.errors import FileError

VERSION = "0.3.0"
"""`EK_VERSION` of the header that this package was written for."""
OVERRIDE = "EDGEKIT_ENGINE"
"""Environment variable: the path of another library, or `off` for none."""
PACKAGE = Path(__file__).resolve().parents[1]


@functools.cache
def library() -> ctypes.CDLL | None:
    """The engine, loaded once; None if it is not installed.

    Raises:
        FileError: the library of `EDGEKIT_ENGINE` cannot be loaded, or is of another version.
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
    """Load the library at `path`. Raises `FileError` if that is impossible, or it is of another version."""
    try:
        engine = ctypes.CDLL(str(path))
        engine.ek_version.restype = ctypes.c_char_p
        version = engine.ek_version().decode()
    except (OSError, AttributeError) as error:
        raise FileError(f"{path} is not a library of the edgekit engine: {error}") from error
    if version != VERSION:
        raise FileError(f"{path} is version {version} of the engine, but {VERSION} is needed: build it again")
    return engine
