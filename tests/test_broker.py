"""The broker of the tests: real, on data that outlives it, and gone when its owner is."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.broker import Broker, NoBroker, Running, absent, any_broker, own_broker
from tests.checkout import ROOT

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def own() -> Iterator[Broker]:
    with own_broker() as made:
        yield made


async def _create(bootstrap: str, topic: str) -> None:
    """Make the topic if it is not there: the admin client leaves the error in its answer."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1)])
    await admin.close()


async def _put(bootstrap: str, topic: str, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        await producer.send_and_wait(topic, value)


async def _all(bootstrap: str, topic: str, count: int) -> list[bytes]:
    async with AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        return [(await asyncio.wait_for(consumer.getone(), 60)).value for _ in range(count)]


def test_what_was_acknowledged_survives_a_stop_and_a_kill_on_the_same_address(own: Broker) -> None:
    address = own.bootstrap
    asyncio.run(_create(address, "kept"))
    asyncio.run(_put(address, "kept", b"one"))
    own.stop()
    assert own.pid is None
    own.start()
    asyncio.run(_put(address, "kept", b"two"))
    own.kill()
    own.start()
    assert asyncio.run(_all(address, "kept", 2)) == [b"one", b"two"]


def test_a_paused_broker_answers_when_it_goes_on_and_not_before(own: Broker) -> None:
    async def put_while_paused() -> tuple[bool, bool]:
        async with AIOKafkaProducer(bootstrap_servers=own.bootstrap) as producer:
            await producer.send_and_wait("kept", b"before")
            own.pause()
            sent = asyncio.ensure_future(producer.send_and_wait("kept", b"after"))
            await asyncio.wait([sent], timeout=1.0)
            early = sent.done()
            own.resume()
            await sent
            return early, sent.done()

    asyncio.run(_create(own.bootstrap, "kept"))
    assert asyncio.run(put_while_paused()) == (False, True)


def test_the_command_prints_its_address_and_a_broker_whose_owner_was_killed_ends_and_leaves_nothing(tmp_path: Path) -> None:
    surroundings = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-m", "tests.broker"], cwd=ROOT, env=surroundings, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    process.stdout.close()
    asyncio.run(_create(address, "here"))
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    deadline = time.monotonic() + 60
    while (_answers(address) or list(tmp_path.glob("tocsin-kafka-*"))) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _answers(address)
    assert list(tmp_path.glob("tocsin-kafka-*")) == []


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 1.0).close()
    except OSError:
        return False
    return True


def test_without_a_broker_a_test_is_skipped_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "")
    with pytest.raises(pytest.skip.Exception, match="no broker"):
        absent("no broker here")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no broker"):
        absent("no broker here")


def test_a_broker_that_is_named_is_taken_and_left_running(own: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_TEST_KAFKA", own.bootstrap)
    named = any_broker()
    assert isinstance(named, Running)
    asyncio.run(_create(named.bootstrap, "named"))
    named.close()
    assert own.pid is not None


def test_without_docker_java_and_jars_the_reason_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TOCSIN_TEST_KAFKA", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(NoBroker, match=r"set TOCSIN_TEST_KAFKA, or have Docker, or Java and mvn \(java is not here\)"):
        any_broker()
