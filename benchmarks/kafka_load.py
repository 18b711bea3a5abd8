"""Raw records for ``benchmarks.kafka``, and a process that produces them at a rate.

``python -m benchmarks.kafka_load '<settings as JSON>'`` (see ``Load``) produces, then writes one JSON object (see ``Sent``): how many
it has sent, when it sent each marker, and how far behind its timetable it has been at worst.

Hosts keep to a few servers each. A *marker* is a record that is surely surprising: a host of which only ordinary things are known sends
a lot, once, to where nobody has ever been.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
from aiokafka import AIOKafkaProducer

#: Midnight of a Monday, 2024-01-01, in seconds: long past, as no record may be ahead of its arrival.
START = 1_704_067_200.0
DAY = 86_400.0
#: What makes a record a marker, with its number.
MARKER = re.compile(rb'"M(\d{9})"')
#: Hosts kept for markers, beside the others; and one of so many records is an ordinary one of theirs.
MARKED, OF = 2_000, 20
#: Records leave so often, in seconds.
TURN = 0.005


class Load(msgspec.Struct, kw_only=True):
    """What to produce. ``phases``: (records a second, seconds); without any ``records`` as fast as can be. ``speed``: seconds of event
    time to one on the wall; ``pace``: records to a second of event time where there is no rate. ``began``: event time of the first
    record, seconds since ``origin``. ``markers``: of them a second, numbered from ``first`` on."""

    bootstrap: str
    topic: str
    partitions: int
    identities: int
    phases: list[tuple[float, float]] = []
    records: int = 0
    speed: float = 1.0
    pace: float = 1.0
    began: float = 0.0
    markers: float = 0.0
    first: int = 0
    seed: int = 0
    origin: float = START


class Batch(NamedTuple):
    """Records that left together: ``many`` of a partition from ``offset`` on, at ``at`` seconds since 1970."""

    partition: int
    offset: int
    many: int
    at: float


class Sent(msgspec.Struct):
    """What was produced. ``markers``: number -> seconds since 1970; ``late``: seconds behind its timetable at worst; ``ended``: event
    time of the last record, as ``Load.began``; ``began_at``, ``ended_at``: seconds since 1970; ``batches``: when each record left,
    where there was a timetable."""

    records: int
    markers: dict[int, float]
    late: float
    ended: float
    began_at: float
    ended_at: float
    batches: list[Batch] = []


def address(number: int) -> str:
    """The address of a host: below the number of identities one that is in the traffic; above it one for markers."""
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def server(number: int) -> str:
    """The address of a server."""
    return f"11.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def record(at: float, uid: str, actor: int, target: int, port: int, sent: int, got: int) -> bytes:
    """A Zeek conn record as a sensor writes it, with the columns that nobody reads, too: some 540 bytes. ``at``: seconds since 1970."""
    return (
        f'{{"ts":{at:.6f},"uid":"{uid}","id.orig_h":"{address(actor)}","id.orig_p":{32768 + sent % 28000},'
        f'"id.resp_h":"{server(target)}","id.resp_p":{port},"proto":"tcp","service":"ssl","duration":0.25,"orig_bytes":{sent},"resp_bytes":{got},"conn_state":"SF",'
        '"local_orig":true,"local_resp":true,"missed_bytes":0,"history":"ShADadFf","orig_pkts":12,'
        f'"orig_ip_bytes":{sent + 480},"resp_pkts":14,"resp_ip_bytes":{got + 560},"community_id":"1:2qWLu47P6NdE990W5Qp7f5erols=",'
        '"orig_l2_addr":"00:0d:3a:13:e3:69","resp_l2_addr":"12:34:56:78:9a:bc","ip_proto":6}'
    ).encode()


class Traffic:
    """Who does what at a site of so many identities, one in ten of them a server; by a Zipf law, as ever."""

    def __init__(self, identities: int, seed: int = 0, origin: float = START) -> None:
        self.origin = origin
        self.servers = max(identities // 10, 20)
        self.hosts = max(identities - self.servers, 20)
        self._log = math.log(self.hosts)
        self._draw = random.Random(seed)
        self._seed = seed
        self._made = 0

    def ordinary(self, at: float) -> bytes:
        """The next record, at an event time in seconds since ``origin``."""
        draw = self._draw.random
        self._made += 1
        if self._made % OF == 0:
            return self.habit(at, self.hosts + int(draw() * MARKED), draw())
        # Neighbours in rank are no neighbours in number.
        return self.habit(at, int(math.exp(draw() * self._log) - 1) * 7_919 % self.hosts, draw())

    def habit(self, at: float, actor: int, chance: float) -> bytes:
        """One of four things that a host does all the time."""
        which = int(chance * 4)
        size = 200 + int(chance * 40_000) % 4_000
        target = (actor * 31 + which * 17) % self.servers
        port = (443, 5000, 2049, 6443)[which]
        return record(self.origin + at, f"C{self._seed:04d}{self._made:09d}", actor, target, port, size, 3 * size)

    def everyone(self, began: float, pace: float) -> Iterator[bytes]:
        """Two records of every host, so that each is known with two pairs."""
        for number in range(2 * self.hosts):
            self._made += 1
            yield self.habit(began + number / pace, number // 2, 0.25 * (number % 2) + self._draw.random() / 4)

    def marker(self, at: float, number: int) -> bytes:
        """A record that is surely surprising."""
        target = self.servers + number % 1_000_000
        return record(self.origin + at, f"M{number:09d}", self.hosts + number % MARKED, target, 4444, 50_000_000_000, 100)


class Producer:
    """Sends records round the partitions of a topic, a batch for each."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.traffic = Traffic(load.identities, load.seed, load.origin)
        self.sent = Sent(0, {}, 0.0, load.began, 0.0, 0.0)
        self._producer = AIOKafkaProducer(bootstrap_servers=load.bootstrap, acks=1, linger_ms=0, max_batch_size=1 << 18)
        self._batches: list[Any] = []
        self._left: list[tuple[int, int, float, Any]] = []

    async def run(self) -> Sent:
        """Produce everything."""
        await self._producer.start()
        self._batches = [self._producer.create_batch() for _ in range(self.load.partitions)]
        self.sent.began_at = time.time()
        try:
            if self.load.phases:
                await self._timed()
            else:
                await self._fast()
            await self._producer.flush()
            for partition, many, at, future in self._left:
                self.sent.batches.append(Batch(partition, (await future).offset, many, at))
        finally:
            await self._producer.stop()
        self.sent.ended_at = time.time()
        return self.sent

    async def _fast(self) -> None:
        for number in range(self.load.records):
            self.sent.ended = self.load.began + number / self.load.pace
            await self._put(self.traffic.ordinary(self.sent.ended))
        await self._leave()

    async def _timed(self) -> None:
        began = begin = time.monotonic()
        for rate, seconds in self.load.phases:
            done = 0
            while done < int(rate * seconds):
                turn = time.monotonic()
                due = int(rate * min(turn - begin, seconds))
                self.sent.late = max(self.sent.late, (due - done) / rate - TURN)
                self.sent.ended = self.load.began + (turn - began) * self.load.speed
                for _ in range(due - done):
                    await self._put(self.traffic.ordinary(self.sent.ended))
                done = due
                if len(self.sent.markers) < int(self.load.markers * (turn - began)):
                    await self._mark()
                await self._leave()
                await asyncio.sleep(max(turn + TURN - time.monotonic(), 0))
            begin += seconds

    async def _mark(self) -> None:
        number = self.load.first + len(self.sent.markers)
        await self._put(self.traffic.marker(self.sent.ended, number))
        self.sent.markers[number] = time.time()

    async def _put(self, record: bytes) -> None:
        """Put a record into the next partition's batch; where that is full, all leave before."""
        partition = self.sent.records % self.load.partitions
        if self._batches[partition].append(key=None, value=record, timestamp=None) is None:
            await self._leave()
            self._batches[partition].append(key=None, value=record, timestamp=None)
        self.sent.records += 1

    async def _leave(self) -> None:
        for partition, batch in enumerate(self._batches):
            if many := batch.record_count():
                at = time.time()
                future = await self._producer.send_batch(batch, self.load.topic, partition=partition)
                if self.load.phases:
                    self._left.append((partition, many, at, future))
                self._batches[partition] = self._producer.create_batch()


async def _produced(load: Load) -> Sent:
    return await Producer(load).run()


def main() -> None:
    """Produce what is asked for."""
    load = msgspec.json.decode(sys.argv[1], type=Load)
    sent = asyncio.run(_produced(load))
    sys.stdout.write(msgspec.json.encode(sent).decode() + "\n")


if __name__ == "__main__":
    main()
