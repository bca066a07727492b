"""Exchanging two folders in one step of the file system."""

import ctypes
import os
import sys
from pathlib import Path

AT_CWD, EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h: RENAME_EXCHANGE
SWAP = 2  # sys/stdio.h of macOS: RENAME_SWAP


def exchange(one: Path, other: Path) -> bool:
    """Each gets the other's name, with nothing in between. False if the system or the file system cannot do that."""
    if sys.platform == "win32":
        return False
    a, b, library = os.fsencode(one), os.fsencode(other), ctypes.CDLL(None)
    if sys.platform.startswith("linux") and hasattr(library, "renameat2"):
        return library.renameat2(AT_CWD, a, AT_CWD, b, EXCHANGE) == 0
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        return library.renamex_np(a, b, SWAP) == 0
    return False
