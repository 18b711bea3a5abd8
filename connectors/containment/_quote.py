"""What may be said of foreign text: one short printable line, without any secret of ours that a target sent back.

What is used as a credential is remembered here, in this process only, so that it can be taken out of whatever is quoted.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Mapping
from urllib.parse import quote as percent
from urllib.parse import quote_plus, unquote_plus

#: Longest piece of foreign text in a reason, in characters.
LONGEST_QUOTE = 200
#: How many credentials are remembered: the latest. Tokens are renewed every few minutes, and an old one is worth nothing.
_MOST = 256
#: A secret shorter than this is not looked for: it would stand in any text.
_SHORTEST = 4
_HEADERS = frozenset({"authorization", "proxy-authorization", "x-vault-token", "x-slurm-user-token"})
_FIELDS = frozenset({"client_secret", "password", "refresh_token", "token"})

_known: OrderedDict[str, None] = OrderedDict()


def remember(secret: str) -> None:
    """A credential that must not be quoted."""
    if len(secret) >= _SHORTEST:
        _known[secret] = None
        _known.move_to_end(secret)
        while len(_known) > _MOST:
            _known.popitem(last=False)


def remember_sent(headers: Mapping[str, str], form: Mapping[str, str] | None) -> None:
    """The credentials of a request."""
    for name, value in headers.items():
        if name.lower() in _HEADERS:
            scheme, _, rest = value.partition(" ")
            remember(rest or scheme)
            if scheme.lower() == "basic":
                _, _, password = _decoded(rest).partition(":")
                remember(password)
                remember(unquote_plus(password))
    for name, value in (form or {}).items():
        if name in _FIELDS:
            remember(value)


def quote(text: str) -> str:
    """A piece of foreign text, in one printable line, our secrets taken out."""
    for secret in sorted(_known, key=len, reverse=True):
        for spelled in {secret, json.dumps(secret)[1:-1], percent(secret, safe=""), quote_plus(secret)}:
            text = text.replace(spelled, "[secret]")
    line = " ".join(text.split())
    return "".join(each if each.isprintable() else f"\\u{ord(each):04x}" for each in line)[:LONGEST_QUOTE]


def _decoded(text: str) -> str:
    try:
        return b64decode(text).decode()
    except ValueError:
        return ""
