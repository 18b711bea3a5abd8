"""Made-up raw records for a broker, and who produces them there at a rate: days of event time in seconds on the wall."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from aiokafka import AIOKafkaProducer

#: Midnight of a Monday, 2026-03-02, in seconds.
START = 1_772_409_600
DAY = 86_400


def flows(many: int, seed: int = 0, days: float = 6.0, hosts: int = 120, servers: int = 24) -> Iterator[bytes]:
    """Zeek conn records: hosts that keep to a few servers, from the middle on now and then one that scans and carries a lot away."""
    draw = random.Random(seed)
    step = days * DAY / many
    odd = 0
    for number in range(many):
        at = START + number * step
        who = int(hosts * draw.random() ** 2)
        server, port, out, back = (who * 7 + draw.randrange(4)) % servers, 443, draw.lognormvariate(8, 1), draw.lognormvariate(9, 1)
        if number > many // 2 and draw.random() < 0.0005:
            odd = 40
        if odd:
            odd -= 1
            who, server, port, out = 3 + odd // 10, 200 + draw.randrange(50), 4000 + odd, 1e9 * draw.random()
        yield flow(at, f"10.1.{who // 250}.{who % 250}", f"10.2.0.{server}", port, out, back, f"C{seed}x{number}")


def flow(at: float, actor: str, target: str, port: int, out: float, back: float, uid: str) -> bytes:
    """One record."""
    return (
        f'{{"ts":{at:.6f},"uid":"{uid}","id.orig_h":"{actor}","id.orig_p":40000,"id.resp_h":"{target}","id.resp_p":{port},'
        f'"proto":"tcp","service":"ssl","duration":0.2,"orig_bytes":{int(out)},"resp_bytes":{int(back)},"conn_state":"SF"}}'
    ).encode()


def pods(many: int, seed: int = 0, days: float = 6.0, addresses: int = 100) -> Iterator[bytes]:
    """Kubernetes audit records, several requests in each: pods that come and go behind the addresses of ``flows``."""
    draw = random.Random(seed)
    step = days * DAY / many
    for number in range(many):
        when = datetime.fromtimestamp(START + number * step, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        items = []
        for part in range(3):
            name, address = f"p{number}-{part}", f"10.1.0.{draw.randrange(addresses)}"
            items.append(
                {
                    "kind": "Event",
                    "apiVersion": "audit.k8s.io/v1",
                    "level": "RequestResponse",
                    "auditID": f"{seed}-{number}-{part}",
                    "stage": "ResponseComplete",
                    "requestURI": f"/api/v1/namespaces/lab/pods/{name}/status",
                    "verb": "patch",
                    "user": {"username": "system:node:gpu-01"},
                    "sourceIPs": ["10.20.0.7"],
                    "objectRef": {"resource": "pods", "namespace": "lab", "name": name, "apiVersion": "v1", "subresource": "status"},
                    "responseStatus": {"code": 200},
                    "responseObject": {
                        "kind": "Pod",
                        "metadata": {"name": name, "namespace": "lab"},
                        "spec": {"serviceAccountName": f"s{draw.randrange(60)}"},
                        "status": {"phase": "Running", "hostIP": "10.20.0.7", "podIP": address, "podIPs": [{"ip": address}]},
                    },
                    "requestReceivedTimestamp": when,
                    "stageTimestamp": when,
                }
            )
        yield json.dumps({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": items}).encode()


class Feed(threading.Thread):
    """Produces ``records`` to a topic, round its partitions, at ``rate`` a second; keeps on through whatever the broker goes through.

    ``rate_reached``: records a second, once it is over.
    """

    def __init__(self, bootstrap: str, topic: str, records: Iterable[bytes], rate: float, partitions: int) -> None:
        super().__init__(name=f"feed {topic}", daemon=True)
        self.bootstrap, self.topic, self.records, self.rate, self.partitions = bootstrap, topic, records, rate, partitions
        self.sent = 0
        self.rate_reached = 0.0
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """See ``threading.Thread``."""
        try:
            asyncio.run(self._feed())
        except BaseException as error:
            self.error = error

    def done(self, seconds: float = 300.0) -> None:
        """Wait for the end. Raises what went wrong."""
        self.join(seconds)
        assert not self.is_alive(), f"{self.topic}: only {self.sent} records were taken"
        if self.error is not None:
            raise self.error

    async def _feed(self) -> None:
        # The broker may be away for longer than a request waits by default.
        producer = AIOKafkaProducer(
            bootstrap_servers=self.bootstrap, acks="all", enable_idempotence=True, request_timeout_ms=120_000, linger_ms=0
        )
        await producer.start()
        try:
            began = time.monotonic()
            batches = [producer.create_batch() for _ in range(self.partitions)]
            # As many as fall due every 20 ms.
            turn = max(int(self.rate / 50), 1)
            for record in self.records:
                if batches[self.sent % self.partitions].append(key=None, value=record, timestamp=None) is None:
                    # Full before its turn.
                    await self._send(producer, batches)
                    batches[self.sent % self.partitions].append(key=None, value=record, timestamp=None)
                self.sent += 1
                if self.sent % turn == 0:
                    await self._send(producer, batches)
                    await asyncio.sleep(max(began + self.sent / self.rate - time.monotonic(), 0))
            await self._send(producer, batches)
            await producer.flush()
            self.rate_reached = self.sent / (time.monotonic() - began)
        finally:
            await producer.stop()

    async def _send(self, producer: AIOKafkaProducer, batches: list[object]) -> None:
        for partition, batch in enumerate(batches):
            if batch.record_count():  # type: ignore[attr-defined]
                await producer.send_batch(batch, self.topic, partition=partition)
                batches[partition] = producer.create_batch()
