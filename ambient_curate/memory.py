"""Memory of a process: returned to the system after a step, kept through a loop."""

import ctypes
import sys
from functools import cache

import pyarrow as pa

HELD = 128 << 20
LARGEST = 32 << 20  # glibc's own limit; what is larger is given back at once
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


def trim() -> None:
    """Give unused memory back, so that what one step needed is not held through the next.

    Reading and laying out a collection frees as much as it keeps; allocators keep both.
    """
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if give_back is not None:
            give_back(0)


@cache
def hold() -> None:
    """Keep what is freed within a step of work, up to `HELD` bytes, for the rest of the process.

    Otherwise tensors of some hundred kilobytes, made and freed in every call of a network, are
    fetched from the system a page at a time: with many dimensions that takes longer than the
    network does. `trim` gives back what is held.
    """
    if sys.platform == "linux":
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's
        if set_option is not None:
            set_option(_TRIM_THRESHOLD, HELD)
            set_option(_MMAP_THRESHOLD, LARGEST)
