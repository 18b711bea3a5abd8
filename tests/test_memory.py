"""Memory of what has been freed is the system's again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

#: Run in a process of its own: megabytes that it holds after it has freed arrays of 160, with something small behind them.
HELD = """
import sys
import numpy as np
from pathlib import Path
from detector.memory import give_back
if "give back" in sys.argv:
    give_back()
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 1_000_000
before = resident()
np.ones(20_000_000, np.uint8)
many = [np.ones(8_000_000, np.uint8) for _ in range(20)]
behind = np.ones(100_000, np.uint8)
del many
print(resident() - before)
"""


def held(*words: str) -> int:
    """What ``HELD`` prints."""
    done = subprocess.run([sys.executable, "-c", HELD, *words], capture_output=True, text=True, check=True)  # noqa: S603
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_large_arrays_go_back_to_the_system_whatever_was_freed_before() -> None:
    assert held("give back") < 20
    assert held() > 100, "that glibc does not do it by itself"
