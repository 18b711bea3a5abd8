"""Where tests find real data and samples that are no part of the product: the folder in TOCSIN_SHARED, else ``../shared``.

A test of them is skipped, with the reason, where they are absent; a checkout on its own is legitimate.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def _folder(*parts: str) -> Path:
    named = os.environ.get("TOCSIN_SHARED")
    root = Path(named) if named else Path(__file__).resolve().parents[2] / "shared"
    found = root.joinpath(*parts)
    if not found.is_dir():
        pytest.skip(f"needs the shared folder {'/'.join(parts)}: set TOCSIN_SHARED to where it lies")
    return found


def samples() -> Path:
    """The folder of sample records of each format (``reference/samples``)."""
    return _folder("reference", "samples")


def data() -> Path:
    """The folder of recorded data sets (``data``)."""
    return _folder("data")
