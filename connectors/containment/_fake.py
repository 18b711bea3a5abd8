"""What a fake of a target is made of: it answers requests, in this process or as a real HTTP server on 127.0.0.1.

Fakes ship with the product: with them an adapter is rehearsed, and a policy tried out, before it meets the real system. Each gives the
answers that were recorded on the real one, or where none could be had, those that its source says; its module says which.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import httpx
import msgspec

from connectors.containment._http import Secret


class Rehearsed(Secret, frozen=True):
    """The secret of a fake: no secret."""

    env: str = "REHEARSED"

    def read(self) -> str:
        """Always the same."""
        return "rehearsed"


class Ask(NamedTuple):
    """A request. ``path`` is unquoted, header names are in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as plain data, None where there is none."""
        return msgspec.json.decode(self.body) if self.body else None


class Answer(NamedTuple):
    """``body`` is plain data, sent as JSON; None sends nothing."""

    status: int
    body: Any = None
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


class Fake:
    """A target that stands by itself. One request at a time."""

    def __init__(self) -> None:
        self._lock = Lock()
        #: Every request, as method and path, in order.
        self.asked: list[tuple[str, str]] = []

    def answer(self, ask: Ask) -> Answer:
        """What the target answers."""
        raise NotImplementedError

    def meet(self, ask: Ask) -> Answer:
        """Answer one request, and remember that it came."""
        with self._lock:
            self.asked.append((ask.method, ask.path))
            return self.answer(ask)

    def transport(self) -> httpx.MockTransport:
        """It as what stands in for the network."""

        def handle(request: httpx.Request) -> httpx.Response:
            headers = {name.lower(): value for name, value in request.headers.items()}
            ask = Ask(request.method, unquote(request.url.path), dict(request.url.params), headers, request.read())
            given = self.meet(ask)
            return httpx.Response(given.status, headers=given.headers, content=_written(given))

        return httpx.MockTransport(handle)

    @contextmanager
    def serve(self) -> Iterator[str]:
        """It as a server; gives its address. The server is gone afterwards, with its threads."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": self}))
        # A thread that waits for the next request of a kept connection must not hold up the end.
        server.daemon_threads, server.block_on_close = True, False
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def _written(answer: Answer) -> bytes:
    return b"" if answer.body is None else msgspec.json.encode(answer.body)


class _Handler(BaseHTTPRequestHandler):
    """Hands a request to the fake of its class."""

    fake: Fake
    protocol_version = "HTTP/1.1"
    #: Head and body are two writes: without this the second waits 40 ms for the first to be acknowledged.
    disable_nagle_algorithm = True

    def handle_one_request(self) -> None:
        """Any method."""
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        ask = Ask(self.command, unquote(parts.path), dict(parse_qsl(parts.query, keep_blank_values=True)), headers, body)
        given = self.fake.meet(ask)
        content = _written(given)
        self.send_response(given.status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **given.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(content)
            self.wfile.flush()
        except OSError:
            # Who asked has lost patience.
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Not on the terminal."""
