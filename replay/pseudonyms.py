"""Keyed pseudonyms, so that a recording can be shared: the same identity is always the same other one, and only who has the key can
tell which.

Kinds stay, so does what the detector reads from a name and nothing more: an address keeps its neighbourhood (two addresses that share
n leading bits still do) and whether it is a private one; the parts of a name (``team-a/train-0``, ``alice@corp.example``) are
replaced one by one, so that what shares a namespace or a domain still does. What stays as it was: times, counts, volumes, actions.
Someone who knows enough about the site can recognise its busiest members by these: a pseudonymised trace is for people bound to
confidence, not for publication.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
from pathlib import Path

#: Shortest key: 128 bits, in bytes.
SHORTEST_KEY = 16
#: Hexadecimal digits of a pseudonym: 64 bits, so that a million names collide with a chance of one in 10^7.
_DIGITS = 16
_LETTERS = str.maketrans("0123456789", "ghijklmnop")
#: What joins the parts of a name: paths, domains, the realm of a user.
_PARTS = re.compile(r"[^/.@]+")
#: Longer numbers are ids of their own (a job, a build) rather than one of a row of machines.
_LONGEST_NUMBER = 4
#: Pseudonyms kept at hand; past it they are computed anew. Some 100 bytes each.
_KEPT = 1_000_000
#: A port with its protocol says nothing about whose it is; a bare number that could be one is taken for one.
_PORT = re.compile(r"(?:\d{1,5}/)?(?:tcp|udp|icmp|icmp6|sctp)(?:/\d{1,5})?|\d{1,5}")
#: Verbs of the sources, and nothing a site could have named.
_WORDS = frozenset(
    {
        *("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "exec", "attach", "portforward", "login"),
        *("logout", "refresh", "manifest", "blob", "layer", "config", "index", "password", "gpu", "cpu", "ssl", "http", "dns", "ssh"),
    }
)
#: Ranges whose members the detector tells from the rest, so they stay among themselves.
_OWN_RANGES = tuple(
    ipaddress.ip_network(each)
    for each in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24"),
        *("192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "::/8", "64:ff9b::/96"),
        *("100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "fc00::/7", "fe80::/10", "ff00::/8"),
    )
)


class KeyProblem(ValueError):
    """A key that cannot be used: one sentence."""


def read_key(path: Path | None, variable: str = "TOCSIN_PSEUDONYM_KEY") -> bytes:
    """The key from a file, else from the environment. Raises KeyProblem where there is none or it is too short."""
    if path is not None:
        try:
            key = path.read_bytes().strip()
        except OSError as error:
            raise KeyProblem(f"{path}: {error.strerror}") from None
        where = str(path)
    else:
        key, where = os.environ.get(variable, "").encode(), variable
    if len(key) < SHORTEST_KEY:
        raise KeyProblem(f"{where}: expected a key of at least {SHORTEST_KEY} bytes, got {len(key)}")
    return key


class Pseudonyms:
    """Maps identities, details and sensors' ids. The same key gives the same names, in every run."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._seen: dict[tuple[str, str], str] = {}

    @property
    def mark(self) -> str:
        """What tells whether two recordings have the same key, and nothing about the key."""
        return self._digest("mark", "")[:_DIGITS]

    def identity(self, text: str) -> str:
        """The pseudonym of ``kind:name``; the kind stays."""
        return self._kept("identity", text)

    def detail(self, text: str) -> str:
        """The pseudonym of a detail; ports, protocols, verbs and bare numbers of up to five digits stay."""
        return self._kept("detail", text)

    def topic(self, text: str) -> str:
        """The pseudonym of a Kafka topic, or of its id: a name that a topic could have."""
        return f"log-{self._digest('topic', text)[:_DIGITS]}"

    def uid(self, text: str) -> str:
        """The pseudonym of a sensor's id; none stays none."""
        return self._digest("uid", text)[:_DIGITS] if text else ""

    def _kept(self, what: str, text: str) -> str:
        found = self._seen.get((what, text))
        if found is None:
            if len(self._seen) >= _KEPT:
                self._seen.clear()
            found = self._seen[what, text] = self._identity(text) if what == "identity" else self._detail(text)
        return found

    def _identity(self, text: str) -> str:
        kind, _, name = text.partition(":")
        if kind == "ip":
            try:
                return f"ip:{self._address(ipaddress.ip_address(name))}"
            except ValueError:
                pass  # no address after all: replaced as any other name
        return f"{kind}:{_PARTS.sub(lambda part: self._name(part[0]), name)}"

    def _name(self, part: str) -> str:
        """One part of a name. The number at its end stays, for it tells alike machines from the rest: ``gpu-07``."""
        stem = part.rstrip("0123456789")
        joint = stem[len(stem.rstrip("-_")) :]
        number = part[len(stem) :]
        if not stem or not joint or len(number) > _LONGEST_NUMBER:
            return self._word("name", part)
        return f"{self._word('name', stem)}{joint}{number}"

    def _word(self, what: str, text: str) -> str:
        """Letters only, so that no part of it is taken for a number."""
        return self._digest(what, text)[:_DIGITS].translate(_LETTERS)

    def _detail(self, text: str) -> str:
        if text in _WORDS or _PORT.fullmatch(text):
            return text
        return f"x-{self._word('detail', text)}"

    def _address(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
        """A permutation of addresses that keeps shared prefixes; walked on where it would leave or enter a range of its own."""
        own = next((each for each in _OWN_RANGES if address in each), None)
        bits = address.max_prefixlen
        fixed = own.prefixlen if own is not None else 0
        value = int(address)
        while True:
            value = self._permuted(value, bits, fixed)
            found = type(address)(value)
            if own is not None or not any(found in each for each in _OWN_RANGES):
                # A number of more specific ranges lie inside others; staying in the first keeps the class that matters.
                return str(found)

    def _permuted(self, value: int, bits: int, fixed: int) -> int:
        """Each bit flipped or not, as the key and the bits before it say (Xu et al. 2002, Crypto-PAn, with HMAC)."""
        out = value
        for place in range(fixed, bits):
            prefix = value >> (bits - place)
            digest = hmac.digest(self._key, f"bit {bits} {place} {prefix:x}".encode(), hashlib.sha256)
            out ^= (digest[0] & 1) << (bits - 1 - place)
        return out

    def _digest(self, what: str, text: str) -> str:
        return hmac.digest(self._key, f"{what}\0{text}".encode("utf-8", "surrogatepass"), hashlib.sha256).hex()
