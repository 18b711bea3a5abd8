"""How a mistake in a configuration is told: the key, and what was expected."""

from __future__ import annotations


def sentence(text: str, prefix: str = "") -> str:
    """The message of msgspec as ``key: what was expected``.

    >>> sentence("Expected `int`, got `str` - at `$.url`", "respond")
    'respond.url: expected `int`, got `str`'
    """
    what, _, path = text.partition(" - at `$")
    key = ".".join(part for part in (prefix, path.rstrip("`").lstrip(".").replace("[...]", "")) if part)
    return f"{key or 'the file'}: {what[0].lower()}{what[1:]}"
