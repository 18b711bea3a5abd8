"""The Faust shell of the stages: blocks come in by Faust's agents, go through a stage, and leave by the sender; state is ours.

Faust carries the messages and the membership; it acknowledges nothing. Where a partition stands is in its checkpoint, and the offset of
its input is committed in the same transaction. An agent that raises would swallow its message and go on, so nothing ever raises in one:
whatever goes wrong ends the process, and the supervisor starts it again from the last checkpoint.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

from aiokafka import TopicPartition
from faust.types import TP

from connectors import ocsf
from connectors.alert import Alert
from connectors.deadletter import LETTER_SCHEMA, DeadLetter, encode
from connectors.status import Canary, Lag, Message, Newcomers
from connectors.wire import REPLAYED, WireError
from detector.engine import app_of, fault
from detector.judges import FuseStage
from detector.messages import Joined
from detector.part import Part, opened, still_there
from detector.process import AGAIN, REFUSED, Beat, Halt, Process
from detector.sender import Letter
from detector.stage import Note, Out, Shared, Taken
from detector.waiting import RUN_BYTES, Waiting

log = logging.getLogger("tocsin.worker")

#: A block at which a stage has crashed so often is not tried again.
CRASHES = 3
#: Seconds that a checkpoint is written without haste, at most, and of the time until the next one.
LEISURE, LEISURELY = 60.0, 0.5
#: The schema of each topic's messages.
SCHEMAS = {"by_object": "by-object/1", "evidence": "evidence/2", "budget": "budget/1", "status": "status/1", "alerts": "ocsf-2004/1"}


class Worker:
    """One stage in a process."""

    def __init__(self, process: Process, stage: str) -> None:
        self.name = stage
        self.process = process
        self.config = process.config
        self.partitions = process.kafka.partitions
        topics = process.topics
        self.reads = topics.read_by(stage)
        self.metrics = process.metrics
        self.writes = {"by_object": topics.by_object, "evidence": topics.evidence, "budget": topics.budget, "alerts": topics.alerts}
        self.group = f"{process.kafka.prefix}.{stage}"
        self.shared = Shared(self.partitions)
        self.shared.router.message_bytes = process.kafka.message_bytes
        self.parts: dict[int, Part] = {}
        self._waiting = Waiting()
        self._evidence = Joined()
        self._opening: dict[int, asyncio.Lock] = {}
        self._assigned: set[int] = set()
        self._stopping = self._joined = False
        #: Rows, repeats, late rows and new identities of partitions that were let go since the last heartbeat.
        self._gone = (0, 0, 0, 0)
        self._flushed = 0.0
        self._flush_due: asyncio.TimerHandle | None = None
        self.app = app_of(process, stage, self.group)
        topic = self.app.topic(self.reads, value_serializer="raw", acks=False)
        self.app.agent(topic, name=f"{self.group}.agent")(self._consume)
        self.app.on_partitions_assigned.connect(self._on_assigned, weak=False)
        self.app.on_partitions_revoked.connect(self._on_revoked, weak=False)

    async def start(self) -> None:
        """See ``Service``."""
        self.app.finalize()
        # Before: one that its group refuses would never have started.
        self._looking = asyncio.create_task(self._look_after())
        self._working = asyncio.create_task(self._work())
        await self.app.maybe_start()

    async def stop(self) -> None:
        """See ``Service``."""
        self._stopping = True
        # All at once: each is a transaction of its own, and most of the time is spent on waiting for the broker.
        await asyncio.gather(*(self._release(partition) for partition in list(self.parts)))

    async def leave(self) -> None:
        """See ``Service``."""
        await self.app.stop()

    def ready(self) -> dict[str, str]:
        """See ``Service``."""
        if not self._joined:
            return {self.name: "the broker has not said yet which partitions are its"}
        return {f"{self.reads}/{each}": "its state is being read" for each in sorted(self._assigned) if each not in self.parts}

    def beat(self) -> Beat:
        """See ``Service``. Brings the metrics up to date as well."""
        metrics, name = self.metrics, self.name
        (rows, repeats, late, fresh), self._gone = self._gone, (0, 0, 0, 0)
        known = 0
        worst = Lag(records=0, seconds=0.0)
        for partition, part in self.parts.items():
            more_rows, more_repeats, more_late, more_fresh = part.since()
            rows, repeats, late, fresh = rows + more_rows, repeats + more_repeats, late + more_late, fresh + more_fresh
            known += part.stage.identities
            lag = self._lag(part, partition)
            metrics.lag(self.reads, partition, lag.records, lag.seconds)
            worst = max(worst, lag, key=lambda each: (each.seconds, each.records))
        metrics.late.labels(name).inc(late)
        metrics.visits.labels(name).inc(rows)
        metrics.repeats.labels(name).inc(repeats)
        more: list[Message] = [Newcomers(process=self.process.name, stage=name, fresh=fresh, known=known)] if known else []
        opened = [f"{self.reads}/{each}" for each in self.parts]
        return Beat(opened, {self.reads: worst}, rows, repeats, more, len(self._assigned))

    def _lag(self, part: Part, partition: int) -> Lag:
        """How far behind a partition is: nothing where the log's end is not known, or is reached."""
        end = self.app.consumer.highwater(TP(self.reads, partition)) if self.app.consumer is not None else None
        records = max((end or 0) - part.stage.applied, 0)
        return Lag(records=records, seconds=max(time.time() - part.log_time / 1e6, 0.0) if records else 0.0)

    async def _consume(self, stream: Any) -> None:
        async for event in stream.events():
            message = event.message
            await self._waiting.put(message.partition, Note(message.offset, message.value, round(message.timestamp * 1e6)))

    async def _work(self) -> None:
        """Take in what comes, in rounds: what waits of each partition, together. Who is behind does more at once, and catches up."""
        try:
            while True:
                for partition, run in await self._waiting.round():
                    await self._take(partition, run)
                    # The next one may have to be opened first.
                    self._flush_soon(over=False)
                    # The sender and the checkpoints want their turn.
                    await asyncio.sleep(0)
                self._flush_soon()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.process.fail(error)

    async def _take(self, partition: int, run: Sequence[Note]) -> None:
        part = await self._part(partition)
        if part is None:
            return
        async with part.lock:
            at = 0
            while at < len(run) and not part.closed:
                note, many = run[at], 1
                if note.offset > part.stage.applied:
                    await self._take_back(part, partition, note.offset)
                elif note.offset == part.stage.applied:
                    many = part.together(run[at:])
                    if many:
                        await self._folded(part, partition, run[at : at + many])
                    else:
                        self._put_aside(part, partition, note.offset, note.data)
                at += max(many, 1)
        await self.process.out.room()
        self._maybe_save(part, partition)

    async def _take_back(self, part: Part, partition: int, offset: int) -> None:
        """Read again from where the state ends: the message at ``offset`` comes too early. Raises Halt where that place is gone."""
        applied = part.stage.applied
        first, again = part.sought != applied, offset <= part.beyond
        part.beyond = offset
        if first or again:
            if not first:
                # Reading was taken back and did not get there: the log was cut off meanwhile, or made anew.
                await still_there(self.process, TopicPartition(self.reads, partition), applied)
            part.sought = applied
            await self.app.consumer.seek(TP(self.reads, partition), applied)

    async def _folded(self, part: Part, partition: int, run: Sequence[Note]) -> None:
        """Take in messages that follow one another. A fault that the core does not know ends the process; the third for good."""
        stage, at = part.stage, run[0].offset
        try:
            # Without giving way: a copy of the state is taken when all that has come of it is on its way.
            for taken in stage.takes(run):
                self._send(taken, partition)
                at += 1
        except WireError as error:
            part.spoilt = True
            raise Halt(REFUSED, f"{self.reads} {partition} at {at}: {error}. {self._skip(partition, at)}") from error
        except Exception as error:
            part.spoilt = True
            if part.saving is not None:
                # A copy from before, in a transaction of the same producer.
                part.keeper.hurry()
                await part.saving
            upto = max(stage.trying, at)
            crashes = await part.keeper.crashed(at, upto)
            block = f"{self.reads} {partition}: " + (f"the block at {at}" if upto == at else f"one of the blocks at {at} to {upto}")
            if crashes < CRASHES or upto > at:
                log.exception(f"{block}: crash {crashes}")
                raise Halt(AGAIN, f"{block} made the core raise {error!r}") from error
            raise Halt(REFUSED, f"{block} has made the core raise {crashes} times: {error!r}. {self._skip(partition, at)}") from error
        part.taken_bytes += sum(len(note.data) for note in run)
        part.log_time = run[-1].time

    def _put_aside(self, part: Part, partition: int, offset: int, data: bytes) -> None:
        """Pass over a message, as someone has asked for; it goes to the dead letters."""
        letter = DeadLetter(
            reason="skipped",
            message=f"a block that {self.name} was told to skip",
            source=self.name,
            topic=self.reads,
            partition=partition,
            offset=offset,
            raw=data,
        )
        self.process.out.put(Letter(self.process.topics.deadletter, None, None, encode(letter), LETTER_SCHEMA))
        part.stage.applied = offset + 1
        log.warning(f"{self.reads} {partition}: the block at {offset} is skipped, as was asked")

    def _skip(self, partition: int, offset: int) -> str:
        return f"Nothing is lost; to put this block aside and go on: tocsin skip {self.name} {partition} {offset}"

    def _send(self, taken: Taken, partition: int) -> None:
        for out in taken.outs:
            self._put(out)
        for alert in taken.alerts:
            self._alert(alert)
            if taken.arrived:
                self.metrics.latency.observe(max(time.time() - taken.arrived / 1e6, 0.0))
        for tick in taken.ticks:
            self.metrics.ticks.labels(self.name).inc()
            if self.name == FuseStage.name:
                # It has come all the way: the path of its partition is open.
                now = time.time_ns() // 1000
                self.process.say(Canary(process=self.process.name, partition=partition, sent=tick.sent, arrived=now))

    def _put(self, out: Out) -> None:
        if out.topic == "evidence" and out.partition is not None:
            self._evidence.add(out.partition, out.value, alone=out.alone)
        else:
            self._leave(out)

    def _leave(self, out: Out) -> None:
        self.process.out.put(Letter(self.writes[out.topic], out.partition, out.key, out.value, SCHEMAS[out.topic]))

    def _alert(self, alert: Alert) -> None:
        value = ocsf.encode(alert, self.process.version)
        self.metrics.alerts.labels("notice" if alert.notice else alert.line, alert.activity).inc()
        more = ((REPLAYED, b"1"),) if alert.replayed else ()
        self.process.out.put(Letter(self.process.topics.alerts, None, alert.uid.encode(), value, SCHEMAS["alerts"], more))

    def _flush_soon(self, *, over: bool = True) -> None:
        """Send what waits when the linger is over; at once where much does, or the round is ``over`` and nothing has left for long."""
        if not (self.shared.router or self._evidence):
            return
        loop, linger = asyncio.get_running_loop(), self.config.worker.linger_ms / 1000
        wait = self._flushed + linger - loop.time()
        if self.shared.router.full or (over and wait <= 0):
            self._flush()
        elif self._flush_due is None:
            self._flush_due = loop.call_later(wait if wait > 0 else linger, self._flush)

    def _flush(self) -> None:
        if self._flush_due is not None:
            self._flush_due.cancel()
            self._flush_due = None
        self._flushed = asyncio.get_running_loop().time()
        for out in self.shared.flush():
            self._put(out)
        for partition, record in self._evidence.flush(RUN_BYTES):
            self._leave(Out("evidence", partition, None, record))

    async def _part(self, partition: int) -> Part | None:
        """The partition, opened; None where it was taken from us meanwhile."""
        part = self.parts.get(partition)
        if part is not None:
            return part
        async with self._opening.setdefault(partition, asyncio.Lock()):
            if partition not in self.parts and partition in self._assigned and not self._stopping:
                part = await opened(self.process, self.name, partition, self.reads, self.shared)
                if partition not in self._assigned:
                    # Taken from us while it was opened: whoever has it now fences us, and is not to be fenced by us.
                    await part.keeper.close()
                    return None
                # Not all at once: their checkpoints would keep everything else waiting.
                part.saved_at -= self.config.worker.checkpoint_seconds * partition / self.partitions
                self.parts[partition] = part
        return self.parts.get(partition)

    async def _on_assigned(self, _: Any, assigned: Any, **__: Any) -> None:
        self._assigned = {each.partition for each in assigned if each.topic == self.reads}
        self._joined = True
        for partition in sorted(self._assigned):
            asyncio.ensure_future(self._open_early(partition)).add_done_callback(_done)

    async def _open_early(self, partition: int) -> None:
        try:
            await self._part(partition)
        except BaseException as error:
            self.process.fail(error)

    async def _on_revoked(self, _: Any, revoked: Any, **__: Any) -> None:
        gone = {each.partition for each in revoked if each.topic == self.reads}
        self._assigned -= gone
        try:
            await asyncio.gather(*(self._release(partition) for partition in sorted(gone)))
        except BaseException as error:
            self.process.fail(error)

    async def _release(self, partition: int) -> None:
        """Keep what is not kept yet, and let go. Waits where it is being opened, or let go already (the end may meet a rebalance)."""
        async with self._opening.setdefault(partition, asyncio.Lock()):
            part = self.parts.get(partition)
            if part is not None:
                await self._let_go(part, partition)

    async def _let_go(self, part: Part, partition: int) -> None:
        async with part.lock:
            part.closed = True
        if part.saving is not None:
            part.keeper.hurry()
            await part.saving
        if part.stage.applied != part.keeper.saved and not part.spoilt:
            await self._save(part, partition)
        del self.parts[partition]
        rows, repeats, late, fresh = part.since()
        self._gone = (self._gone[0] + rows, self._gone[1] + repeats, self._gone[2] + late, self._gone[3] + fresh)
        self.metrics.let_go(self.reads, partition)
        await part.keeper.close()
        log.info(f"{self.reads} {partition}: let go at {part.keeper.saved}")

    def _maybe_save(self, part: Part, partition: int) -> None:
        worker = self.config.worker
        if part.saving is not None and not part.saving.done():
            return
        if part.stage.applied == part.keeper.saved or part.spoilt:
            return
        due = time.monotonic() - part.saved_at >= worker.checkpoint_seconds or part.taken_bytes >= worker.checkpoint_megabytes * 1e6
        if due and not part.closed and part.stage.quick():
            part.saving = asyncio.create_task(self._saved(part, partition))

    async def _look_after(self) -> None:
        """Each second: does Faust live, and is there a partition to which nothing comes? It has its checkpoint, too: nobody folds again
        what was folded hours ago."""
        while True:
            await asyncio.sleep(1.0)
            try:
                if not self._stopping and (dead := fault(self.app)) is not None:
                    raise Halt(AGAIN, f"{self.reads} cannot be read any more: {dead!r}")
                for partition, part in self.parts.items():
                    self._maybe_save(part, partition)
            except Exception as error:
                self.process.fail(error)
                return

    async def _saved(self, part: Part, partition: int) -> None:
        try:
            await self._save(part, partition, min(LEISURELY * self.config.worker.checkpoint_seconds, LEISURE))
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.process.fail(error)

    async def _save(self, part: Part, partition: int, leisure: float = 0.0) -> None:
        """Take a checkpoint, for ``leisure`` seconds without haste. What is on its way arrives before it counts as done. A state that
        is half changed is left alone; one of which a checkpoint failed is not kept any more, for what was to be written counts as
        written."""
        if part.spoilt:
            return
        began = time.perf_counter()
        # In one step, without giving way: what waits to leave, and the state that has made it.
        self._flush()
        try:
            snapshot = part.keeper.snapshot()
            stall = time.perf_counter() - began
            part.saved_at, part.taken_bytes = time.monotonic(), 0
            await self.process.out.settle()
            wrote = await part.keeper.save(snapshot, TopicPartition(self.reads, partition), leisure)
        except BaseException:
            part.spoilt = True
            raise
        seconds = time.perf_counter() - began
        self.metrics.checkpoint_seconds.labels(self.name).observe(seconds)
        self.metrics.checkpoint_bytes.labels(self.name).observe(wrote)
        log.info(
            f"{self.reads} {partition}: checkpoint at {snapshot.head.applied}",
            extra={"bytes": wrote, "seconds": round(seconds, 3), "stall": round(stall, 4)},
        )


def _done(task: asyncio.Future[None]) -> None:
    if not task.cancelled():
        task.exception()
