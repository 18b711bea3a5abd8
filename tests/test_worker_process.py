"""How a worker's process ends: asked to, it does so within ten seconds whatever the broker does; a mistake is no missing broker."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from detector.config import parse
from detector.process import AGAIN, BROKER, MISTAKE, OK, REFUSED, TOPICS, Beat, Halt, Process
from tests.broker import own_broker
from tests.chaos import HERE, Member, Site, until

Make = Callable[..., Site]


def ended(folder: Path, text: str, *words: str, seconds: float = 60.0) -> tuple[int, str]:
    """Run a worker to its end: (exit code, its last sentence)."""
    path = folder / "tocsin.toml"
    path.write_text(text, "utf-8")
    command = [sys.executable, "-m", "replay.cli", "worker", "--stage", "actor", "--config", str(path), *words]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TOCSIN_")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, env=environment)  # noqa: S603
    return done.returncode, json.loads(done.stderr.splitlines()[-1])["message"]


def test_a_port_that_is_taken_is_a_mistake_and_no_missing_broker(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        code, said = ended(tmp_path, "", "--listen", f"127.0.0.1:{held.getsockname()[1]}")
    assert code == MISTAKE
    assert "--listen" in said
    assert "in use" in said


def test_a_password_file_that_is_not_there_is_a_mistake_and_no_missing_broker(tmp_path: Path) -> None:
    text = 'kafka.security = "sasl_plaintext"\nkafka.username_file = "nowhere"\n'
    code, said = ended(tmp_path, text, "--listen", "")
    assert code == MISTAKE
    assert "kafka.username_file: nowhere" in said


def test_ingest_without_a_raw_topic_is_a_mistake(tmp_path: Path) -> None:
    code, said = ended(tmp_path, "", "--listen", "", "--stage", "ingest")
    assert code == MISTAKE
    assert "kafka.raw: names no topic" in said


def test_asked_to_end_while_the_broker_is_waited_for_it_ends(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        nowhere = f"127.0.0.1:{held.getsockname()[1]}"
    with Site(nowhere, tmp_path, settings="kafka.connect_seconds = 3600", topics=False) as here:
        worker = here.start("all")
        until(lambda: worker.said("attempt 1: "), "it waits for the broker")
        worker.wanted = False
        worker.signal(signal.SIGTERM)
        # Long before it would give up.
        assert worker.ended(60.0) == OK


class Stubborn:
    """A service of which the end does not come, whatever is done to it, until it is released."""

    name = "actor"
    released = False

    async def start(self) -> None:
        """See ``Service``."""

    async def stop(self) -> None:
        """See ``Service``."""
        while not self.released:
            try:
                await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                continue

    async def leave(self) -> None:
        """See ``Service``."""

    def ready(self) -> dict[str, str]:
        """See ``Service``."""
        return {}

    def beat(self) -> Beat:
        """See ``Service``."""
        return Beat(["tocsin.by-actor/0"], {}, 0, 0, [], 3)


class Failing(Stubborn):
    """A service that cannot keep its state when it stops, and says so."""

    def __init__(self, process: Process) -> None:
        self.process = process

    async def stop(self) -> None:
        """See ``Service``."""
        self.process.fail(OSError("the state is not taken"))


class Quiet:
    """A sender that has nothing to send."""

    def put(self, letter: object) -> None:
        """See ``Sender``."""

    async def settle(self) -> None:
        """See ``Sender``."""

    async def stop(self) -> None:
        """See ``Sender``."""


def lived(process: Process, service: Stubborn, seconds: float) -> int:
    """Start one service without a broker and ask it to end. Returns the exit code; fails where it takes longer than ``seconds``."""
    serving = asyncio.Event()

    async def reached() -> None:
        process.sender = Quiet()  # type: ignore[assignment]

    async def start() -> None:
        serving.set()

    async def run() -> int:
        process._reached = reached  # type: ignore[method-assign]
        service.start = start  # type: ignore[method-assign]
        running = asyncio.get_running_loop().create_task(process.run(lambda _: [service]))
        await serving.wait()
        await asyncio.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)
        done, _ = await asyncio.wait([running], timeout=seconds)
        service.released = True
        assert done, f"it has not ended within {seconds:g} s"
        return running.result()

    return asyncio.run(run())


def test_what_does_not_end_when_it_is_cancelled_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.process.DRAIN_SECONDS", 0.5)
    process = Process(parse(""), "0", stages=("actor",))
    assert lived(process, Stubborn(), 60.0) == AGAIN
    page = process.metrics.render()[0].decode()
    assert 'tocsin_open_partitions{stage="actor"} 1.0' in page
    assert 'tocsin_assigned_partitions{stage="actor"} 3.0' in page


def test_a_fault_while_it_drains_is_said_and_shows_in_the_exit_code(caplog: pytest.LogCaptureFixture) -> None:
    process = Process(parse(""), "0", stages=("actor",))
    assert lived(process, Failing(process), 60.0) == AGAIN
    assert "the state is not taken" in caplog.text


def test_the_first_fault_decides_and_the_second_is_said(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> int:
        process = Process(parse(""), "0")

        async def reached() -> None:
            process.fail(Halt(4, "first"))
            process.fail(Halt(75, "second"))
            await asyncio.sleep(60)

        process._reached = reached  # type: ignore[method-assign]
        return await process.run(lambda _: [])

    assert asyncio.run(run()) == 4
    assert "second" in caplog.text


def said_at(worker: Member, *texts: str) -> float:
    """When a worker first said one of these, in seconds."""
    lines = (line for line in worker.lines() if line["message"].startswith(texts))
    return datetime.fromisoformat(next(lines)["time"]).timestamp()


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_asked_to_end_while_the_broker_is_gone_and_a_checkpoint_is_under_way_it_ends(tmp_path: Path) -> None:
    with own_broker() as broker, Site(broker.bootstrap, tmp_path, settings="worker.checkpoint_seconds = 1") as here:
        worker = here.start("all")
        here.ready()
        fed = here.feed(40_000, 4_000)
        until(lambda: worker.said(": checkpoint at "), "there are checkpoints", 120.0)
        broker.pause()
        time.sleep(3.0)
        worker.wanted = False
        worker.signal(signal.SIGTERM)
        assert worker.ended(20.0) in (OK, AGAIN)
        # By its own clock: a busy machine takes time of its own to end a process.
        assert said_at(worker, "could not drain in time", "drained") - said_at(worker, "asked to end") < 9.0
        broker.resume()
        fed.done()


@pytest.mark.kafka
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("what", "error"), [("topic", "TopicAuthorizationFailedError"), ("group", "GroupAuthorizationFailedError")])
def test_a_consumer_that_is_refused_ends_its_process_with_a_sentence(site: Make, what: str, error: str) -> None:
    here = site(environment={"REFUSED": what})
    worker: Member = here.start("actor", "actor", module="tests.dying_consumer")
    until(lambda: worker.exits, "it has ended", 120.0)
    assert worker.exits[0] == AGAIN
    (said, *_) = [line for line in worker.lines() if "cannot be read any more" in line["message"]]
    assert error in said["message"]
    assert said["logger"] == "tocsin"


def test_the_unit_and_the_runbook_know_every_exit_code() -> None:
    unit = (HERE / "deploy" / "systemd" / "tocsin@.service").read_text("utf-8")
    (kept,) = re.findall(r"^RestartPreventExitStatus=(.+)$", unit, re.MULTILINE)
    table = (HERE / "docs" / "kafka.md").read_text("utf-8").partition("Exit codes, and what the units do")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| (\d+) \|.*\| ([^|]+) \|$", table, re.MULTILINE))
    assert {int(code) for code in rows} == {OK, MISTAKE, REFUSED, BROKER, TOPICS, AGAIN}
    # What another start does not help, does not start again: in the unit and in what is said of it.
    assert {int(code) for code in kept.split()} == {MISTAKE, REFUSED, TOPICS}
    assert {int(code) for code, what in rows.items() if what == "stays down"} == {OK, MISTAKE, REFUSED, TOPICS}
