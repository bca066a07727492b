"""How long a context a runtime opens, and what that may cost at once.

The length of the context is a number in a header: 16,777,216 in a file of 150 kB. What a runtime allocates for it
is therefore compared with the weights and with the machine's memory before anything is allocated.
"""

import os

from edgekit.errors import RuntimeFailure
from edgekit.settings import Running

FEW, MOST_RATIO = 400_000_000, 16
"""Bytes that any model's context may take at once, and times its weights."""


def length(stated: int, settings: Running) -> int:
    """The context that is opened: the model's, or the shorter one of the settings."""
    return stated if settings.context_length is None else min(stated, settings.context_length)


def check(where: object, context: int, needed: int, weights: int) -> None:
    """Refuse a context that takes too much memory at once. Raises `RuntimeFailure`.

    Args:
        needed: bytes that are allocated for it.
        weights: bytes of the model.
    """
    sentence = f"{where}: a context of {context} tokens needs {needed / 1e9:.1f} GB of cache"
    shorter = "open it with a shorter one (--context-length 4096)"
    if (have := memory()) and needed > have:
        raise RuntimeFailure(f"{sentence}, this machine has {have / 1e9:.1f} GB of memory: {shorter}")
    if needed > max(FEW, MOST_RATIO * weights):
        raise RuntimeFailure(f"{sentence}, for {weights / 1e6:.1f} MB of weights: {shorter}")


def memory() -> int:
    """The machine's memory in bytes; 0 where that is not known (Windows)."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0
