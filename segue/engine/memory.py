"""How is the overhead of malloc and garbage collection kept low? Freed memory and long-lived objects are left alone."""

import ctypes
import gc
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of mallopt, from glibc's malloc.h, and the largest values that it accepts.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_TRIM, _LARGEST_MMAP = 2**31 - 1, 2**25


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory, instead of returning it to the system and having it zeroed on the next allocation.

    A CPU step frees nearly all its memory and the next one allocates it again: up to 8 % of the time went there.
    Does nothing for other C libraries, or if a MALLOC_ environment variable already sets these thresholds.
    """
    told = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys()
    if platform.libc_ver()[0] == "glibc" and not told:
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP)
        library.mallopt(_TRIM_THRESHOLD, _LARGEST_TRIM)


_is_aside = False
"""Whether a block of `old_objects_aside` lasts."""


@contextmanager
def old_objects_aside() -> Iterator[None]:
    """Inside the block, garbage collection skips objects created before it: importing torch creates very many.

    Of blocks inside one another, the outermost ends it, since `gc.unfreeze` cannot tell them apart.
    """
    global _is_aside
    is_outermost, _is_aside = not _is_aside, True
    gc.freeze()
    try:
        yield
    finally:
        if is_outermost:
            gc.unfreeze()
            _is_aside = False
