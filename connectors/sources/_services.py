"""What a flow asked for: protocol and port of the responder, as the detail of its object."""

from __future__ import annotations

import numpy as np

from connectors.names import Names
from connectors.sources._short import ShortTexts

#: First port of Linux's default range for outgoing connections. Services that register a port there at start (RPC, NCCL, MPI)
#: take another one every time; told apart, each would be a service never seen before.
EPHEMERAL = 32768

_PROTOCOLS = ("tcp", "udp", "icmp", "sctp", "unknown_transport", "other")
_CODES = {
    **{name: code for code, name in enumerate(_PROTOCOLS)},
    **{name.upper(): code for code, name in enumerate(_PROTOCOLS)},
    "ICMPv6": _PROTOCOLS.index("icmp"),
    "IPv6-ICMP": _PROTOCOLS.index("icmp"),
    "ipv6-icmp": _PROTOCOLS.index("icmp"),
}
_ICMP = _PROTOCOLS.index("icmp")
#: Ports told apart, one that stands for the ephemeral ones, one for none.
_NO_PORT = EPHEMERAL + 1
_WIDTH = EPHEMERAL + 2
#: Spellings of protocols kept at once; there are a dozen.
_SPELLINGS = 64


class Services:
    """Codes of ``tcp/443``, ``tcp/ephemeral``, ``icmp`` (whose numbers are types, not ports), ``other/9``, ``sctp`` (no port)."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._epoch = names.epoch
        self._protocols = ShortTexts(lambda text: _CODES.get(text, len(_PROTOCOLS) - 1), _SPELLINGS)
        self._codes = np.full(len(_PROTOCOLS) * _WIDTH, -1, np.int32)

    def codes(self, protocols: list[str], ports: np.ndarray) -> np.ndarray:
        """int32[n] from protocol names and float64[n] ports, whole numbers of 0 to 65535 or NaN."""
        if self._names.epoch != self._epoch:
            self._epoch = self._names.epoch
            self._codes.fill(-1)
        port = np.where(np.isnan(ports), _NO_PORT, np.minimum(ports, EPHEMERAL)).astype(np.int64)
        key = self._protocols.codes(protocols) * _WIDTH + port
        codes: np.ndarray = self._codes[key]
        if codes.size and codes.min() < 0:
            for new in dict.fromkeys(key[codes < 0].tolist()):
                self._codes[new] = self._names.passing(_text(*divmod(new, _WIDTH)))
            codes = self._codes[key]
        return codes


def _text(protocol: int, port: int) -> str:
    name = _PROTOCOLS[protocol]
    if protocol == _ICMP or port == _NO_PORT:
        return name
    return f"{name}/{'ephemeral' if port == EPHEMERAL else port}"


def impossible(ports: np.ndarray) -> np.ndarray:
    """bool[n]: whether a float64 port is neither NaN nor a whole number of 0 to 65535."""
    fits: np.ndarray = np.isnan(ports) | ((ports >= 0) & (ports < 65536) & (ports == np.floor(ports)))
    return ~fits
