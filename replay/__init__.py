"""The `tocsin` command: replays traces, simulates an AI factory, explains alerts.

Importing this package refuses to go on with packages of our names that are not ours: the names are common, and another
distribution may have put its own first. They are looked for, not run.
"""

import sys
from importlib.util import find_spec
from pathlib import Path


def _refuse_foreign() -> None:
    home = Path(__file__).resolve().parent.parent
    for package in ("connectors", "detector", "models"):
        found = find_spec(package)
        place = Path(found.origin).resolve().parent.parent if found is not None and found.origin is not None else None
        if place != home:
            sys.exit(f"tocsin: package '{package}' comes from {place or 'nowhere'}, not from {home}: another distribution shadows it")


_refuse_foreign()
