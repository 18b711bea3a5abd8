"""How every command ends: its exit codes, and one sentence a mistake on standard error."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console

from detector.config import Config, ConfigError, read
from replay.screen import printable

MISTAKE, UNREADABLE, STATE, NOTHING, BROKER, TOPICS, INTERRUPTED = 2, 3, 4, 5, 6, 7, 130

errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def complain(text: str) -> None:
    """Say what is wrong."""
    for line in text.splitlines():
        errors.print(f"tocsin: {printable(line)}")


def fail(text: str, code: int) -> NoReturn:
    """Say what is wrong and end."""
    complain(text)
    raise typer.Exit(code)


def config(path: Path | None) -> Config:
    """The configuration of a file, or the default; ends where it has mistakes."""
    try:
        return read(path)
    except ConfigError as error:
        fail(str(error), MISTAKE)
