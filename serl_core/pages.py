"""Freed memory stays with the process: batches of megabytes come and go in every update."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of the GNU C library
NEVER_TRIM = 2**31 - 1  # bytes at the end of the heap
FROM_THE_HEAP = 1 << 30  # bytes up to which an allocation reuses what was freed


def keep_freed_memory() -> bool:
    """Ask the C library not to give large freed blocks back; False where it cannot be asked.

    Fetching fresh pages from the kernel took a quarter of the time of drawing a pixel batch, and as long as sending
    for each record of the link. The price: the process never becomes smaller than it once was.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # neither in musl nor on macOS
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, FROM_THE_HEAP)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER_TRIM))
