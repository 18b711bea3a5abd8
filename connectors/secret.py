"""Where a secret is, as settings say it: in a file or in the environment, never in the settings themselves."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

#: How a key in PEM begins: the only secret that has lines.
_PEM = "-----BEGIN "


class NoSecret(ValueError):
    """The secret is not where the settings say, or cannot be one. The text names the place, never the secret."""


class Secret(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``{ file = "/run/secrets/x" }`` or ``{ env = "X" }``. It is read when needed, never kept: a rotated one is taken up."""

    file: str = ""
    env: str = ""

    def __post_init__(self) -> None:
        if bool(self.file) == bool(self.env):
            raise ValueError("expected a table with either 'file' or 'env'")

    def read(self) -> str:
        """The secret, without the one line end that an editor leaves. Raises NoSecret, also on what would break a header or a line."""
        if self.env:
            value, where = os.environ.get(self.env, ""), f"environment variable {self.env}"
        else:
            where = f"secret file {self.file}"
            try:
                # Bytes, because a text file's line ends would all be made alike.
                value = Path(self.file).read_bytes().decode("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                why = error.strerror if isinstance(error, OSError) else "not a text file"
                raise NoSecret(f"{where}: {why}") from None
        value = value.removesuffix("\n").removesuffix("\r")
        if not value:
            raise NoSecret(f"{where} is empty or not set")
        if value.startswith(_PEM):
            return value
        if not value.isprintable():
            raise NoSecret(f"{where} holds a line end or another character that cannot be seen inside the secret")
        if value != value.strip():
            raise NoSecret(f"{where} holds a blank before or after the secret")
        return value
