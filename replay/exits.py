"""How a command ends when it cannot go on: one sentence on standard error and an exit code."""

from __future__ import annotations

from typing import NoReturn

import typer
from rich.console import Console

from replay import screen

MISTAKE, UNREADABLE, STATE, NOTHING, INTERRUPTED = 2, 3, 4, 5, 130

errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def fail(text: str, code: int) -> NoReturn:
    """Say why, line by line, and end with that code."""
    for line in text.splitlines():
        errors.print(f"tocsin: {screen.printable(line)}")
    raise typer.Exit(code)
