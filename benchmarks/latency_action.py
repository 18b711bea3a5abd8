"""A responder behind a site's alerts, for ``benchmarks.latency``: it may act on all of them, and tells a receiver of each."""

# ruff: noqa: S603  what is run here is written here

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec

from benchmarks.kafka_site import UP, Site, still

#: The environment's name for the key that calls are signed with.
KEY = "TOCSIN_BENCHMARK_HOOK"
#: The responder has nothing to do when it has said nothing for so many seconds.
STILL = 5.0
ACTION = """{ verb = "notify_soar", mode = "enforce", max_per_hour = 10_000, max_concurrent = 10_000, cooldown_seconds = 0 }"""


@contextmanager
def acting(site: Site) -> Iterator[dict[str, float]]:
    """A responder at work; filled with: id of an alert -> when the receiver was first called for it, seconds since 1970."""
    called: dict[str, float] = {}

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            now = time.time()
            about = msgspec.json.decode(self.rfile.read(int(self.headers["Content-Length"])))["data"]
            called.setdefault(about["alert"], now)
            self.send_response(202)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nobody asks."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    log = site.folder / "respond.log"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "replay.cli", "respond", "--config", str(_configured(site, server.server_port))]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=os.environ | {KEY: secrets.token_hex(32)}
        )
    try:
        # It begins with what was told before.
        _wait(lambda: log.stat().st_size if log.stat().st_size or process.poll() is not None else None)
        if process.poll() is not None:
            raise RuntimeError(f"the responder has ended: {log.read_text('utf-8', 'replace')[-2000:]}")
        yield called
        _wait(lambda: len(called))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(UP)
        server.shutdown()
        server.server_close()


def _wait(state: Callable[[], int | None]) -> None:
    if not still(state, STILL, UP):
        raise TimeoutError(f"not within {UP:g} s: the responder has nothing to do")


def _configured(site: Site, port: int) -> str:
    """The site's configuration with a responder's beside it."""
    respond = {
        "mode": '"enforce"',
        "max_per_hour": "10_000",
        "max_concurrent": "10_000",
        "max_age_seconds": "86_400",
        "breaker": "{ wrong = 1_000, window_seconds = 60 }",
        "ledger.url": json.dumps(f"sqlite:///{site.folder}/ledger"),
        "adapters.webhook": f'{{ url = "http://127.0.0.1:{port}/hook", key = {{ env = "{KEY}" }} }}',
        "rules": f'[{{ name = "all", match = {{ min_severity = "low" }}, actions = [{ACTION}] }}]',
    }
    path = site.folder / "respond.toml"
    path.write_text(site.path.read_text("utf-8") + "".join(f"respond.{key} = {value}\n" for key, value in respond.items()), "utf-8")
    return str(path)
