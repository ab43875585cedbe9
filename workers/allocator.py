"""Allocator: what one gradient frees is kept for the next.

Activations are tens of megabytes each. The C library maps blocks of that size afresh every time, and on threads other
than the first it cannot keep them at all, so that every gradient begins by having the kernel clear hundreds of
megabytes, page by page: a fifth to a third of a GoogLeNet worker's time. A process that computes the same gradient over
and over does better to keep what it has had once.

Source: mallopt(3) of glibc; other C libraries have no such call, and nothing happens there.
"""

from __future__ import annotations

import ctypes

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8

LARGEST_INT = (1 << 31) - 1
MAPPED_BYTES = (1 << 30, 1 << 25)  # blocks from here on are mapped afresh; older versions allow the second at most


def keep_freed_memory() -> bool:
    """Make this process keep the memory that it frees. Call it before other threads start.

    Returns:
        Whether the C library can.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    one_heap = mallopt(M_ARENA_MAX, 1)  # the heaps of further threads hold no large blocks
    kept = mallopt(M_TRIM_THRESHOLD, LARGEST_INT)
    large = any(mallopt(M_MMAP_THRESHOLD, size) for size in MAPPED_BYTES)
    return bool(one_heap and kept and large)
