"""Identities: how each kind is spelled, decided once, and the dictionary that codes them.

The same thing must have one name on every stream, or its baseline splits: ``010.0.0.7`` and ``::ffff:10.0.0.7`` are ``ip:10.0.0.7``.
What cannot be a name (control or bidirectional-override characters, a ``..`` path segment, over 512 bytes) is refused here,
so that no later stage meets it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import socket
import unicodedata
from typing import Final

import numpy as np

#: Longest identity name accepted, in UTF-8 bytes.
LONGEST: Final = 512

#: The kinds of identity, each with how its case is treated.
KINDS: Final[dict[str, str]] = {
    "user": "fold",
    "sa": "keep",
    "workload": "keep",
    "pod": "keep",
    "ns": "keep",
    "secret": "keep",
    "role": "keep",
    "resource": "keep",
    "ip": "ip",
    "mac": "fold",
    "host": "fold",
    "node": "fold",
    "job": "keep",
    "queue": "keep",
    "token": "keep",
    "session": "keep",
    "client": "keep",
    "realm": "keep",
    "model": "keep",
    "site": "keep",
    "service": "keep",
    "sensor": "keep",
}

_REFUSED_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


class BadName(ValueError):
    """A text that cannot be an identity; the message says why."""


def _address(text: str) -> str:
    """The one spelling of an IP address: no zero padding, IPv6 compressed, IPv4-mapped IPv6 as IPv4, no zone, no brackets."""
    try:
        # Accepts exactly the usual form of IPv4, several times faster than the careful way.
        socket.inet_pton(socket.AF_INET, text)
    except (OSError, ValueError):
        return _unusual_address(clean(text))
    return text


def _unusual_address(text: str) -> str:
    bare = text.strip("[]").partition("%")[0]
    if bare.count(".") == 3 and ":" not in bare:
        parts = bare.split(".")
        if not all(part.isascii() and part.isdigit() and len(part) <= 3 and int(part) < 256 for part in parts):
            raise BadName(f"not an IP address: {text[:60]!r}")
        return ".".join(str(int(part)) for part in parts)
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        raise BadName(f"not an IP address: {text[:60]!r}") from None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def clean(text: str) -> str:
    """``text`` in NFC without surrounding blanks. Raises BadName on what no name may hold."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    text = text.strip(" ")
    if not text:
        raise BadName("empty")
    # A printable text holds none of the refused categories; the others are told apart only when something is odd.
    if not text.isprintable():
        for character in text:
            if unicodedata.category(character) in _REFUSED_CATEGORIES:
                raise BadName(f"holds the control or invisible character U+{ord(character):04X}")
    if len(text.encode()) > LONGEST:
        raise BadName(f"longer than {LONGEST} bytes")
    if ".." in text and any(part == ".." for part in text.replace("\\", "/").split("/")):
        raise BadName("holds a '..' path segment")
    return text


def identity(kind: str, name: str) -> str:
    """The normalised identity ``kind:name``. Raises BadName (the text is no name) or KeyError (``kind`` is none of ``KINDS``).

    >>> identity("ip", "010.001.002.003"), identity("user", "Alice"), identity("ip", "::FFFF:10.0.0.7")
    ('ip:10.1.2.3', 'user:alice', 'ip:10.0.0.7')
    """
    rule = KINDS[kind]
    if rule == "ip":
        return f"ip:{_address(name)}"
    return f"{kind}:{clean(name.lower() if rule == 'fold' else name)}"


def stable_hash(text: str) -> int:
    """64-bit hash of a text: the same on every machine, in every run."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class Coder(dict[str, int]):
    """Raw text of one kind -> code in its ``Names``; -1 where the text is no name. Normalises on first sight, so that a
    known text costs one look-up. ``problem`` says why a text is refused."""

    def __init__(self, names: Names, kind: str) -> None:
        super().__init__()
        self.names = names
        self.kind = kind

    def __missing__(self, raw: str) -> int:
        try:
            code = self.names.code(identity(self.kind, raw))
        except BadName:
            code = -1
        if len(self) >= self.names.limit:
            self.clear()
        self[raw] = code
        return code

    def problem(self, raw: str) -> str:
        """Why ``raw`` is refused; "" where it is not."""
        try:
            identity(self.kind, raw)
        except BadName as error:
            return str(error)
        return ""


class Names:
    """The dictionary behind a block's codes: texts in order of first sight, and a stable 64-bit hash of each.

    Codes are local to one ``Names`` and never leave the process: state and wire carry texts or hashes.
    """

    def __init__(self, limit: int = 4_000_000) -> None:
        """``limit``: how many raw spellings a coder keeps before it starts afresh."""
        self.limit = limit
        self.values: list[str] = []
        self._codes: dict[str, int] = {}
        self._hashes = np.zeros(1024, np.uint64)
        self._coders: dict[str, Coder] = {}

    def __len__(self) -> int:
        return len(self.values)

    def code(self, text: str) -> int:
        """The code of a text that is already in its final form (a normalised identity, or a detail)."""
        code = self._codes.get(text)
        if code is None:
            code = len(self.values)
            if code == len(self._hashes):
                self._hashes = np.concatenate([self._hashes, np.zeros(code, np.uint64)])
            self._hashes[code] = stable_hash(text)
            self.values.append(text)
            self._codes[text] = code
        return code

    def find(self, text: str) -> int | None:
        """The code of a text if it has one."""
        return self._codes.get(text)

    def of(self, kind: str) -> Coder:
        """The coder of raw names of one kind."""
        coder = self._coders.get(kind)
        if coder is None:
            if kind not in KINDS:
                raise KeyError(kind)
            coder = self._coders[kind] = Coder(self, kind)
        return coder

    @property
    def hashes(self) -> np.ndarray:
        """uint64[len(self)]: the stable hash of each text."""
        return self._hashes[: len(self.values)]
