"""The heap: what was freed, but is kept by the allocators, goes back to the system."""

import ctypes
import sys

import pyarrow as pa


def trim() -> None:
    """Give unused memory back, so that what one step needed is not held through the next.

    Reading and laying out a collection frees as much as it keeps; allocators keep both.
    """
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if give_back is not None:
            give_back(0)
