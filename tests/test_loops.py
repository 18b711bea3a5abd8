"""Event loops that do not wait for the goodbye of a TLS peer."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.loops import Loop, Policy
from replay import cli
from tests.certificates import Authority


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[tuple[int, ssl.SSLContext]]:
    """A TLS server that shakes hands and never says or reads anything more: its port, and what its clients trust."""
    authority = Authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.issue("server"))
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as door:

        def serve() -> None:
            with context.wrap_socket(door.accept()[0], server_side=True):
                over.wait()

        thread = threading.Thread(target=serve)
        thread.start()
        yield door.getsockname()[1], ssl.create_default_context(cafile=authority.ca)
        over.set()
        thread.join()


def test_a_tls_peer_that_never_says_goodbye_is_not_waited_for(silent: tuple[int, ssl.SSLContext]) -> None:
    port, trust = silent

    async def come_and_go() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust)
        writer.close()
        # What is closed by force says so; asyncio's own patience is three times as long.
        with pytest.raises(TimeoutError, match="SSL shutdown timed out"):
            await asyncio.wait_for(writer.wait_closed(), 10.0)

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(come_and_go())


def test_every_command_and_every_thread_of_it_has_such_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[asyncio.AbstractEventLoop] = []

    def command() -> None:
        thread = threading.Thread(target=lambda: made.append(asyncio.new_event_loop()))
        thread.start()
        thread.join()
        made.append(asyncio.new_event_loop())

    usual = asyncio.get_event_loop_policy()
    monkeypatch.setattr(cli, "app", command)
    try:
        cli.main()
        assert isinstance(asyncio.get_event_loop_policy(), Policy)
    finally:
        asyncio.set_event_loop_policy(usual)
    assert [type(loop) for loop in made] == [Loop, Loop]
    for loop in made:
        loop.close()
