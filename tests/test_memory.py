"""Memory of large arrays goes back to the system when they are freed."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

#: Run in a process of its own: whether a large array is by itself, after a larger one was freed. The C library counts the bytes of such
#: arrays in ``hblkhd``, the fifth number.
BY_ITSELF = """
import ctypes, sys
import numpy as np
from detector.memory import give_back
if "give back" in sys.argv:
    give_back()
class Info(ctypes.Structure):
    _fields_ = [(f"n{number}", ctypes.c_size_t) for number in range(10)]
counted = ctypes.CDLL(None).mallinfo2
counted.restype = Info
np.ones(20_000_000, np.uint8)
before = counted().n4
held = np.ones(8_000_000, np.uint8)
print(counted().n4 - before >= held.nbytes)
"""


def by_itself(*words: str) -> bool:
    """What ``BY_ITSELF`` prints."""
    done = subprocess.run([sys.executable, "-c", BY_ITSELF, *words], capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout == "True\n"


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="another C library than glibc 2.33 or newer")
def test_large_arrays_are_by_themselves_whatever_was_freed_before() -> None:
    assert by_itself("give back")
    assert not by_itself(), "glibc does it by itself now: detector.memory can go"
