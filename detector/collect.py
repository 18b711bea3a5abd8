"""Ingest as a process: raw topics in, one block for each partition of actors out; dead letters, bindings and ticks beside them.

At least once: an offset is committed when everything made of what came before has arrived. What is sent again after a crash carries the
same offsets and goes to the same partitions (``detector.agreed`` sees to that), so that the stages know it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError

from connectors.kafka import KafkaError
from connectors.names import Names
from connectors.sources import Source, available
from connectors.sources.table import Table, read_mapping
from connectors.status import Lag, Lost, Message, SourceStatus
from connectors.wire import Control, encode_control
from detector.agreed import Agreed, Gone, Mark, Said, key_of
from detector.follow import following, to_the_end
from detector.intake import Intake, steps
from detector.keeper import Fenced
from detector.lane import Counted, Lane
from detector.process import REFUSED, Beat, Halt, Process
from detector.sender import Letter
from detector.takeover import AHEAD, KNOWN, agreed_to, heard, made_anew, ran_back, taken_over

log = logging.getLogger("tocsin.ingest")

#: Records of one poll at most. Decoding them takes some 20 ms, which is what everyone behind them waits.
POLL = 4_000
#: Seconds between two commits. Nothing waits for one, unless bindings take effect with it.
COMMIT = 0.5
#: Times the lateness of waking that is waited besides ``worker.linger_ms``, and the longest wait for its sake, seconds.
SCARCE, LONGEST_LINGER = 6.0, 0.03


class Collector(ConsumerRebalanceListener):  # type: ignore[misc]
    """Reads the raw topics of this process's share and sends events on."""

    name = "ingest"

    def __init__(self, process: Process) -> None:
        self.process = process
        self.config = process.config
        self.topics = process.topics
        self.partitions = process.kafka.partitions
        self.names = Names()
        self.lanes: dict[TopicPartition, Lane] = {}
        self.agreed = Agreed(self.config.limits.bindings)
        self.sources = {raw.topic: (raw.source, self._source(raw.source)) for raw in process.kafka.raw}
        self._lock = asyncio.Lock()
        self.intake = Intake(process, self.names)
        #: How often logs were given to this process.
        self._turn = 0
        self._committed_at = self._proved_at = 0.0
        self._control = Control()
        #: The ids that raw topics had when they were first read.
        self._known: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = self._joined = False

    def _source(self, name: str) -> Source:
        if name.endswith(".toml"):
            return Table(self.names, read_mapping(Path(name)))
        return available()[name](self.names)

    async def start(self) -> None:
        """See ``detector.process.Service``."""
        worker, kafka = self.config.worker, self.process.kafka
        if not self.sources:
            raise KafkaError("kafka.raw: names no topic, so there is nothing to read")
        self.agreed = await agreed_to(self.process, -1)
        # Also what someone was to take back who has ended before.
        self._take_back(None)
        for message in (await to_the_end(self.process.client, self.topics.control))[0]:
            if message.key.startswith(KNOWN):
                self._known[message.key.removeprefix(KNOWN).decode()] = message.value.decode()
            else:
                self._control = _control(message.value)
        self._tail = await following(self.process.client, {self.topics.bindings: self.agreed.read, self.topics.control: 0})
        self._consumer = AIOKafkaConsumer(
            group_id=f"{kafka.prefix}.ingest",
            group_instance_id=f"{self.process.instance}-ingest" if self.process.instance else None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            # What was given back from the dead letters counts when it counts, and once.
            isolation_level="read_committed",
            session_timeout_ms=round(worker.session_seconds * 1000),
            heartbeat_interval_ms=round(worker.session_seconds * 200),
            max_poll_interval_ms=600_000,
            max_partition_fetch_bytes=4 << 20,
            fetch_max_wait_ms=100,
            **self.process.client,
        )
        await self._consumer.start()
        self._consumer.subscribe(list(self.sources), listener=self)
        self._tasks = [asyncio.create_task(self._guarded(each)) for each in (self._read(), self._follow(), self._tick())]

    async def stop(self) -> None:
        """See ``detector.process.Service``."""
        self._stopping = True
        async with self._lock:
            await self._commit(move=False, clean=True)
            self.lanes.clear()
        for task in self._tasks:
            task.cancel()

    async def leave(self) -> None:
        """See ``detector.process.Service``."""
        await self._consumer.stop()
        await self._tail.stop()

    def ready(self) -> dict[str, str]:
        """See ``detector.process.Service``. A log without records is open as well."""
        return {} if self._joined else {"ingest": "the broker has not said yet which logs are its"}

    def beat(self) -> Beat:
        """See ``detector.process.Service``. Brings the metrics up to date as well."""
        rows = 0
        more: list[Message] = []
        behind: dict[str, Lag] = {}
        for tp, lane in self.lanes.items():
            lane_lag = self._lag(tp, lane)
            self.process.metrics.lag(tp.topic, tp.partition, lane_lag.records, lane_lag.seconds)
            behind[tp.topic] = max(behind.get(tp.topic, lane_lag), lane_lag, key=lambda each: (each.seconds, each.records))
            counted, lane.counted = lane.counted, Counted()
            rows += counted.events
            more.append(
                SourceStatus(
                    process=self.process.name,
                    topic=tp.topic,
                    source=lane.source_name,
                    records=counted.records,
                    rejects=counted.rejects,
                    last_event=lane.last_event,
                    last_arrival=lane.last_arrival,
                )
            )
        return Beat([f"{tp.topic}/{tp.partition}" for tp in self.lanes], behind, rows, 0, more)

    def _lag(self, tp: TopicPartition, lane: Lane) -> Lag:
        end = self._consumer.highwater(tp) if lane.begun else None
        records = max((end or 0) - lane.position, 0)
        age = time.time() - lane.last_arrival / 1e6
        return Lag(records=records, seconds=max(age, 0.0) if records and lane.last_arrival else 0.0)

    async def _guarded(self, work: Any) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.process.fail(error)

    # Membership

    async def on_partitions_revoked(self, revoked: list[TopicPartition]) -> None:
        """Leave nothing under way."""
        async with self._lock:
            if any(tp in self.lanes for tp in revoked) and not self._stopping:
                try:
                    await self._commit(move=False, clean=True)
                except Exception as error:
                    self.process.fail(error)
            for tp in revoked:
                if self.lanes.pop(tp, None) is not None:
                    self.process.metrics.let_go(tp.topic, tp.partition)

    async def on_partitions_assigned(self, assigned: list[TopicPartition]) -> None:
        """Take over where the last owner was."""
        async with self._lock:
            self._turn += 1
            try:
                begins = await self._consumer.beginning_offsets(assigned) if assigned else {}
                ends = await self._consumer.end_offsets(assigned) if assigned else {}
                spans = {tp: (begins[tp], ends[tp]) for tp in assigned}
                for tp, (lane, mark) in (await taken_over(self.process, self.sources, spans, self.agreed, self._known)).items():
                    self.lanes[tp] = lane
                    if lane.lost:
                        self._lose(lane, lane.committed, lane.position)
                    log.info(f"{tp.topic} {tp.partition}: open at {lane.position}")
                    self.intake.see(mark.clock, mark.wall)
                self._joined = True
            except Exception as error:
                self.process.fail(error)

    # The loops

    async def _follow(self) -> None:
        """Read what others say of who stands behind whom."""
        while True:
            for tp, messages in (await self._tail.getmany(timeout_ms=1_000)).items():
                async with self._lock:
                    for message in messages:
                        if tp.topic != self.topics.control:
                            self._hear(message.offset, heard(message))
                        elif not message.key.startswith(KNOWN):
                            self._govern(_control(message.value))
                    if not self.lanes:
                        # Nobody's rows depend on it; whoever takes a log over looks what was in force for it.
                        self.agreed.advance(self.agreed.read)

    def _hear(self, offset: int, said: Said | Gone) -> None:
        """What someone has said goes to what is shared, and to what lanes keep to that go on where another process was."""
        every = [self.agreed, *(lane.sight.agreed for lane in self.lanes.values())]
        for agreed in {id(each): each for each in every}.values():
            if offset >= agreed.read:
                agreed.add(offset, said)

    def _govern(self, control: Control) -> None:
        """A configuration goes into every partition's log, where it holds from its place on."""
        if control.version >= self._control.version:
            self._control = control
            for partition in range(self.partitions):
                self.intake.put(self.topics.by_actor, partition, encode_control(self.names, control), "by-actor/1")

    async def _read(self) -> None:
        linger, late = self.config.worker.linger_ms / 1000, 0.0
        while True:
            turn = self._turn
            polled = await self._consumer.getmany(timeout_ms=200, max_records=POLL)
            at = time.monotonic()
            async with self._lock:
                if self._stopping:
                    return
                same = turn == self._turn
                if polled:
                    await self._begin(list(polled))
                    await self._look_back(polled, same=same)
                    for step in steps(polled):
                        await self._prove(at)
                        self.intake.take(step, self.lanes)
                        await self.process.out.room()
                        if self._stopping:
                            return
                        at = time.monotonic()
                if same:
                    await self._pass_over()
                await self._maybe_commit()
            await self.process.out.room()
            # Rows that come just after others wait a little for more to leave with: longer where cores are so scarce that who sleeps
            # wakes late, for then it is the number of messages that keeps everyone waiting.
            now = time.monotonic()
            rest = self.intake.last_put + pause(linger, late) - now
            if polled and rest > 0:
                await asyncio.sleep(rest)
                late += (time.monotonic() - now - rest - late) / 16

    async def _look_back(self, polled: dict[TopicPartition, list[Any]], *, same: bool) -> None:
        """See whether records are missing before what was polled, or the log has run back. ``same``: no logs were given or taken while
        it was polled, so that it goes on where the last poll has ended."""
        for tp, messages in polled.items():
            lane = self.lanes.get(tp)
            if lane is None:
                continue
            first = messages[0].offset
            if same:
                if lane.given is not None and first < lane.given:
                    await self._ran_back(tp, lane.given, first)
                lane.given = messages[-1].offset + 1
            # The marker of a transaction takes an offset; what is wider may be a hole.
            if first > lane.position + 1:
                begin = (await self._consumer.beginning_offsets([tp]))[tp]
                if begin > lane.position:
                    self._lose(lane, lane.position, begin)

    async def _ran_back(self, tp: TopicPartition, read: int, now: int) -> None:
        uuid = (await self.process.uuids([tp.topic])).get(tp.topic, "")
        raise Halt(REFUSED, ran_back(tp, read, now) if uuid == self.lanes[tp].uuid else made_anew(tp.topic, self.lanes[tp].uuid, uuid))

    def _lose(self, lane: Lane, position: int, begin: int) -> None:
        """Say that records are gone that nobody has read."""
        many = begin - position
        log.error(
            f"{lane.topic} {lane.partition}: {many} records are lost: it was read up to {position}, and the broker has deleted"
            f" everything before {begin}. The topic keeps its records for less time than ingest stood still or was behind"
        )
        self.process.metrics.reject(lane.source_name, "lost", many)
        self.process.say(Lost(process=self.process.name, topic=lane.topic, partition=lane.partition, records=many, begins=begin))

    async def _pass_over(self) -> None:
        """Go past offsets that no record has: markers of transactions, and what was given up with one."""
        for tp, lane in self.lanes.items():
            end = self._consumer.highwater(tp) if lane.begun else None
            if end is not None and lane.position < end:
                # Where it was just given to us it may not have one yet.
                with contextlib.suppress(TimeoutError, IllegalStateError):
                    lane.position = max(lane.position, await asyncio.wait_for(self._consumer.position(tp), 0.1))

    async def _begin(self, polled: list[TopicPartition]) -> None:
        """Write down what is agreed before the first row of a log that nobody has read before."""
        fresh = [tp for tp in polled if tp in self.lanes and not self.lanes[tp].begun]
        if fresh:
            for tp in fresh:
                self.lanes[tp].begun = True
                self.lanes[tp].position = (await self._consumer.beginning_offsets([tp]))[tp]
            await self._commit(move=False)

    async def _prove(self, polled_at: float) -> None:
        """Make sure that what was polled was ours to read. Whoever takes a log over looks where it ends, and resolves up to there as we
        did; what a process reads beyond that, which stood still and does not know that it was taken for dead, must not go out."""
        if polled_at - self._proved_at > self.config.worker.session_seconds / 2:
            # The broker refuses this to one that is no member any more.
            await self._commit(move=False)

    async def _tick(self) -> None:
        """Send every partition its canary, which says at the end of the path that the path is open. To a quiet partition it says what
        time it is as well: as much later than the last event as has passed since it came. A busy one knows that from its events."""
        every = self.config.worker.tick_seconds
        if every == 0:
            return
        while True:
            await asyncio.sleep(every / 4)
            async with self._lock:
                if self.lanes and not self._stopping:
                    self.intake.sing(every)

    # Commits

    async def _maybe_commit(self) -> None:
        passed = time.monotonic() - self._committed_at
        behind = max((lane.position - lane.committed for lane in self.lanes.values()), default=0)
        pending = any(lane.sight.agreed.pending or lane.sight.agreed is not self.agreed for lane in self.lanes.values())
        if pending and passed >= self.config.worker.bindings_seconds:
            await self._commit(move=True)
        elif (behind and passed >= COMMIT) or behind >= AHEAD - POLL:
            await self._commit(move=False)

    async def _commit(self, *, move: bool, clean: bool = False) -> None:
        """Commit what has arrived; with ``move`` what others have said takes effect from here on. Nothing is read meanwhile."""
        self._committed_at = time.monotonic()
        if not self.lanes:
            return
        await self.process.out.settle()
        upto = self.agreed.read if move else self.agreed.position
        free = {tp for tp, lane in self.lanes.items() if lane.begun and lane.position >= lane.hold}
        if move and any(lane.sight.agreed is self.agreed and tp not in free for tp, lane in self.lanes.items() if lane.begun):
            # What is shared may not move under one who still reads what the last owner has read.
            upto, move = self.agreed.position, False
        offsets = {}
        for tp, lane in self.lanes.items():
            if lane.begun:
                bindings = upto if tp in free and (move or lane.sight.agreed is self.agreed) else lane.sight.agreed.position
                mark = Mark(
                    bindings=bindings,
                    uuid=lane.uuid,
                    clean=clean,
                    clock=self.intake.clock,
                    wall=self.intake.wall,
                )
                offsets[tp] = (lane.position, msgspec.json.encode(mark).decode())
        if offsets:
            began = time.monotonic()
            try:
                await self._consumer.commit(offsets)
            except CommitFailedError as error:
                raise Fenced("this process was taken for gone, and what it read is read by others by now") from error
            self._proved_at = began
        if move:
            self.agreed.advance(upto)
            self._take_back({lane.name for lane in self.lanes.values()})
        for tp, lane in self.lanes.items():
            if lane.begun:
                lane.committed = lane.position
                if move and tp in free:
                    lane.sight.follow(self.agreed)

    def _take_back(self, logs: Collection[str] | None) -> None:
        """Have the topic forget what the map has let go of; of all that is due only what had to go for a binding of one of ``logs``."""
        owed = self.agreed.owed
        for gone in [each for each, log in owed.items() if logs is None or log in logs]:
            del owed[gone]
            self.process.out.put(Letter(self.topics.bindings, 0, key_of(*gone), None, "binding/1"))


def pause(linger: float, late: float) -> float:
    """How long rows wait for more to leave with, seconds; ``late``: by how much who sleeps wakes late."""
    return max(linger, min(linger + SCARCE * late, LONGEST_LINGER))


def _control(data: bytes) -> Control:
    try:
        return msgspec.json.decode(data, type=Control)
    except msgspec.MsgspecError as error:
        raise Halt(REFUSED, f"the control topic holds what is no configuration: {error}") from error
