"""Memory of large arrays, such as those of profiles, goes back to the system when they are freed."""

from __future__ import annotations

import ctypes
from contextlib import suppress

#: Of glibc's <malloc.h>: from how many bytes on an array is by itself, and how many are kept at the heap's end for the next visit.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
#: No more than the smallest column of a table of profiles has at first; what visits need for a moment is mostly less.
LARGE, SPARE = 1 << 20, 64 << 20


def give_back() -> None:
    """Have the C library ask the system for each array of ``LARGE`` bytes or more, and give it back at once.

    glibc does so by itself until the first of them is freed; from then on it keeps arrays of that size among the small ones, where they
    stay when they are freed and are written full of zeros when they are used anew: a worker that has let partitions go, or whose tables
    have grown, would hold several times what it needs. Does nothing where there is another C library.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, LARGE)
        # Else it goes back after every visit, and is asked for again.
        library.mallopt(_TRIM_THRESHOLD, SPARE)
