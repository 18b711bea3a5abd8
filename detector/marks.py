"""Marks on names: what a name alone says of an identity, worked out once for each and looked up by code."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from connectors.names import Names

#: Where addresses are not on the Internet: this network, private, shared by carriers, loopback, link-local, for benchmarks, multicast
#: and reserved. Addresses kept for documentation stand for the Internet in documents, and so they do here.
_INSIDE = [
    ipaddress.ip_network(each)
    for each in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"),
        *("198.18.0.0/15", "224.0.0.0/3", "::/127", "fc00::/7", "fe80::/9", "ff00::/8"),
    )
]


class Marks:
    """One small number for each name, 0 to 127. ``says`` is asked once for each name that is looked up."""

    def __init__(self, says: Callable[[str], int]) -> None:
        self._says = says
        self._names: Names | None = None
        self._epoch = 0
        self._known = np.zeros(0, np.int8)

    def of(self, names: Names, codes: np.ndarray) -> np.ndarray:
        """int8[n]: the mark of each code of ``names``."""
        if names is not self._names or names.epoch != self._epoch:
            self._names, self._epoch, self._known = names, names.epoch, np.zeros(0, np.int8)
        if len(names) > len(self._known):
            # -1 = not asked yet. Twice as long as needed, so that names may come one by one.
            longer = np.full(2 * len(names), -1, np.int8)
            longer[: len(self._known)] = self._known
            self._known = longer
        marks: np.ndarray = self._known[codes]
        fresh = codes[marks < 0]
        if len(fresh):
            for code in np.unique(fresh).tolist():
                self._known[code] = self._says(names.values[code])
            marks = self._known[codes]
        return marks


def outward(name: str) -> bool:
    """Whether an identity is an address outside the site.

    >>> [outward(name) for name in ("ip:8.8.8.8", "ip:2a00::1", "ip:203.0.113.9")]
    [True, True, True]
    >>> [outward(name) for name in ("ip:10.1.2.3", "ip:172.31.0.1", "ip:fe80::1", "ip:255.255.255.255", "host:8.8.8.8")]
    [False, False, False, False, False]
    >>> outward("ip:elsewhere")
    False
    """
    if not name.startswith("ip:"):
        return False
    # No network of IPv4 above is smaller than 65,536 addresses, so that two octets tell, and few are ever worked out.
    first, dot, _ = name[3:].rpartition(".")
    return _outside(f"{first.rpartition('.')[0]}.0.0" if dot else name[3:])


@lru_cache(maxsize=1 << 16)
def _outside(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not any(address in network for network in _INSIDE)
