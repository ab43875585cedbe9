"""Process: settings of a process that moves large vectors all day."""

from __future__ import annotations

import ctypes
import gc

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_KEPT_BYTES = 1 << 30  # freed memory up to this stays with the process
_GROWN_BYTES = 16 << 20


def settle() -> None:
    """Call once a process has loaded what it needs.

    What exists by then is never garbage, so the collector need not look at it again and again. And memory of a megabyte
    that a frame took is kept for the next frame, where by default it is returned to the system and every page of it is
    faulted in anew: that was a third of the cost of a stream.
    """
    gc.collect()
    gc.freeze()
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc only
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TOP_PAD, _GROWN_BYTES)
        mallopt(_M_ARENA_MAX, 1)  # the heaps of further threads hold no large blocks
