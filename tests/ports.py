"""Ports for servers that tests start."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

_given: set[int] = set()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now and no other call was given, below those that outgoing connections take.

    While a server is down its clients go on knocking; from a port of that range one could meet itself there and hold the server's port.
    """
    while True:
        port = random.randrange(15_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            if port not in _given:
                _given.add(port)
                return port
