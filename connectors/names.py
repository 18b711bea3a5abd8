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
    """Raw text of one kind -> passing code in its ``Names``; -1 where the text is no name. Normalises on first sight, so that a
    known text costs one look-up. ``problem`` says why a text is refused."""

    def __init__(self, names: Names, kind: str) -> None:
        super().__init__()
        self.names = names
        self.kind = kind

    def __missing__(self, raw: str) -> int:
        try:
            code = self.names.passing(identity(self.kind, raw))
        except BadName:
            code = -1
        # A longer text is refused, and a few of a megabyte each would fill the memory.
        if len(raw) <= LONGEST:
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

    Whoever sends new names without end must not fill the memory, so the dictionary can start afresh: ``restart`` lets go of every text
    but those of the blocks that wait, and numbers these anew. A code is either *passing*, for the block that is being made, or given
    for good (``code``). What is kept by code outside a block is void once ``epoch`` has changed, unless the code was given for good.
    """

    def __init__(self, limit: int = 2_000_000) -> None:
        """``limit``: how many texts may be added before a restart is due, and how many raw spellings a coder keeps before it starts
        afresh. Two million of each are some 600 MB."""
        self.limit = limit
        #: How many restarts there were.
        self.epoch = 0
        self.values: list[str] = []
        self._codes: dict[str, int] = {}
        self._hashes = np.zeros(1024, np.uint64)
        # For each code whether it was given for good.
        self._lasting = bytearray()
        self._coders: dict[str, Coder] = {}
        # Texts that the last restart kept.
        self._kept = 0

    def __len__(self) -> int:
        """The lowest number above every code."""
        return len(self.values)

    @property
    def held(self) -> int:
        """How many texts it holds."""
        return len(self._codes)

    def code(self, text: str) -> int:
        """The code, for good, of a text that is already in its final form (a normalised identity, or a detail). For what is looked up
        once and kept: it is never let go of."""
        code = self._codes.get(text)
        if code is None:
            return self._add(text, lasting=True)
        self._lasting[code] = True
        return code

    def passing(self, text: str) -> int:
        """The code of such a text until the next restart: for what goes into a block and is not kept elsewhere."""
        code = self._codes.get(text)
        return self._add(text, lasting=False) if code is None else code

    def passing_all(self, texts: list[str]) -> list[int]:
        """The same for many texts: most of them are known, and a call for each would cost more than the look-up."""
        codes = list(map(self._codes.get, texts))
        return [self.passing(text) if code is None else code for text, code in zip(texts, codes, strict=True)]

    def _add(self, text: str, *, lasting: bool) -> int:
        code = len(self.values)
        if code == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.zeros(code, np.uint64)])
        self._hashes[code] = stable_hash(text)
        self.values.append(text)
        self._lasting.append(lasting)
        self._codes[text] = code
        return code

    def find(self, text: str) -> int | None:
        """The code of a text if it has one."""
        return self._codes.get(text)

    def of(self, kind: str) -> Coder:
        """The coder of raw names of one kind. Its codes are passing."""
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

    @property
    def full(self) -> bool:
        """Whether a restart is due: as many texts, or raw spellings, have come as the limit allows."""
        return len(self._codes) - self._kept >= self.limit or sum(map(len, self._coders.values())) >= self.limit

    def restart(self, keep: np.ndarray) -> np.ndarray:
        """Let go of every text but those with a code in ``keep`` or with a code for good.

        Returns int32[len(self) + 1]: the new code of each old one, -1 where the text is gone; the last entry, so that -1 stays -1 when
        a column is looked up in it. Codes for good stay as they are, the others move to the lowest numbers free, and what comes later
        is numbered above all of them.
        """
        fixed = np.frombuffer(bytes(self._lasting), np.bool_)
        wanted = np.zeros(len(fixed), np.bool_)
        wanted[keep[keep >= 0]] = True
        moving = np.flatnonzero(wanted & ~fixed)
        mapping = np.full(len(fixed) + 1, -1, np.int32)
        mapping[:-1][fixed] = np.flatnonzero(fixed)
        mapping[moving] = np.flatnonzero(~fixed)[: len(moving)]
        old = np.flatnonzero(wanted | fixed)
        new = mapping[old]
        size = int(new.max()) + 1 if len(new) else 0
        # A number between codes for good that nobody has stands for no text.
        values, lasting = [""] * size, np.zeros(size, np.bool_)
        hashes = np.zeros(max(size, 1024), np.uint64)
        hashes[new] = self._hashes[old]
        lasting[new] = fixed[old]
        for before, after in zip(old.tolist(), new.tolist(), strict=True):
            values[after] = self.values[before]
        self.values, self._hashes, self._lasting = values, hashes, bytearray(lasting.tobytes())
        self._codes = {values[after]: after for after in new.tolist()}
        for coder in self._coders.values():
            coder.clear()
        self._kept = len(old)
        self.epoch += 1
        return mapping
