"""Find and load the C engine, a shared library that is built with the package where there is a C compiler.

The modules that use it declare the prototypes of their own functions.
"""

import contextlib
import ctypes
import functools
import mmap
import os
import sys
from pathlib import Path
from typing import Any

from edgekit.errors import FileError, RuntimeFailure

INTERFACE = 3
"""`EK_INTERFACE` of the header that this package was written for."""
OVERRIDE = "EDGEKIT_ENGINE"
"""Environment variable: the path of another library, or `off` for none."""
ALIGNMENT = 64
"""`EK_ALIGNMENT`: of every block of memory that the engine is given."""
HUGE = 4 << 20
"""Blocks from this size on ask Linux for large pages, as numpy's arrays do: a step reads every page of the weights."""
PACKAGE = Path(__file__).resolve().parents[1]


class Error(ctypes.Structure):
    """`ek_error`: one sentence, empty if there was no error."""

    _fields_ = [("text", ctypes.c_char * 256)]


def block(size: int) -> mmap.mmap:
    """Zeroed memory of a page's alignment, which costs nothing until it is written to. Raises `RuntimeFailure`.

    It is freed when no view of it is left.
    """
    try:
        if sys.platform == "win32":
            return mmap.mmap(-1, size)
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise RuntimeFailure(f"{size / 1e6:.0f} MB of memory cannot be had") from error
    if sys.platform == "linux" and size >= HUGE:
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def address(memory: Any) -> int:
    """Where the bytes of an object are that has the buffer protocol, read-only or not. The caller keeps it alive."""
    view = (ctypes.c_void_p * 16)()  # a Py_buffer, which begins with the address
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(memory), view, 0)
    ctypes.pythonapi.PyBuffer_Release(view)
    return view[0] or 0


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
