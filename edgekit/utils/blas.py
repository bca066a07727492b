"""How many threads numpy's matrix products take: OpenBLAS's own setting, for a while.

By default OpenBLAS takes every core, and its threads wait for each other by spinning. As soon as another program wants
a core, each product waits for the system's next turn: a conversion's receipt took 12 s instead of 1.5 s (12.3M
parameters, two cores, one of them busy). One thread takes as long as it takes, and adds in the same order everywhere.
"""

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

# As numpy's wheels call it (numpy 2, numpy 1.26), and as it is called where it comes with the system.
NAMES = ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "openblas_{}_num_threads")


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Matrix products on `count` threads, process-wide; then as many as before. Another BLAS stays as it is."""
    found = _calls()
    if found is None:
        yield
        return
    get, put = found
    before = get()
    put(count)
    try:
        yield
    finally:
        put(before)


def _calls() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """OpenBLAS's functions in the library that numpy has loaded already; None if numpy was built with another."""
    folder = Path(np.__file__).parent
    for path in [*folder.with_name("numpy.libs").glob("*openblas*"), *(folder / ".dylibs").glob("*openblas*")]:
        try:
            library = ctypes.CDLL(str(path))
        except OSError:
            continue
        for name in NAMES:
            if hasattr(library, name.format("set")):
                return getattr(library, name.format("get")), getattr(library, name.format("set"))
    return None
