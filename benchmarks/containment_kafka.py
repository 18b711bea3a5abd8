"""From the topic of alerts to the call and to the verified effect: a responder's process on a real broker, beside a bare consumer."""

from __future__ import annotations

import asyncio
import copy
import os
import re
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from connectors import ocsf
from connectors.cluster import create
from connectors.containment import Action, Applied, available
from connectors.containment.lab import Lab, LabSettings
from connectors.event import SECOND
from connectors.kafka import Kafka
from connectors.topics import ALERTS_SCHEMA, Topics
from detector.ledger import Ledger
from replay.cli import app

#: Between two alerts, in seconds: each is over before the next, so that the way is measured and no queue.
PAUSE = 0.05

POLICY = """
[kafka]
bootstrap = ["{bootstrap}"]
prefix = "{prefix}"
[respond]
mode = "enforce"
max_per_hour = 10000
max_concurrent = 10000
[respond.ledger]
url = "sqlite:///{folder}/ledger"
[respond.adapters.lab]
[[respond.rules]]
name = "bench"
actions = [{{ verb = "isolate_pod", mode = "enforce", max_per_hour = 10000, max_concurrent = 10000, cooldown_seconds = 0 }}]
"""


def measured(bootstrap: str, many: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds from an alert's producing to its reading by a bare consumer, to the call, and to the row that says it is verified."""
    with tempfile.TemporaryDirectory() as name:
        return asyncio.run(_measured(bootstrap, Path(name), many))


async def _measured(bootstrap: str, folder: Path, many: int) -> tuple[list[float], list[float], list[float]]:
    prefix = f"b{uuid.uuid4().hex[:8]}"
    await create(Kafka(bootstrap=[bootstrap], prefix=prefix))
    config = folder / "respond.toml"
    config.write_text(POLICY.format(bootstrap=bootstrap, prefix=prefix, folder=folder))
    topic = Topics(prefix).alerts
    bare = await _alone(bootstrap, topic, [f"warm-{number}" for number in range(many)])
    command = [sys.executable, "-m", "benchmarks.containment_kafka", "respond", "--config", str(config)]
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
    try:
        # The alerts of the bare consumer come first, and compile and open what the first of anything does.
        await _until(folder, many)
        sent = await _sent(bootstrap, topic, [f"bench-{number}" for number in range(many)])
        await _until(folder, 2 * many)
    finally:
        process.terminate()
        await process.wait()
    called = dict(re.findall(r"called pod:bench/(bench-\d+) (\d+)", (folder / "out").read_text()))
    with Ledger.at(folder / "ledger", create=False) as ledger:
        seen = {row.alert: row.time for row in ledger.entries() if row.result == "verified"}
    issued = [int(called[uid]) / 1e9 - at for uid, at in sent.items()]
    return bare, issued, [seen[uid] / SECOND - at for uid, at in sent.items()]


async def _until(folder: Path, many: int) -> None:
    while (folder / "out").read_text().count(": verified") < many:  # noqa: ASYNC110  another process writes the file
        await asyncio.sleep(0.2)


def _value(uid: str) -> bytes:
    from benchmarks.containment import alert

    return ocsf.encode(alert(0, f"pod:bench/{uid}", uid), "bench")


async def _sent(bootstrap: str, topic: str, uids: list[str]) -> dict[str, float]:
    """When each was given to the producer, seconds since 1970."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=0)
    await producer.start()
    found = {}
    for uid in uids:
        value = _value(uid)
        found[uid] = time.time()
        await producer.send_and_wait(topic, value, headers=[("tocsin", ALERTS_SCHEMA.encode())])
        await asyncio.sleep(PAUSE)
    await producer.stop()
    return found


async def _alone(bootstrap: str, topic: str, uids: list[str]) -> list[float]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", isolation_level="read_committed")
    await consumer.start()
    read: dict[str, float] = {}

    async def reading() -> None:
        async for message in consumer:
            read[ocsf.alert_of(message.value).uid] = time.time()
            if len(read) == len(uids):
                return

    task = asyncio.create_task(reading())
    sent = await _sent(bootstrap, topic, uids)
    await task
    await consumer.stop()
    return [read[uid] - at for uid, at in sent.items()]


class Bench(Lab):
    """The lab, with a pod for whoever asks; says when it is called."""

    def __init__(self, settings: LabSettings) -> None:
        super().__init__(settings)
        self._pod = next(iter(Lab.rehearsal().adapter.settings.state.pods.values()))  # type: ignore[attr-defined]

    def prepare(self, action: Action) -> object:  # type: ignore[override]
        """See ``Adapter``."""
        self.settings.state.pods.setdefault(action.target, copy.deepcopy(self._pod))
        return super().prepare(action)

    def apply(self, action: Action) -> Applied:
        """See ``Adapter``."""
        sys.stdout.write(f"called {action.target} {time.time_ns()}\n")
        return super().apply(action)


if __name__ == "__main__":
    available()["lab"] = Bench  # type: ignore[assignment]
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    app()
