"""What ingest makes of a poll: events for the partitions of their actors, bindings, dead letters; and canaries beside them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import msgspec
import numpy as np
from aiokafka import TopicPartition

from connectors.deadletter import DeadLetter, encode
from connectors.event import Block
from connectors.names import Names
from connectors.status import Canary
from connectors.wire import Tick, encode_tick, replayed
from detector.ingest import restart
from detector.lane import Lane, Taken, decoded, too_large
from detector.process import Process
from detector.router import by_actor, fitting, most_coming, most_rows, pieces
from detector.sender import Letter

#: Bytes of records that are decoded in one step, at most: what comes of them is in memory several times over.
STEP_BYTES = 2 << 20


class Intake:
    """Decodes, resolves, sends on. ``clock``: the latest event time, ``wall``: when it was seen, microseconds; ``last_put``: when rows
    were sent last, seconds of a clock that only goes forward."""

    def __init__(self, process: Process, names: Names) -> None:
        self.process = process
        self.config = process.config
        self.topics = process.topics
        self.partitions = process.kafka.partitions
        self.names = names
        self.clock = self.wall = 0
        self.last_put = 0.0
        # The logs of what is being sent; for each partition when it was last written to, and when it last had a canary.
        self._logs: list[str] = []
        self._wrote = [0.0] * self.partitions
        self._sang = [0.0] * self.partitions
        self._most_rows = most_rows(process.kafka.message_bytes, self.config.asked_of_actors())
        self._most_bytes = most_coming(process.kafka.message_bytes)

    def take(self, polled: dict[TopicPartition, list[Any]], lanes: Mapping[TopicPartition, Lane]) -> None:
        """Decode, resolve, route: everything of a step."""
        if self.names.full:
            restart(self.names, [])
        blocks: list[Block] = []
        arrived = 0
        self._logs = []
        for tp in sorted(polled):
            lane = lanes.get(tp)
            if lane is None:
                continue
            messages = polled[tp]
            if messages and messages[0].offset < lane.position:
                messages = [message for message in messages if message.offset >= lane.position]
            if not messages:
                continue
            taken = decoded(lane, messages, self.config.worker.ahead_minutes)
            self._count(lane, taken)
            for letter in taken.letters:
                self.put(self.topics.deadletter, None, encode(letter), "deadletter/1")
            for said in taken.said:
                lane.sight.say(said, bound=True)
                self.process.out.put(Letter(self.topics.bindings, 0, said.key, msgspec.msgpack.encode(said), "binding/1"))
            lane.position = messages[-1].offset + 1
            if len(taken.block):
                taken.block.partition[:] = len(self._logs)
                self._logs.append(lane.name)
                if taken.replayed:
                    taken.block.partition[np.isin(taken.block.record, taken.replayed)] = len(self._logs)
                    self._logs.append(replayed(lane.name))
                blocks.append(taken.block)
                arrived = min(arrived or taken.arrived, taken.arrived)
                self.see(int(taken.block.time.max()), time.time_ns() // 1000)
        if not blocks:
            return
        for piece, part in pieces(Block.concat(blocks), self._most_rows):
            self._send(piece, part, arrived, polled, lanes)
        self.last_put = time.monotonic()

    def _send(
        self, piece: Block, part: int, arrived: int, polled: dict[TopicPartition, list[Any]], lanes: Mapping[TopicPartition, Lane]
    ) -> None:
        """Send rows on; records of which rows fit into no message go to the dead letters."""
        route = partial(by_actor, partitions=self.partitions)
        messages, large = fitting(piece, tuple(self._logs), arrived, self._most_bytes, route, part)
        for partition, data in messages:
            self.put(self.topics.by_actor, partition, data, "by-actor/1")
            self._wrote[partition] = time.monotonic()
        for name, offset in large:
            tp, lane = next((tp, lane) for tp, lane in lanes.items() if name in (lane.name, replayed(lane.name)))
            record = next(message for message in polled[tp] if message.offset == offset)
            letter = too_large(lane, record, self._most_bytes)
            self.put(self.topics.deadletter, None, encode(letter), "deadletter/1")
            self._reject(lane, letter)

    def _count(self, lane: Lane, taken: Taken) -> None:
        self.process.metrics.events.labels(lane.source_name).inc(len(taken.block))
        lane.counted.events += len(taken.block)
        lane.counted.records += taken.good
        for letter in taken.letters:
            self._reject(lane, letter)

    def _reject(self, lane: Lane, letter: DeadLetter) -> None:
        self.process.metrics.dead_letters.labels(lane.source_name).inc()
        self.process.metrics.reject(lane.source_name, letter.reason)
        lane.counted.rejects[letter.reason] = lane.counted.rejects.get(letter.reason, 0) + 1

    def see(self, latest: int, wall: int) -> None:
        """The latest event time, and when it was seen."""
        if latest > self.clock:
            self.clock, self.wall = latest, wall

    def put(self, topic: str, partition: int | None, value: bytes, what: str) -> None:
        """Send a message."""
        self.process.out.put(Letter(topic, partition, None, value, what))

    def sing(self, every: float) -> None:
        """Send every partition whose turn it is its canary, which says at the end of the path that the path is open. To a quiet one it
        says what time it is as well: as much later than the last event as has passed since it came. A busy one has its events."""
        wall, now = time.time_ns() // 1000, time.monotonic()
        for partition in range(self.partitions):
            quiet = bool(self.clock) and now - self._wrote[partition] >= every
            if not quiet and now - self._sang[partition] < every:
                continue
            clock = self.clock + max(wall - self.wall, 0) if quiet else 0
            tick = encode_tick(self.names, Tick(clock, wall, self.process.name))
            self.put(self.topics.by_actor, partition, tick, "by-actor/1")
            self.process.say(Canary(process=self.process.name, partition=partition, sent=wall))
            self._sang[partition] = now
            if quiet:
                self._wrote[partition] = now


def steps(polled: dict[TopicPartition, list[Any]]) -> Iterator[dict[TopicPartition, list[Any]]]:
    """What was polled in parts of ``STEP_BYTES`` at most, or of one larger record; the records of a log stay in order."""
    if sum(len(message.value or b"") for messages in polled.values() for message in messages) <= STEP_BYTES:
        yield polled
        return
    step: dict[TopicPartition, list[Any]] = {}
    size = 0
    for tp in sorted(polled):
        for message in polled[tp]:
            more = len(message.value or b"")
            if step and size + more > STEP_BYTES:
                yield step
                step, size = {}, 0
            step.setdefault(tp, []).append(message)
            size += more
    if step:
        yield step
