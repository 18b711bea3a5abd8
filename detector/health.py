"""The page of a process about itself: ``/metrics`` for Prometheus, ``/healthz`` and ``/readyz`` for whoever supervises it.

Bound to this machine unless told otherwise. It only tells: nothing can be changed through it, and no identity is on it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import Protocol

import orjson
from aiohttp import hdrs, web

#: Where the page is if nobody says: the port that Prometheus' list of exporters leaves to whoever comes.
LISTEN = "127.0.0.1:9464"


class ListenError(ValueError):
    """A ``--listen`` that cannot be used, in one sentence."""


def address(text: str) -> tuple[str, int]:
    """``host:port`` apart; port 0 takes a free one. Raises ListenError.

    >>> address("127.0.0.1:9464"), address("[::1]:0")
    (('127.0.0.1', 9464), ('::1', 0))
    """
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    whole = bool(colon and bare) and ((":" in bare) == host.startswith("[")) and bare.isprintable() and " " not in bare
    if not whole or not (port.isascii() and port.isdigit() and int(port) < 65_536):
        raise ListenError(f"--listen: expected an address and a port (127.0.0.1:9464, [::1]:9464), got {text!r}")
    return bare, int(port)


def local(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Page(Protocol):
    """What a process counts."""

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """(page, content type) in the newest form that an ``Accept`` header asks for."""
        ...


class Health:
    """The server. ``ready``: what is not ready and why, empty where every assigned partition is open.

    ``start`` and ``stop`` belong into the loop that does the work: a loop that stands still answers nothing, and that is the truth.
    """

    def __init__(self, metrics: Page, ready: Callable[[], Mapping[str, str]], listen: str = LISTEN) -> None:
        self._metrics = metrics
        self._ready = ready
        self._host, self._port = address(listen)
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen. Raises ListenError where the address cannot be had."""
        app = web.Application(client_max_size=1024)
        app.add_routes([web.get("/metrics", self._show), web.get("/healthz", self._alive), web.get("/readyz", self._open)])
        # Requests are not logged: Prometheus asks every few seconds, all day.
        # Open connections must not keep a process that drains: a scrape takes milliseconds.
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError as error:
            await runner.cleanup()
            raise ListenError(f"--listen: {self._host}:{self._port}: {error.strerror or error}") from None
        self._runner = runner

    async def stop(self) -> None:
        """Close the socket and what is connected to it. Nothing if it never started."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    @property
    def at(self) -> tuple[str, int]:
        """(host, port) that it listens on. Raises RuntimeError before ``start``."""
        if self._runner is None:
            raise RuntimeError("not started")
        host, port, *_ = self._runner.addresses[0]
        return host, port

    async def _show(self, request: web.Request) -> web.Response:
        page, kind = self._metrics.render(request.headers.get(hdrs.ACCEPT, ""))
        return web.Response(body=page, headers={hdrs.CONTENT_TYPE: kind})

    async def _alive(self, _: web.Request) -> web.Response:
        return _json({"alive": True}, 200)

    async def _open(self, _: web.Request) -> web.Response:
        missing = dict(self._ready())
        return _json({"ready": not missing, "missing": missing}, 503 if missing else 200)


def _json(body: dict[str, object], status: int) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")
