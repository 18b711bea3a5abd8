"""``tocsin respond`` on Kafka as a process of its own, with a target that outlives it.

``python -m tests.respond_stage ARGS...`` is ``tocsin ARGS...`` with the adapter of ``tests.fake_target`` in place of the lab's; it dies
where the environment says.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from aiokafka import AIOKafkaProducer

import replay.respond
from connectors import ocsf
from connectors.alert import Alert
from connectors.containment import Verb, available
from connectors.event import SECOND
from connectors.topics import ALERTS_SCHEMA, Topics
from detector.history import Entry
from detector.ledger import Ledger, LedgerFailed
from tests.alerts import made_alert
from tests.chaos import UP, until
from tests.fake_target import CRASH, LATER, TARGET, FarTarget, Later, mortal, rows, serve

#: Time of a containment, in seconds: the shortest there is.
TTL = 60
Header = tuple[str, bytes]
OURS: Header = ("tocsin", ALERTS_SCHEMA.encode())

POLICY = """
[respond]
mode = "enforce"
max_per_hour = 1000
max_concurrent = 1000
kill_switch_file = "{folder}/stop"
[respond.ledger]
url = "sqlite:///{folder}/ledger"
anchor_topic = true
anchor_rows = 4
anchor_key = {{ file = "{folder}/key" }}
[respond.approvers."user:ann"]
secret = {{ file = "{folder}/ann" }}
[respond.adapters.lab]
[[respond.rules]]
name = "block"
match = {{ min_severity = "low" }}
actions = [{{ verb = "isolate_pod", mode = "{rung}", ttl_seconds = {ttl}, max_per_hour = 1000, max_concurrent = 1000 }}]
"""


class Door(FarTarget):
    """The far target, which stops addresses too: what an attack in a log of flows is blamed on."""

    verbs: ClassVar[tuple[Verb, ...]] = (
        Verb(name="isolate_pod", kinds=("pod", "ip"), undoable=True, residual="Nothing.", needs=("put",)),
    )


class Station:
    """A responder's folder: configuration, ledger, log; one life of it after another. ``off``, ``changes``: the target's."""

    def __init__(self, bootstrap: str, prefix: str, folder: Path, *, rung: str = "enforce", more: str = "") -> None:
        self.folder, self.bootstrap, self.topics = folder, bootstrap, Topics(prefix)
        (folder / "key").write_text("the key of the anchors, longer than thirty-two bytes\n")
        (folder / "ann").write_text("the secret of ann alone, longer than thirty-two bytes\n")
        kafka = f'[kafka]\nbootstrap = ["{bootstrap}"]\nprefix = "{prefix}"\npartitions = 2\nconnect_seconds = 30\n'
        self.path = folder / "respond.toml"
        self.path.write_text(kafka + POLICY.format(folder=folder, rung=rung, ttl=TTL) + more)
        self.server: ThreadingHTTPServer
        self.server, self.off, self.changes = serve()
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Station:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.server.shutdown()
        self.server.server_close()

    @property
    def log(self) -> str:
        """What all of its lives have said on standard error."""
        path = self.folder / "err"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def start(self, *more: str, crash: str = "", later: int = 0, wait: bool = True) -> None:
        """A life: it dies at ``crash``, and takes the present for so many seconds later. ``wait``: until it reads its topics.

        What it reads first may be what makes it crash, so that one with a ``crash`` can be over by then.
        """
        before = self.log.count(f"reads {self.topics.alerts}")
        target = f"http://127.0.0.1:{self.server.server_address[1]}"
        environment = os.environ | {TARGET: target, CRASH: crash, LATER: str(later)}
        command = [sys.executable, "-m", "tests.respond_stage", "respond", "--config", str(self.path), *more]
        with (self.folder / "out").open("ab") as out, (self.folder / "err").open("ab") as err:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment)  # noqa: S603
        if wait:
            until(lambda: self.log.count(f"reads {self.topics.alerts}") > before or self.ended(), "it reads its topics")
            assert crash or not self.ended(), self.log[-2000:]

    def ended(self) -> bool:
        """Whether this life is over."""
        return self.process is not None and self.process.poll() is not None

    def died(self) -> int:
        """Wait for the end of this life. Returns its exit code."""
        assert self.process is not None
        return self.process.wait(UP)

    def stop(self) -> tuple[int, float]:
        """SIGTERM. Returns the exit code, and the seconds it took."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(UP), time.monotonic() - began

    def rows(self) -> list[Entry]:
        """The ledger; nothing while there is none."""
        try:
            with Ledger.at(self.folder / "ledger", create=False) as ledger:
                return list(ledger.entries())
        except LedgerFailed:
            return []

    def until(self, result: str, many: int = 1) -> None:
        """Wait until so many rows end so."""
        until(lambda: sum(row.result == result for row in self.rows()) >= many, f"{many} rows {result}", every=0.2)

    def send(self, *messages: tuple[bytes, Iterable[Header]], topic: str = "", partition: int = 0) -> None:
        """Messages, each with its headers, on the topic of alerts or another."""

        async def sending() -> None:
            producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap)
            await producer.start()
            try:
                for value, headers in messages:
                    await producer.send_and_wait(topic or self.topics.alerts, value, partition=partition, headers=list(headers))
            finally:
                await producer.stop()

        asyncio.run(sending())


def fresh(uid: str, pod: str = "trainer-0", **changes: Any) -> Alert:
    """A grave alert of this moment."""
    now = int(time.time() * SECOND)
    given = {"uid": uid, "time": now, "opened": now, "first": now, "last": now, "targets": [f"pod:team-a/{pod}"]}
    return made_alert(**(given | changes))


def finding(uid: str, pod: str = "trainer-0", **changes: Any) -> tuple[bytes, list[Header]]:
    """The same as a message of ours."""
    return ocsf.encode(fresh(uid, pod, **changes), "0.1.0"), [OURS]


def main() -> None:
    """Run ``tocsin`` with the far target."""
    available()["lab"] = Door
    replay.respond.Clock = Later  # type: ignore[attr-defined]
    for step in ("prepare", "apply", "verify", "undo", "verify_undone"):
        mortal(Door, step, step)
    mortal(Ledger, "append", rows)
    from replay.cli import app

    app()


if __name__ == "__main__":
    main()
