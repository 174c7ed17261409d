"""How does managing memory stay cheap? By keeping what the next step needs again, and passing over what stays."""

import ctypes
import gc
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of mallopt, in glibc's malloc.h, and the largest values that it takes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_TRIM, _LARGEST_MMAP = 2**31 - 1, 2**25


def keep_freed_memory() -> None:
    """Lets the C library keep what freed tensors took, instead of handing it back and having it cleared once more.

    A step on a CPU frees nearly all that it took, and the next one takes it again: up to 8 % of the time went there.
    Only glibc is asked, and only where nobody has told it otherwise.
    """
    told = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys()
    if platform.libc_ver()[0] == "glibc" and not told:
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP)
        library.mallopt(_TRIM_THRESHOLD, _LARGEST_TRIM)


@contextmanager
def old_objects_aside() -> Iterator[None]:
    """Inside, garbage collection looks only through objects that came since: torch leaves many behind."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
