"""Where a secret is, as settings say it: in a file or in the environment, never in the settings themselves."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec


class NoSecret(ValueError):
    """The secret is not where the settings say. The text names the place, never the secret."""


class Secret(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``{ file = "/run/secrets/x" }`` or ``{ env = "X" }``. It is read when needed, never kept: a rotated one is taken up."""

    file: str = ""
    env: str = ""

    def __post_init__(self) -> None:
        if bool(self.file) == bool(self.env):
            raise ValueError("expected a table with either 'file' or 'env'")

    def read(self) -> str:
        """The secret, without the line end. Raises NoSecret."""
        if self.env:
            value, where = os.environ.get(self.env, ""), f"environment variable {self.env}"
        else:
            where = f"secret file {self.file}"
            try:
                value = Path(self.file).read_text(encoding="utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                why = error.strerror if isinstance(error, OSError) else "not a text file"
                raise NoSecret(f"{where}: {why}") from None
        if not value:
            raise NoSecret(f"{where} is empty or not set")
        return value
