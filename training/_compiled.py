"""Compilation of loops with numba."""

from typing import Any

import numba


def compiled(function: Any) -> Any:
    """numba's `njit` without the interpreter lock, cached on disk for later processes if a folder can be written."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no writable cache folder: compile in each process
        return numba.njit(nogil=True)(function)
