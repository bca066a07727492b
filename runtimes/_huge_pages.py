"""Weights in pages of 2 MB, on Linux with glibc; anywhere else nothing happens.

A decode step reads every weight once. In pages of 4 kB a model of 10 MB is 2,500 addresses to translate each step: with
the KV cache and Python more than a core remembers, and in a virtual machine a forgotten one costs a walk through two
tables. `benchmarks/huge_pages.py` measures what is won. Linux gives huge pages to whoever asks (`madvise(2)`,
MADV_HUGEPAGE), but ONNX Runtime does not ask, and has no allocator of ours. So we ask for the memory that it is going
to get; a model opens sooner, too, for there are fewer pages to fault in.
"""

import contextlib
import ctypes
import mmap
from pathlib import Path

KERNEL = Path("/sys/kernel/mm/transparent_hugepage")

HUGE = 2 << 20
LARGEST = 31 << 20
"""glibc serves larger blocks from `mmap` whatever happens (DEFAULT_MMAP_THRESHOLD_MAX, 32 MB)."""


def expect(size: int) -> None:
    """Have the next `size` bytes (56 MB at most) that this process allocates come in huge pages, where that works.

    glibc takes a large block from the top of the heap once a block of that size has been freed before (`mallopt(3)`,
    on the dynamic M_MMAP_THRESHOLD), and keeps twice as much there. So a block is allocated and freed, two more are
    allocated, marked for huge pages and freed: what comes after is cut from them. Nothing is written, so no memory is
    used until then, and at most 2 MB more than without. Costs 0.1 ms.
    """
    if not _wanted():
        return
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    half = min(LARGEST - 3 * HUGE // 2, -(-size // 2))
    libc.free(libc.malloc(half + 3 * HUGE // 2))
    blocks = [libc.malloc(half), libc.malloc(half)]
    for block in filter(None, blocks):
        start = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
        libc.madvise(start, block + half - start, mmap.MADV_HUGEPAGE)
    for block in blocks:
        libc.free(block)


def _wanted() -> bool:
    """Whether this Linux has huge pages of 2 MB for programs that ask. (With base pages of 16 kB, as on a Raspberry
    Pi 5, they are of 32 MB: a tiny model would pay for one and use a third of it.)"""
    with contextlib.suppress(OSError):
        size = (KERNEL / "hpage_pmd_size").read_text().strip()
        return size == str(HUGE) and "[never]" not in (KERNEL / "enabled").read_text()
    return False
