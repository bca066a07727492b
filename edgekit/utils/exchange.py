"""Exchanging two folders in one step of the file system."""

import ctypes
import os
import sys
from pathlib import Path

AT_CWD, EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h: RENAME_EXCHANGE
SWAP = 2  # sys/stdio.h of macOS: RENAME_SWAP


def exchange(one: Path, other: Path) -> bool:
    """Each gets the other's name, with nothing in between. False if the system or the file system cannot do that."""
    a, b = os.fsencode(one), os.fsencode(other)
    try:
        if sys.platform.startswith("linux"):
            return ctypes.CDLL(None).renameat2(AT_CWD, a, AT_CWD, b, EXCHANGE) == 0
        if sys.platform == "darwin":
            return ctypes.CDLL(None).renamex_np(a, b, SWAP) == 0
    except AttributeError:  # a C library without it
        pass
    return False
