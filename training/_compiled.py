"""How this room compiles its loops."""

from typing import Any

import numba


def compiled(function: Any) -> Any:
    """numba's `njit`: kept on disk for later processes where there is a folder for it, and free of the lock."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder that a compiled form can be kept in: compile in each process
        return numba.njit(nogil=True)(function)
